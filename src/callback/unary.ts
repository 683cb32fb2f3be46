import type { Answer, Asking, Fields } from '../forward/exchange.ts'
import { percentEncoded } from '../forward/reply.ts'

/** A request of which the whole body is wanted before anything is done. */
export interface Collecting {
  readonly answer: Answer
  readonly bytesMax: number
  /** The body has come. */
  readonly done: (body: Buffer) => void
  /** It is larger than that; the rest of it is thrown away. */
  readonly tooLarge: () => void
  /** The caller went. */
  readonly gone: () => void
}

/** Collects the body, acknowledging as it comes: `bytesMax` bounds what is held. */
export const collect = ({ answer, bytesMax, done, tooLarge, gone }: Collecting, last: boolean): Asking => {
  const chunks: Buffer[] = []
  let bytes = 0
  let isOver = false
  const finish = (): void => {
    if (isOver) return
    isOver = true
    done(Buffer.concat(chunks))
  }
  if (last) queueMicrotask(finish) // who opens a request has no way to be answered yet
  return {
    data: (chunk, isLast) => {
      if (isOver) return
      bytes += chunk.length
      if (bytes > bytesMax) {
        isOver = true
        return tooLarge()
      }
      chunks.push(Buffer.from(chunk))
      answer.consumed(chunk.length)
      if (isLast) finish()
    },
    trailers: finish,
    abort: () => {
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
export const answerHttp = (answer: Answer, method: string, status: number, body: Buffer, type: string): void => {
  const about: Fields = body.length === 0 ? [] : ['content-type', type]
  const isEmpty = method === 'HEAD' || status === 204 || body.length === 0
  const length: Fields = status === 204 ? [] : ['content-length', `${body.length}`]
  answer.head({ status, reason: '', fields: [...about, ...length], length: isEmpty ? 0 : body.length }, isEmpty)
  if (!isEmpty) answer.data(body, true)
}
