import { connectionError, FLAG } from './http2Codes.ts'
import { earnChatter, spendChatter } from './http2Patience.ts'
import { creditConnection } from './http2Send.ts'
import { type Http2, isIdle, type Stream } from './http2State.ts'
import { endRemote, isRemoteOpen, strayFrame, streamError } from './http2Stream.ts'

const EMPTY = Buffer.alloc(0)

/**
 * The head of a DATA frame is in: settles what it means for the windows, all at once, so that the pieces which follow
 * need no more looking (RFC 9113 6.1, 6.9). A padded frame's first byte says how much padding ends it.
 */
export const beginData = <O>(h2: Http2<O>, id: number, flags: number, length: number): void => {
  if (id === 0) throw connectionError('PROTOCOL_ERROR', 'DATA on stream 0')
  h2.isInData = true
  h2.dataIsLast = (flags & FLAG.endStream) !== 0
  h2.dataLeft = length
  h2.paddingLeft = 0
  if ((flags & FLAG.padded) !== 0) {
    if (length === 0) throw connectionError('FRAME_SIZE_ERROR', 'padded DATA without its padding length')
    h2.paddingLeft = -1
  }
  if (length > h2.receiveWindow) throw connectionError('FLOW_CONTROL_ERROR', 'more DATA than the connection may send')
  h2.receiveWindow -= length
  h2.dataStream = receiver(h2, id, length)
  if (h2.paddingLeft === 0) checkLength(h2)
  if (length === 0 && !h2.dataIsLast) spendChatter(h2.patience, 1, 'empty DATA frames')
  else earnChatter(h2.patience)
}

/** The stream the frame is for, when it may come there now. */
const receiver = <O>(h2: Http2<O>, id: number, length: number): Stream<O> | undefined => {
  const stream = h2.streams.get(id)
  if (stream === undefined) {
    if (isIdle(h2, id)) throw connectionError('PROTOCOL_ERROR', `DATA on idle stream ${id}`)
    strayFrame(h2, id, 'DATA')
    return undefined
  }
  if (!isRemoteOpen(stream)) streamError(h2, stream, 'STREAM_CLOSED', 'DATA after END_STREAM')
  else if (stream.awaits === 'head') streamError(h2, stream, 'PROTOCOL_ERROR', 'DATA before the response head')
  else if (length > stream.receiveWindow)
    streamError(h2, stream, 'FLOW_CONTROL_ERROR', 'more DATA than the stream may send')
  if (stream.state === 'closed') return undefined
  stream.receiveWindow -= length
  return stream
}

/**
 * A frame that makes the body longer than its content-length, or ends it before, is malformed (RFC 9113 8.1.1) as soon as
 * its length is known: not a byte of it goes on, however it is cut.
 */
const checkLength = <O>(h2: Http2<O>): void => {
  const stream = h2.dataStream
  if (stream === undefined || stream.bodyLeft < 0) return
  if (h2.dataLeft <= stream.bodyLeft && (!h2.dataIsLast || h2.dataLeft === stream.bodyLeft)) return
  streamError(h2, stream, 'PROTOCOL_ERROR', 'the body is not as long as content-length says')
  h2.dataStream = undefined
}

/** Hands on what has come of the frame; where reading goes on. */
export const readDataPiece = <O>(h2: Http2<O>, bytes: Buffer, start: number): number => {
  let at = start
  if (h2.paddingLeft < 0) at = readPaddingLength(h2, bytes, at)
  const piece = Math.min(h2.dataLeft, bytes.length - at)
  if (piece > 0) {
    h2.dataLeft -= piece
    dataCame(h2, bytes.subarray(at, at + piece), h2.dataIsLast && h2.dataLeft === 0)
    at += piece
  }
  const padding = Math.min(h2.paddingLeft, bytes.length - at)
  if (h2.dataLeft === 0 && padding > 0) {
    h2.paddingLeft -= padding
    at += padding
  }
  if (h2.dataLeft + h2.paddingLeft === 0) endData(h2)
  return at
}

const readPaddingLength = <O>(h2: Http2<O>, bytes: Buffer, at: number): number => {
  const padding = bytes[at]!
  if (padding >= h2.dataLeft) throw connectionError('PROTOCOL_ERROR', 'padding longer than the frame')
  h2.dataLeft -= padding + 1
  h2.paddingLeft = padding
  // Padding is consumed where it stands.
  if (h2.dataStream === undefined) creditConnection(h2, padding + 1)
  else discard(h2, h2.dataStream, padding + 1)
  checkLength(h2)
  if (h2.dataLeft > 0) return at + 1
  if (h2.dataIsLast) dataCame(h2, EMPTY, true)
  else spendChatter(h2.patience, 2, 'DATA frames of padding only')
  return at + 1
}

/** The frame is over. An empty one has ended the stream without any piece. */
export const endData = <O>(h2: Http2<O>): void => {
  h2.isInData = false
  const stream = h2.dataStream
  h2.dataStream = undefined
  if (h2.dataIsLast && stream !== undefined && isRemoteOpen(stream)) deliver(h2, stream, EMPTY, true)
}

const dataCame = <O>(h2: Http2<O>, chunk: Buffer, last: boolean): void => {
  const stream = h2.dataStream
  if (stream === undefined || !isRemoteOpen(stream)) return creditConnection(h2, chunk.length)
  stream.unreadBytes += chunk.length
  h2.unreadBytes += chunk.length
  deliver(h2, stream, chunk, last)
}

const deliver = <O>(h2: Http2<O>, stream: Stream<O>, chunk: Buffer, last: boolean): void => {
  if (stream.bodyLeft >= 0) stream.bodyLeft -= chunk.length
  if (last) endRemote(h2, stream)
  h2.handler.dataRead(stream, chunk, last)
}

/** Bytes that no reader will ever see. */
const discard = <O>(h2: Http2<O>, stream: Stream<O>, bytes: number): void => {
  creditConnection(h2, bytes)
  stream.creditBytes += bytes
}
