import { connectionError, FLAG } from './http2Codes.ts'
import { badTrailers, readRequest, readResponse } from './http2Message.ts'
import { earnChatter, spendChatter } from './http2Patience.ts'
import { type Http2, howClosed, isIdle, NO_BYTES, newStream, type Stream } from './http2State.ts'
import { endRemote, isRemoteOpen, refuseStream, strayFrame, streamError } from './http2Stream.ts'

/** A block may come in so many frames: 64 KiB need five, and nobody has a reason for many more. */
const BLOCK_FRAMES_MAX = 32
/** A list that says it is so many times what we allow is a bomb and not a large cookie. */
const BOMB_FACTOR = 16

/** HEADERS (RFC 9113 6.2). Priority fields are read over. */
export const collectBlock = <O>(
  h2: Http2<O>,
  id: number,
  flags: number,
  bytes: Buffer,
  start: number,
  end: number,
): void => {
  if (id === 0) throw connectionError('PROTOCOL_ERROR', 'HEADERS on stream 0')
  let from = start
  let to = end
  if ((flags & FLAG.padded) !== 0) {
    if (from >= to) throw connectionError('FRAME_SIZE_ERROR', 'padded HEADERS without a padding length')
    to -= bytes[from++]!
  }
  h2.blockIsCircular = false
  if ((flags & FLAG.priority) !== 0) {
    if (end - from < 5) throw connectionError('FRAME_SIZE_ERROR', 'HEADERS too short for its priority')
    h2.blockIsCircular = (bytes.readUInt32BE(from) & 0x7fff_ffff) === id
    from += 5
  }
  if (to < from) throw connectionError('PROTOCOL_ERROR', 'padding longer than the frame')
  h2.blockIsLast = (flags & FLAG.endStream) !== 0
  if ((flags & FLAG.endHeaders) !== 0) return blockCame(h2, id, bytes, from, to)
  h2.blockStream = id
  h2.blockFrames = 1
  h2.block = Buffer.from(bytes.subarray(from, to))
  h2.blockBytes = h2.block.length
}

/** CONTINUATION (RFC 9113 6.10); that it is for the stream of the block was checked at its head. */
export const continueBlock = <O>(
  h2: Http2<O>,
  id: number,
  flags: number,
  bytes: Buffer,
  start: number,
  end: number,
): void => {
  if (h2.blockStream === 0 || id !== h2.blockStream)
    throw connectionError('PROTOCOL_ERROR', 'CONTINUATION without HEADERS')
  spendChatter(h2.patience, 1, 'CONTINUATION frames')
  h2.blockFrames += 1
  const length = h2.blockBytes + end - start
  if (h2.blockFrames > BLOCK_FRAMES_MAX) throw connectionError('ENHANCE_YOUR_CALM', 'a header block of too many frames')
  if (length > h2.limits.headBytesMax * 2)
    throw connectionError('ENHANCE_YOUR_CALM', 'a header block far over the limit')
  if (length > h2.block.length) {
    const larger = Buffer.allocUnsafeSlow(Math.max(length, h2.block.length * 2))
    h2.block.copy(larger, 0, 0, h2.blockBytes)
    h2.block = larger
  }
  bytes.copy(h2.block, h2.blockBytes, start, end)
  h2.blockBytes = length
  if ((flags & FLAG.endHeaders) === 0) return
  const { block } = h2
  h2.blockStream = 0
  h2.block = NO_BYTES
  blockCame(h2, id, block, 0, length)
}

/** Every block is decoded, whatever becomes of its stream: the tables have to stay the same (RFC 9113 4.3). */
const blockCame = <O>(h2: Http2<O>, id: number, bytes: Buffer, start: number, end: number): void => {
  const fields = h2.decoder.decode(bytes, start, end)
  if (h2.decoder.listBytes > h2.limits.headBytesMax * BOMB_FACTOR)
    throw connectionError('ENHANCE_YOUR_CALM', 'a header list that explodes when decoded')
  earnChatter(h2.patience)
  const stream = h2.streams.get(id)
  if (stream !== undefined) streamBlock(h2, stream, fields)
  else if (h2.role === 'server' && id % 2 === 1 && id > h2.lastPeerStream) requestCame(h2, id, fields)
  else if (isIdle(h2, id))
    throw connectionError('PROTOCOL_ERROR', `HEADERS on stream ${id}, which is not the peer's to open`)
  else if (howClosed(h2, id) === 'unknown' && h2.role === 'server')
    throw connectionError('PROTOCOL_ERROR', `stream ${id} after stream ${h2.lastPeerStream}`)
  else strayFrame(h2, id, 'HEADERS')
}

const requestCame = <O>(h2: Http2<O>, id: number, fields: string[]): void => {
  const { decoder, limits } = h2
  // After our GOAWAY the client will send this one elsewhere (RFC 9113 6.8).
  if (h2.goawaySent >= 0 && id > h2.goawaySent) return spendChatter(h2.patience, 1, 'requests after GOAWAY')
  h2.lastPeerStream = id
  const last = h2.blockIsLast
  if (h2.blockIsCircular) return refuseStream(h2, id, 'PROTOCOL_ERROR', 'a stream that depends on itself')
  if (h2.streams.size >= limits.streamsMax) return refuseStream(h2, id, 'REFUSED_STREAM', 'more streams than allowed')
  if (decoder.tooLarge) {
    const stream = newStream(h2, id, last ? 'halfClosedRemote' : 'open', 'body', 'GET')
    return h2.handler.requestTooLarge(stream, last)
  }
  const request = readRequest(fields, decoder.marks, decoder.neverIndexed)
  if (typeof request === 'string') return refuseStream(h2, id, 'PROTOCOL_ERROR', `malformed request: ${request}`)
  const { method, length } = request
  if (last && length !== undefined && length > 0)
    return refuseStream(h2, id, 'PROTOCOL_ERROR', 'malformed request: content-length without a body')
  const stream = newStream(h2, id, last ? 'halfClosedRemote' : 'open', method === 'CONNECT' ? 'tunnel' : 'body', method)
  if (length !== undefined && method !== 'CONNECT') stream.bodyLeft = length
  h2.handler.requestRead(stream, request, last)
}

/** A block on a stream that is there: trailers, or a response. */
const streamBlock = <O>(h2: Http2<O>, stream: Stream<O>, fields: string[]): void => {
  if (!isRemoteOpen(stream)) streamError(h2, stream, 'STREAM_CLOSED', 'HEADERS after END_STREAM')
  else if (h2.blockIsCircular) streamError(h2, stream, 'PROTOCOL_ERROR', 'a stream that depends on itself')
  else if (h2.decoder.tooLarge) streamError(h2, stream, 'ENHANCE_YOUR_CALM', 'a head over the limits')
  else if (stream.awaits === 'tunnel') streamError(h2, stream, 'PROTOCOL_ERROR', 'HEADERS inside a tunnel')
  else if (stream.awaits === 'head') responseCame(h2, stream, fields)
  else trailersCame(h2, stream, fields)
}

const trailersCame = <O>(h2: Http2<O>, stream: Stream<O>, fields: string[]): void => {
  const why = h2.blockIsLast ? badTrailers(h2.decoder.marks) : 'trailers without END_STREAM'
  if (why !== undefined) return streamError(h2, stream, 'PROTOCOL_ERROR', `malformed trailers: ${why}`)
  if (stream.bodyLeft > 0)
    return streamError(h2, stream, 'PROTOCOL_ERROR', 'the body is not as long as content-length says')
  endRemote(h2, stream)
  h2.handler.trailersRead(stream, fields)
}

const responseCame = <O>(h2: Http2<O>, stream: Stream<O>, fields: string[]): void => {
  const last = h2.blockIsLast
  const response = readResponse(fields, h2.decoder.marks, h2.decoder.neverIndexed)
  if (typeof response === 'string') return streamError(h2, stream, 'PROTOCOL_ERROR', `malformed response: ${response}`)
  const { status, length } = response
  if (status < 200) {
    if (last) return streamError(h2, stream, 'PROTOCOL_ERROR', 'malformed response: 1xx with END_STREAM')
    return h2.handler.informationRead(stream, response)
  }
  if (stream.method === 'CONNECT' && status < 300) stream.awaits = 'tunnel'
  else {
    stream.awaits = 'body'
    stream.bodyLeft = isBodiless(stream.method, status) ? 0 : (length ?? -1)
    if (last && stream.bodyLeft > 0)
      return streamError(h2, stream, 'PROTOCOL_ERROR', 'malformed response: content-length without a body')
  }
  if (last) endRemote(h2, stream)
  h2.handler.responseRead(stream, response, last)
}

/** RFC 9110 6.4.1. */
const isBodiless = (method: string, status: number): boolean => method === 'HEAD' || status === 204 || status === 304
