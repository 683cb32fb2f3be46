import type { ServerHttp2Stream } from 'node:http2'
import { EMPTY_GRPC_MESSAGE } from '../callback/wire.ts'
import type { Clock } from '../net/clock.ts'
import { endEarly, endWith } from './streamEnd.ts'

/** Ping, as it is being answered. */
export interface Pinging {
  /** Ends it in good order. */
  finish(): void
}

/** Answers DaprAppChannelCallback/Ping: an Empty at once, and then one each period, until either side ends it. */
export const answerPing = (
  stream: ServerHttp2Stream,
  clock: Clock,
  periodMs: number,
  endedByProxy: () => void,
): Pinging => {
  let isOver = false
  const finish = () => {
    if (isOver) return
    isOver = true
    cancel()
    if (stream.destroyed) return
    endEarly(stream)
    stream.end()
  }
  const tell = () => {
    if (stream.writableNeedDrain === false) stream.write(EMPTY_GRPC_MESSAGE) // a proxy that reads none needs no more
    cancel = clock.after(periodMs, tell)
  }
  let cancel = () => {}
  stream.on('error', () => {}) // 'close' follows
  const ended = () => {
    if (!isOver) endedByProxy()
    finish()
  }
  stream.on('end', ended)
  stream.on('close', ended)
  stream.resume()
  stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
  endWith(stream, () => ({ 'grpc-status': '0' }))
  tell()
  return { finish }
}
