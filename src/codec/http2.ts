import { ProtocolError } from '../net/protocolError.ts'
import { connectionError, errorCode, FLAG, FRAME, FRAME_BYTES, FRAME_HEAD_BYTES, PREFACE } from './http2Codes.ts'
import { readGoaway, readPing, readPriority, readRstStream, readSettings, readWindowUpdate } from './http2Control.ts'
import { beginData, endData, readDataPiece } from './http2Data.ts'
import { collectBlock, continueBlock } from './http2Head.ts'
import { refill, spendChatter } from './http2Patience.ts'
import { pump, sendGoaway } from './http2Send.ts'
import { type Http2, NO_BYTES } from './http2State.ts'

/**
 * Takes what the peer sent, in any pieces, and tells the handler what it means. Answers of the protocol itself are in
 * the output afterwards. Throws the ProtocolError that ends the connection, with GOAWAY already written.
 * `now`: milliseconds that only grow.
 */
export const receive = <O>(h2: Http2<O>, bytes: Buffer, now: number): void => {
  if (h2.failure !== undefined) return
  refill(h2.patience, now)
  try {
    readFrames(h2, bytes, h2.expects === 'preface' ? readPreface(h2, bytes) : 0)
    pump(h2)
  } catch (error) {
    if (error instanceof ProtocolError) fail(h2, error)
    throw error
  }
}

/** Ends the connection for an error that was found elsewhere, such as a deadline (RFC 9113 5.4.1). */
export const fail = <O>(h2: Http2<O>, error: ProtocolError): void => {
  if (h2.failure !== undefined) return
  h2.failure = error
  sendGoaway(h2, h2.lastPeerStream, errorCode(error), error.message)
}

/** RFC 9113 3.4. The bytes that matched are counted in `heldBytes`. */
const readPreface = <O>(h2: Http2<O>, bytes: Buffer): number => {
  let at = 0
  for (; at < bytes.length && h2.heldBytes < PREFACE.length; at++)
    if (bytes[at] !== PREFACE[h2.heldBytes++]) throw connectionError('PROTOCOL_ERROR', 'not the preface of HTTP/2')
  if (h2.heldBytes < PREFACE.length) return at
  h2.heldBytes = 0
  h2.expects = 'settings'
  return at
}

const readFrames = <O>(h2: Http2<O>, bytes: Buffer, start: number): void => {
  let at = start
  if (h2.expects === 'preface') return
  while (at < bytes.length) {
    if (h2.isInData) {
      at = readDataPiece(h2, bytes, at)
      continue
    }
    if (h2.heldBytes > 0) {
      at = readHeld(h2, bytes, at)
      continue
    }
    const left = bytes.length - at
    if (left < FRAME_HEAD_BYTES) return hold(h2, bytes, at, left)
    const length = frameLength(bytes, at)
    if (bytes[at + 3] === FRAME.data) {
      startData(h2, bytes, at, length)
      at += FRAME_HEAD_BYTES
      continue
    }
    checkFrame(h2, bytes, at, length)
    if (left < FRAME_HEAD_BYTES + length) return hold(h2, bytes, at, left)
    readFrame(h2, bytes, at, length)
    at += FRAME_HEAD_BYTES + length
  }
}

const frameLength = (bytes: Buffer, at: number): number => (bytes[at]! << 16) | (bytes[at + 1]! << 8) | bytes[at + 2]!

/** Stream identifiers have 31 bits; the first one is ignored (RFC 9113 4.1). */
const uint31 = (bytes: Buffer, at: number): number =>
  ((bytes[at]! & 127) << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!

const hold = <O>(h2: Http2<O>, bytes: Buffer, at: number, count: number): void => {
  const needed = h2.heldBytes + count
  if (needed > h2.held.length) {
    const larger = Buffer.allocUnsafeSlow(Math.max(needed, 1024))
    h2.held.copy(larger, 0, 0, h2.heldBytes)
    h2.held = larger
  }
  bytes.copy(h2.held, h2.heldBytes, at, at + count)
  h2.heldBytes = needed
}

/** Completes the frame whose beginning was held; where the next one begins. */
const readHeld = <O>(h2: Http2<O>, bytes: Buffer, start: number): number => {
  let at = start
  if (h2.heldBytes < FRAME_HEAD_BYTES) {
    const count = Math.min(FRAME_HEAD_BYTES - h2.heldBytes, bytes.length - at)
    hold(h2, bytes, at, count)
    at += count
    if (h2.heldBytes < FRAME_HEAD_BYTES) return at
  }
  const length = frameLength(h2.held, 0)
  if (h2.held[3] === FRAME.data) {
    h2.heldBytes = 0
    startData(h2, h2.held, 0, length)
    return at
  }
  checkFrame(h2, h2.held, 0, length)
  const count = Math.min(FRAME_HEAD_BYTES + length - h2.heldBytes, bytes.length - at)
  hold(h2, bytes, at, count)
  if (h2.heldBytes < FRAME_HEAD_BYTES + length) return at + count
  h2.heldBytes = 0
  const frame = h2.held
  h2.held = NO_BYTES
  readFrame(h2, frame, 0, length)
  return at + count
}

const startData = <O>(h2: Http2<O>, bytes: Buffer, at: number, length: number): void => {
  checkFrame(h2, bytes, at, length)
  beginData(h2, uint31(bytes, at + 5), bytes[at + 4]!, length)
  if (length === 0) endData(h2)
}

/** What is wrong with any frame at its head already (RFC 9113 3.4, 4.2, 6.10). */
const checkFrame = <O>(h2: Http2<O>, bytes: Buffer, at: number, length: number): void => {
  const type = bytes[at + 3]!
  if (h2.expects === 'settings') {
    if (type !== FRAME.settings || (bytes[at + 4]! & FLAG.ack) !== 0)
      throw connectionError('PROTOCOL_ERROR', 'the first frame is not SETTINGS')
  }
  if (length > FRAME_BYTES) throw connectionError('FRAME_SIZE_ERROR', `a frame of ${length} bytes`)
  if (h2.blockStream === 0) return
  if (type !== FRAME.continuation || uint31(bytes, at + 5) !== h2.blockStream)
    throw connectionError('PROTOCOL_ERROR', 'another frame inside a header block')
}

const readFrame = <O>(h2: Http2<O>, bytes: Buffer, at: number, length: number): void => {
  const flags = bytes[at + 4]!
  const id = uint31(bytes, at + 5)
  const start = at + FRAME_HEAD_BYTES
  const end = start + length
  switch (bytes[at + 3]) {
    case FRAME.headers:
      return collectBlock(h2, id, flags, bytes, start, end)
    case FRAME.continuation:
      return continueBlock(h2, id, flags, bytes, start, end)
    case FRAME.priority:
      return readPriority(h2, id, bytes, start, end)
    case FRAME.rstStream:
      return readRstStream(h2, id, bytes, start, end)
    case FRAME.settings:
      h2.expects = 'frames'
      return readSettings(h2, id, flags, bytes, start, end)
    case FRAME.pushPromise:
      throw connectionError('PROTOCOL_ERROR', 'PUSH_PROMISE was not enabled')
    case FRAME.ping:
      return readPing(h2, id, flags, bytes, start, end)
    case FRAME.goaway:
      return readGoaway(h2, id, bytes, start, end)
    case FRAME.windowUpdate:
      return readWindowUpdate(h2, id, bytes, start, end)
    default:
      // Extensions are ignored (RFC 9113 5.5), PRIORITY_UPDATE (RFC 9218) among them.
      return spendChatter(h2.patience, 1, 'frames of unknown type')
  }
}
