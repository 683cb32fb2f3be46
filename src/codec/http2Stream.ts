import { connectionError, ERROR, type ErrorName, FRAME } from './http2Codes.ts'
import { earnReset, spendChatter, spendReset } from './http2Patience.ts'
import { isAnswered, releaseUnread } from './http2Send.ts'
import { closeStream, type Http2, howClosed, rememberClosed, type Stream } from './http2State.ts'

/** Whether the peer may still send on it. */
export const isRemoteOpen = <O>(stream: Stream<O>): boolean =>
  stream.state === 'open' || stream.state === 'halfClosedLocal'

/**
 * The peer's half is over (RFC 9113 5.1). What of a response still waits for its reader is at most one window, and no
 * longer counts against the connection: who reads it may have forgotten the stream by then.
 */
export const endRemote = <O>(h2: Http2<O>, stream: Stream<O>): void => {
  if (h2.role === 'client') releaseUnread(h2, stream)
  if (stream.state === 'open') stream.state = 'halfClosedRemote'
  else if (stream.state === 'halfClosedLocal') {
    if (!isAnswered(h2, stream)) earnReset(h2.patience)
    closeStream(h2, stream, 'ended')
    releaseUnread(h2, stream)
  }
}

/** A stream error (RFC 9113 5.4.2): the stream is reset and its owner told, the connection lives on. */
export const streamError = <O>(h2: Http2<O>, stream: Stream<O>, name: ErrorName, why: string): void => {
  spendReset(h2.patience, `stream errors (${why})`)
  h2.output.number(FRAME.rstStream, stream.id, ERROR[name])
  closeStream(h2, stream, 'byUs')
  releaseUnread(h2, stream)
  h2.handler.streamReset(stream, ERROR[name], why)
}

/** The same for a request that gets no stream. */
export const refuseStream = <O>(h2: Http2<O>, id: number, name: ErrorName, why: string): void => {
  spendReset(h2.patience, `stream errors (${why})`)
  h2.output.number(FRAME.rstStream, id, ERROR[name])
  rememberClosed(h2, id, 'byUs')
  h2.handler.requestRefused(name, why)
}

/**
 * DATA or HEADERS on a closed stream (RFC 9113 5.1): still on its way when we reset it, and ignored; or sent by a peer
 * that had ended it, which is an error of the connection, or had reset it, which is one of the stream.
 */
export const strayFrame = <O>(h2: Http2<O>, id: number, what: string): void => {
  const how = howClosed(h2, id)
  if (how === 'ended') throw connectionError('STREAM_CLOSED', `${what} on closed stream ${id}`)
  spendChatter(h2.patience, 1, `frames on closed streams`)
  if (how !== 'byUs') h2.output.number(FRAME.rstStream, id, ERROR.STREAM_CLOSED)
}
