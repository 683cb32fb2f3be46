import type { ProtocolError } from '../net/protocolError.ts'
import {
  connectionError,
  ERROR,
  FLAG,
  FRAME,
  FRAME_BYTES,
  FRAME_BYTES_MAX,
  SETTING,
  WINDOW_BYTES_MAX,
} from './http2Codes.ts'
import { spendChatter, spendReset } from './http2Patience.ts'
import { releaseUnread, wait } from './http2Send.ts'
import { closeStream, type Http2, isIdle } from './http2State.ts'
import { streamError } from './http2Stream.ts'

/** PRIORITY (RFC 9113 6.3) is checked and otherwise ignored. */
export const readPriority = <O>(h2: Http2<O>, id: number, bytes: Buffer, start: number, end: number): void => {
  spendChatter(h2.patience, 1, 'PRIORITY frames')
  if (id === 0) throw connectionError('PROTOCOL_ERROR', 'PRIORITY on stream 0')
  const stream = h2.streams.get(id)
  if (end - start !== 5) {
    if (stream !== undefined) return streamError(h2, stream, 'FRAME_SIZE_ERROR', 'PRIORITY of another length than 5')
    throw connectionError('FRAME_SIZE_ERROR', 'PRIORITY of another length than 5')
  }
  if ((bytes.readUInt32BE(start) & 0x7fff_ffff) !== id) return
  if (stream === undefined) throw connectionError('PROTOCOL_ERROR', 'a stream that depends on itself')
  streamError(h2, stream, 'PROTOCOL_ERROR', 'a stream that depends on itself')
}

/** RST_STREAM (RFC 9113 6.4). */
export const readRstStream = <O>(h2: Http2<O>, id: number, bytes: Buffer, start: number, end: number): void => {
  if (id === 0) throw connectionError('PROTOCOL_ERROR', 'RST_STREAM on stream 0')
  if (end - start !== 4) throw connectionError('FRAME_SIZE_ERROR', 'RST_STREAM of another length than 4')
  if (isIdle(h2, id)) throw connectionError('PROTOCOL_ERROR', `RST_STREAM on idle stream ${id}`)
  const stream = h2.streams.get(id)
  if (stream === undefined) return spendChatter(h2.patience, 1, 'RST_STREAM frames')
  if (h2.role === 'server') spendReset(h2.patience, 'streams reset by the client')
  closeStream(h2, stream, 'byPeer')
  releaseUnread(h2, stream)
  h2.handler.streamReset(stream, bytes.readUInt32BE(start), 'RST_STREAM')
}

const SETTINGS_COST = 10 // each wants an answer and may touch every stream

/** SETTINGS (RFC 9113 6.5): applied in order, then acknowledged. */
export const readSettings = <O>(
  h2: Http2<O>,
  id: number,
  flags: number,
  bytes: Buffer,
  start: number,
  end: number,
): void => {
  if (id !== 0) throw connectionError('PROTOCOL_ERROR', 'SETTINGS on a stream')
  if ((flags & FLAG.ack) !== 0) {
    if (end !== start) throw connectionError('FRAME_SIZE_ERROR', 'acknowledged SETTINGS with a payload')
    spendChatter(h2.patience, 1, 'SETTINGS frames')
    return h2.handler.settingsAcknowledged()
  }
  if ((end - start) % 6 !== 0)
    throw connectionError('FRAME_SIZE_ERROR', 'SETTINGS of a length that six does not divide')
  spendChatter(h2.patience, SETTINGS_COST, 'SETTINGS frames')
  applySettings(h2, bytes, start, end)
  h2.output.frame(FRAME.settings, FLAG.ack, 0, 0)
  h2.handler.settingsRead()
}

/** The payload of SETTINGS, also as it comes in the HTTP2-Settings field of an upgrade (RFC 7540 3.2.1). */
export const applySettings = <O>(h2: Http2<O>, bytes: Buffer, start: number, end: number): void => {
  for (let at = start; at + 6 <= end; at += 6) applySetting(h2, bytes.readUInt16BE(at), bytes.readUInt32BE(at + 2))
}

/** The payload of HTTP2-Settings (RFC 7540 3.2.1); undefined when no client of sense would send it. */
export const upgradeSettings = (text: string): Buffer | undefined => {
  const bytes = Buffer.from(text, 'base64url')
  if (!/^[\w-]*$/.test(text) || bytes.length % 6 !== 0) return undefined
  for (let at = 0; at < bytes.length; at += 6)
    if (badSetting(bytes.readUInt16BE(at), bytes.readUInt32BE(at + 2)) !== undefined) return undefined
  return bytes
}

/** Why no peer may say this, whatever it said before (RFC 9113 6.5.2, RFC 8441 3). */
const badSetting = (id: number, value: number): ProtocolError | undefined => {
  if (id === SETTING.enablePush && value > 1) return connectionError('PROTOCOL_ERROR', `ENABLE_PUSH ${value}`)
  if (id === SETTING.initialWindowSize && value > WINDOW_BYTES_MAX)
    return connectionError('FLOW_CONTROL_ERROR', `INITIAL_WINDOW_SIZE ${value}`)
  if (id === SETTING.maxFrameSize && (value < FRAME_BYTES || value > FRAME_BYTES_MAX))
    return connectionError('PROTOCOL_ERROR', `MAX_FRAME_SIZE ${value}`)
  if (id === SETTING.enableConnectProtocol && value > 1)
    return connectionError('PROTOCOL_ERROR', `ENABLE_CONNECT_PROTOCOL ${value}`)
  return undefined
}

const applySetting = <O>(h2: Http2<O>, id: number, value: number): void => {
  const bad = badSetting(id, value)
  if (bad !== undefined) throw bad
  switch (id) {
    case SETTING.headerTableSize:
      return h2.encoder.setTableBytesMax(value)
    case SETTING.enablePush:
      if (value === 1 && h2.role === 'client') throw connectionError('PROTOCOL_ERROR', 'ENABLE_PUSH 1')
      return
    case SETTING.maxConcurrentStreams:
      h2.peerStreamsMax = value
      return
    case SETTING.initialWindowSize:
      return resizeWindows(h2, value)
    case SETTING.enableConnectProtocol:
      if (value === 0 && h2.peerExtendedConnect)
        throw connectionError('PROTOCOL_ERROR', 'ENABLE_CONNECT_PROTOCOL withdrawn')
      h2.peerExtendedConnect = value === 1
  }
}

/** RFC 9113 6.9.2: windows in use move by the difference, below zero too. */
const resizeWindows = <O>(h2: Http2<O>, bytes: number): void => {
  const difference = bytes - h2.peerWindowBytes
  h2.peerWindowBytes = bytes
  for (const stream of h2.streams.values()) {
    stream.sendWindow += difference
    if (stream.sendWindow > WINDOW_BYTES_MAX) throw connectionError('FLOW_CONTROL_ERROR', 'a window over 2^31-1')
    wait(h2, stream)
  }
}

/** PING (RFC 9113 6.7). */
export const readPing = <O>(
  h2: Http2<O>,
  id: number,
  flags: number,
  bytes: Buffer,
  start: number,
  end: number,
): void => {
  if (id !== 0) throw connectionError('PROTOCOL_ERROR', 'PING on a stream')
  if (end - start !== 8) throw connectionError('FRAME_SIZE_ERROR', 'PING of another length than 8')
  spendChatter(h2.patience, 1, 'PING frames')
  if ((flags & FLAG.ack) !== 0) h2.handler.pingAnswered()
  else h2.output.ping(bytes.subarray(start, end), true)
}

/** GOAWAY (RFC 9113 6.8): streams of ours above the last one were not looked at and may be tried elsewhere. */
export const readGoaway = <O>(h2: Http2<O>, id: number, bytes: Buffer, start: number, end: number): void => {
  if (id !== 0) throw connectionError('PROTOCOL_ERROR', 'GOAWAY on a stream')
  if (end - start < 8) throw connectionError('FRAME_SIZE_ERROR', 'GOAWAY shorter than 8 bytes')
  spendChatter(h2.patience, 1, 'GOAWAY frames')
  const lastStream = bytes.readUInt32BE(start) & 0x7fff_ffff
  h2.goawayRead = true
  if (h2.role === 'client')
    for (const stream of [...h2.streams.values()]) {
      if (stream.id <= lastStream) continue
      closeStream(h2, stream, 'byPeer')
      releaseUnread(h2, stream)
      h2.handler.streamReset(stream, ERROR.REFUSED_STREAM, 'GOAWAY')
    }
  h2.handler.goneAway(lastStream, bytes.readUInt32BE(start + 4))
}

/** WINDOW_UPDATE (RFC 9113 6.9). */
export const readWindowUpdate = <O>(h2: Http2<O>, id: number, bytes: Buffer, start: number, end: number): void => {
  if (end - start !== 4) throw connectionError('FRAME_SIZE_ERROR', 'WINDOW_UPDATE of another length than 4')
  spendChatter(h2.patience, 1, 'WINDOW_UPDATE frames')
  const increment = bytes.readUInt32BE(start) & 0x7fff_ffff
  if (id === 0) return widenConnection(h2, increment)
  const stream = h2.streams.get(id)
  if (stream === undefined) {
    if (isIdle(h2, id)) throw connectionError('PROTOCOL_ERROR', `WINDOW_UPDATE on idle stream ${id}`)
    return
  }
  if (increment === 0) return streamError(h2, stream, 'PROTOCOL_ERROR', 'WINDOW_UPDATE of 0')
  stream.sendWindow += increment
  if (stream.sendWindow > WINDOW_BYTES_MAX) return streamError(h2, stream, 'FLOW_CONTROL_ERROR', 'a window over 2^31-1')
  wait(h2, stream)
}

const widenConnection = <O>(h2: Http2<O>, increment: number): void => {
  if (increment === 0) throw connectionError('PROTOCOL_ERROR', 'WINDOW_UPDATE of 0')
  h2.sendWindow += increment
  if (h2.sendWindow > WINDOW_BYTES_MAX) throw connectionError('FLOW_CONTROL_ERROR', 'a window over 2^31-1')
}
