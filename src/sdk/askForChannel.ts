import { type ClientHttp2Session, connect, type IncomingHttpHeaders } from 'node:http2'
import type { Duplex } from 'node:stream'
import {
  APP_ID_HEADER,
  CALLBACK_HEADER,
  CONNECT_PATHS,
  type ConnectAnswer,
  decodeConnectAnswer,
  EMPTY_GRPC_MESSAGE,
  TOKEN_HEADER,
  unaryMessage,
} from '../callback/wire.ts'
import { ProtocolError } from '../net/protocolError.ts'

const UNIMPLEMENTED = 12
const BODY_BYTES_MAX = 65_536 // of an answer that should have 48

/** gRPC's own mapping, for an answer without a grpc-status: the asked one may be no gRPC server. */
const STATUS_OF_HTTP: Readonly<Record<number, number>> = {
  400: 13,
  401: 16,
  403: 7,
  404: 12,
  429: 14,
  502: 14,
  503: 14,
  504: 14,
}
const NAMES =
  'OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED'.split(
    ' ',
  )

/** Who asks, and whom. */
export interface Asker {
  readonly scheme: 'http' | 'https'
  readonly authority: string
  readonly appId?: string | undefined
  readonly token?: string | undefined
}

/** `heard`: an answer came, even if it was no. Whoever has dialled the channel releases the connection that was asked. */
export type Answer =
  | { readonly is: 'answer'; readonly answer: ConnectAnswer; readonly release: () => void }
  | { readonly is: 'refused'; readonly because: string; readonly heard: boolean }

/** Asks the proxy for a channel, over a connection to its API, which it takes over, until the signal fires. */
export const askForChannel = async (stream: Duplex, asker: Asker, signal: AbortSignal): Promise<Answer> => {
  let lost: Error | undefined
  const session = connect(`${asker.scheme}://${asker.authority}`, { createConnection: () => stream })
  session.on('error', (error) => (lost ??= error))
  const stop = () => session.destroy()
  signal.addEventListener('abort', stop)
  let keep = false
  try {
    if (signal.aborted) return unheard(lost, signal)
    for (const path of CONNECT_PATHS) {
      const reply = await call(session, path, asker)
      if (reply === undefined) return unheard(lost, signal)
      if (reply.status === UNIMPLEMENTED && path !== CONNECT_PATHS.at(-1)) continue
      if (reply.status !== 0) return refusal(reply.status, reply.message)
      const answer = decodeConnectAnswer(unaryMessage(reply.body))
      keep = true
      return { is: 'answer', answer, release: () => session.destroy() }
    }
    return refusal(UNIMPLEMENTED, '')
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error
    return { is: 'refused', because: `the proxy's answer is wrong: ${error.message}`, heard: true }
  } finally {
    signal.removeEventListener('abort', stop)
    if (!keep) session.destroy()
  }
}

const unheard = (lost: Error | undefined, signal: AbortSignal): Answer =>
  signal.aborted
    ? { is: 'refused', because: 'the proxy does not answer', heard: false }
    : { is: 'refused', because: `the proxy closed the connection${lost ? `: ${lost.message}` : ''}`, heard: true }

const refusal = (status: number, message: string): Answer => ({
  is: 'refused',
  because: `the proxy refuses a channel: ${NAMES[status] ?? status}${message && `: ${message}`}`,
  heard: true,
})

interface Reply {
  readonly status: number
  readonly message: string
  readonly body: Buffer
}

/** One unary call. Undefined when the stream closed before its answer: a session that dies says no more than that. */
const call = (session: ClientHttp2Session, path: string, asker: Asker): Promise<Reply | undefined> =>
  new Promise((resolve) => {
    if (session.destroyed || session.closed) return resolve(undefined)
    const stream = session.request({
      ':method': 'POST',
      ':path': path,
      ':authority': asker.authority,
      'content-type': 'application/grpc',
      te: 'trailers',
      [CALLBACK_HEADER]: '1',
      ...(asker.appId !== undefined && { [APP_ID_HEADER]: asker.appId }),
      ...(asker.token !== undefined && { [TOKEN_HEADER]: asker.token }),
    })
    let head: IncomingHttpHeaders & { ':status'?: number | undefined } = {}
    let trailers: IncomingHttpHeaders = {}
    const chunks: Buffer[] = []
    let size = 0
    stream.on('response', (headers) => (head = headers))
    stream.on('trailers', (headers) => (trailers = headers))
    stream.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size <= BODY_BYTES_MAX) chunks.push(chunk)
      else stream.close()
    })
    stream.on('error', () => {}) // 'close' follows, with or without it
    stream.on('close', () => {
      const http = head[':status']
      if (http === undefined) return resolve(undefined)
      const status = trailers['grpc-status'] ?? head['grpc-status']
      const message = `${trailers['grpc-message'] ?? head['grpc-message'] ?? (http === 200 ? '' : `HTTP status ${http}`)}`
      resolve({
        status: status === undefined ? (http === 200 ? 13 : (STATUS_OF_HTTP[http] ?? 2)) : Number(status),
        message: decoded(message),
        body: Buffer.concat(chunks),
      })
    })
    stream.end(EMPTY_GRPC_MESSAGE)
  })

/** grpc-message is percent-encoded. */
const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
