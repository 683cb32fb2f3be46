import type { Answer, Asking, Fields, RequestHead } from '../forward/exchange.ts'
import { fieldOf } from '../forward/fields.ts'
import { grpcMessage } from './wire.ts'

/** Calls an app over one of its channels. */
export type Call = (app: string, head: RequestHead, last: boolean, answer: Answer) => Asking

/** What came of a unary call: the message, or a status and words of gRPC. */
export type AppAnswer =
  | { readonly is: 'message'; readonly message: Buffer; readonly fields: Fields }
  | { readonly is: 'status'; readonly status: number; readonly says: string }

/** Which method, with which message and metadata. */
export interface AppCall {
  readonly app: string
  readonly path: string
  readonly message: Uint8Array
  readonly metadata: Fields
}

const CANCEL = 8
const PREFIX_BYTES = 5
const INTERNAL = 13
const UNKNOWN = 2

/** Calls a unary method of an app. `done` is called once, unless the returned function is called before. */
export const callApp = (
  call: Call,
  { app, path, message, metadata }: AppCall,
  done: (answer: AppAnswer) => void,
): (() => void) => {
  const head: RequestHead = {
    ...{ method: 'POST', scheme: 'http', authority: app, target: path, version: '2' },
    fields: ['content-type', 'application/grpc', 'te', 'trailers', ...metadata],
  }
  let isOver = false
  let fields: Fields = []
  const chunks: Buffer[] = []
  const end = (trailers: Fields): void => {
    if (isOver) return
    isOver = true
    done(answerOf(trailers, fields, Buffer.concat(chunks)))
  }
  const asking = call(app, head, false, {
    information: () => {},
    head: (response, last) => {
      fields = response.fields
      if (last) end(response.fields)
    },
    // The channel bounds how large a message may be.
    data: (chunk, last) => {
      chunks.push(Buffer.from(chunk))
      asking.consumed(chunk.length)
      if (last) end([])
    },
    trailers: end,
    abort: () => end(['grpc-status', `${UNKNOWN}`, 'grpc-message', 'the app reset the call']),
    consumed: () => {},
  })
  asking.data(grpcMessage(message), true)
  return () => {
    if (isOver) return
    isOver = true
    asking.abort(CANCEL)
  }
}

const answerOf = (trailers: Fields, fields: Fields, body: Buffer): AppAnswer => {
  const status = Number(fieldOf(trailers, 'grpc-status') ?? UNKNOWN)
  if (status !== 0) return { is: 'status', status, says: decoded(fieldOf(trailers, 'grpc-message') ?? '') }
  const isOne = body.length >= PREFIX_BYTES && body[0] === 0 && body.readUInt32BE(1) === body.length - PREFIX_BYTES
  if (!isOne) return { is: 'status', status: INTERNAL, says: 'the app did not answer with one plain message' }
  return { is: 'message', message: body.subarray(PREFIX_BYTES), fields }
}

/** grpc-message is percent-encoded; what is not is shown as it is. */
const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
