import type { Answer, Asking, Fields } from '../forward/exchange.ts'
import { percentEncoded } from '../forward/reply.ts'

/** What all bodies that are being collected may hold together. */
export interface Budget {
  readonly bytesMax: number
  bytes: number
}

/** A request of which the whole body is wanted before anything is done. */
export interface Collecting {
  readonly answer: Answer
  readonly bytesMax: number
  readonly budget: Budget
  /** The body has come. It counts until `release` is called. */
  readonly done: (body: Buffer, release: () => void) => void
  /** It is larger than that, or there is no room for it now; the rest of it is thrown away. */
  readonly refused: (why: 'tooLarge' | 'noRoom') => void
  /** The caller went, at any time. */
  readonly gone: () => void
}

/** Collects the body, acknowledging as it comes: the limits bound what is held. */
export const collect = ({ answer, bytesMax, budget, done, refused, gone }: Collecting, last: boolean): Asking => {
  const chunks: Buffer[] = []
  let bytes = 0
  let isOver = false
  const release = (): void => {
    budget.bytes -= bytes
    bytes = 0
  }
  const finish = (): void => {
    if (isOver) return
    isOver = true
    done(Buffer.concat(chunks), release)
  }
  const refuse = (why: 'tooLarge' | 'noRoom'): void => {
    isOver = true
    release()
    refused(why)
  }
  if (last) queueMicrotask(finish) // who opens a request has no way to be answered yet
  return {
    data: (chunk, isLast) => {
      if (isOver) return
      if (bytes + chunk.length > bytesMax) return refuse('tooLarge')
      if (budget.bytes + chunk.length > budget.bytesMax) return refuse('noRoom')
      bytes += chunk.length
      budget.bytes += chunk.length
      chunks.push(Buffer.from(chunk))
      answer.consumed(chunk.length)
      if (isLast) finish()
    },
    trailers: finish,
    abort: () => {
      if (!isOver) release()
      isOver = true
      gone()
    },
    consumed: () => {},
  }
}

/** A message, or none, and a status: the whole answer to a unary call. */
export const answerGrpc = (answer: Answer, status: number, says: string, message?: Buffer): void => {
  const trailers: Fields = ['grpc-status', `${status}`, ...(says === '' ? [] : ['grpc-message', percentEncoded(says)])]
  const head: Fields = ['content-type', 'application/grpc']
  if (message === undefined) return answer.head({ status: 200, reason: '', fields: [...head, ...trailers] }, true)
  answer.head({ status: 200, reason: '', fields: head }, false)
  answer.data(message, false)
  answer.trailers(trailers)
}

/** A whole answer in plain HTTP. */
export interface PlainAnswer {
  readonly status: number
  readonly type?: string
  readonly body?: Buffer
  readonly fields?: Fields
}

/** Writes it. */
export const answerHttp = (
  answer: Answer,
  method: string,
  { status, type, body = NOTHING, fields = [] }: PlainAnswer,
) => {
  const about: Fields = body.length === 0 || type === undefined ? [] : ['content-type', type]
  const isEmpty = method === 'HEAD' || status === 204 || body.length === 0
  const length: Fields = status === 204 ? [] : ['content-length', `${body.length}`]
  answer.head({ status, reason: '', fields: [...fields, ...about, ...length], length: body.length }, isEmpty)
  if (!isEmpty) answer.data(body, true)
}

const NOTHING = Buffer.alloc(0)
