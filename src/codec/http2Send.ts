import { ByteQueue } from './byteQueue.ts'
import { fieldBytesMax } from './hpack.ts'
import { FLAG, FRAME, FRAME_BYTES, FRAME_HEAD_BYTES, PREFACE, SETTING, WINDOW_BYTES } from './http2Codes.ts'
import { writeFrameHead } from './http2Output.ts'
import { earnChatter, earnReset } from './http2Patience.ts'
import { closeStream, type Http2, newStream, type Stream } from './http2State.ts'

/** DATA waits in its stream, where it is counted, while this much is already on its way to the socket. */
const OUTPUT_BYTES_MAX = 262_144

/** What we send first: the preface as client, our settings, and the window of the whole connection (RFC 9113 3.4). */
export const start = <O>(h2: Http2<O>): void => {
  const { limits, output, role } = h2
  if (role === 'client') output.write(PREFACE)
  const settings: [number, number][] = [
    role === 'server' ? [SETTING.maxConcurrentStreams, limits.streamsMax] : [SETTING.enablePush, 0],
    [SETTING.initialWindowSize, limits.windowBytes],
    [SETTING.maxHeaderListSize, limits.headBytesMax],
  ]
  if (role === 'server' && limits.extendedConnect) settings.push([SETTING.enableConnectProtocol, 1])
  output.settings(settings)
  const more = limits.connectionWindowBytes - WINDOW_BYTES
  if (more <= 0) return
  output.number(FRAME.windowUpdate, 0, more)
  h2.receiveWindow += more
}

/** Whether the peer takes one more stream of ours now. */
export const canOpen = <O>(h2: Http2<O>): boolean =>
  h2.failure === undefined && !h2.goawayRead && h2.streams.size < h2.peerStreamsMax && h2.nextStream < 2 ** 31

/** What a request needs to be sent; the names may have any case. */
export interface RequestToSend {
  readonly method: string
  readonly scheme: string
  readonly authority: string
  readonly target: string
  readonly upgrade?: string | undefined
  readonly fields: readonly string[]
  readonly neverIndexed?: readonly string[] | undefined
}

/** Client: opens a stream with this request. Ask `canOpen` first. */
export const sendRequest = <O>(h2: Http2<O>, request: RequestToSend, last: boolean, owner: O): Stream<O> => {
  const { method, scheme, authority, target, upgrade, fields, neverIndexed } = request
  const stream = newStream(h2, h2.nextStream, last ? 'halfClosedLocal' : 'open', 'head', method)
  stream.owner = owner
  h2.nextStream += 2
  const { encoder, output } = h2
  const start = beginBlock(h2, fields, method.length + scheme.length + authority.length + target.length + 300)
  const { buffer } = output
  let at = encoder.field(buffer, encoder.begin(buffer, start), ':method', method)
  const isTunnel = method === 'CONNECT' && upgrade === undefined
  if (!isTunnel) at = encoder.field(buffer, at, ':scheme', scheme)
  // HTTP/1.0 may come without one; it must not be made up (RFC 9113 8.3.1).
  if (authority !== '') at = encoder.field(buffer, at, ':authority', authority)
  if (!isTunnel) at = encoder.field(buffer, at, ':path', target)
  if (upgrade !== undefined) at = encoder.field(buffer, at, ':protocol', upgrade)
  endBlock(h2, stream.id, writeFields(h2, at, fields, neverIndexed), last)
  return stream
}

/** Server: a 1xx, any number of times before the response. */
export const sendInformation = <O>(h2: Http2<O>, stream: Stream<O>, status: number, fields: readonly string[]): void =>
  writeResponse(h2, stream, status, fields, false, undefined)

/** Server: the final head. */
export const sendResponse = <O>(
  h2: Http2<O>,
  stream: Stream<O>,
  status: number,
  fields: readonly string[],
  last: boolean,
  neverIndexed?: readonly string[],
): void => {
  writeResponse(h2, stream, status, fields, last, neverIndexed)
  if (last) endLocal(h2, stream)
}

const writeResponse = <O>(
  h2: Http2<O>,
  stream: Stream<O>,
  status: number,
  fields: readonly string[],
  last: boolean,
  neverIndexed: readonly string[] | undefined,
): void => {
  if (!canSend(stream)) return
  const { encoder, output } = h2
  const start = beginBlock(h2, fields, 64)
  const at = encoder.field(output.buffer, encoder.begin(output.buffer, start), ':status', statusText(status))
  endBlock(h2, stream.id, writeFields(h2, at, fields, neverIndexed), last)
}

const STATUS_TEXTS = Array.from({ length: 1000 }, (_, status) => String(status).padStart(3, '0'))
const statusText = (status: number): string => STATUS_TEXTS[status]!

/** Ends the message with these fields, after what is still queued. */
export const sendTrailers = <O>(h2: Http2<O>, stream: Stream<O>, fields: string[]): void => {
  if (!canSend(stream) || stream.ending !== 'no') return
  stream.ending = fields
  if (stream.queue === undefined) finish(h2, stream)
}

/** Sends as much as the windows allow and keeps the rest; `sent` tells as it leaves. */
export const sendData = <O>(h2: Http2<O>, stream: Stream<O>, chunk: Buffer, last: boolean): void => {
  if (!canSend(stream) || stream.ending !== 'no') return
  if (last) stream.ending = 'data'
  if (stream.queue !== undefined) return stream.queue.push(chunk)
  let sent = 0
  if (h2.waiting.length === 0 && !isBlocked(h2)) sent = writeChunk(h2, stream, chunk, true)
  if (sent < chunk.length && canSend(stream)) queue(h2, stream, sent === 0 ? chunk : chunk.subarray(sent))
  else if (chunk.length === 0 && last) finish(h2, stream)
  if (sent > 0) h2.handler.sent(stream, sent)
}

const canSend = <O>(stream: Stream<O>): boolean => stream.state === 'open' || stream.state === 'halfClosedRemote'

const isBlocked = <O>(h2: Http2<O>): boolean => h2.isCongested || h2.output.bytes > OUTPUT_BYTES_MAX

const queue = <O>(h2: Http2<O>, stream: Stream<O>, rest: Buffer): void => {
  stream.queue ??= new ByteQueue()
  stream.queue.push(rest)
  wait(h2, stream)
}

/** Puts the stream into the row of those that may send, if it may. */
export const wait = <O>(h2: Http2<O>, stream: Stream<O>): void => {
  if (stream.isWaiting || stream.queue === undefined || stream.sendWindow <= 0) return
  stream.isWaiting = true
  h2.waiting.push(stream)
}

/** Sends for each waiting stream in turn, a frame at a time, until a window, the output or the work ends. */
export const pump = <O>(h2: Http2<O>): void => {
  while (h2.waiting.length > 0 && h2.sendWindow > 0 && !isBlocked(h2)) {
    const stream = h2.waiting.shift()!
    stream.isWaiting = false
    if (stream.queue === undefined) continue
    const sent = writeQueued(h2, stream, stream.queue)
    wait(h2, stream)
    h2.handler.sent(stream, sent)
  }
}

const writeQueued = <O>(h2: Http2<O>, stream: Stream<O>, waiting: ByteQueue): number => {
  const chunk = waiting.peek(FRAME_BYTES)
  const sent = writeChunk(h2, stream, chunk, chunk.length === waiting.bytes)
  // It was the last of the message, and the stream is closed.
  if (stream.queue === undefined) return sent
  waiting.drop(sent)
  if (waiting.bytes > 0) return sent
  stream.queue = undefined
  if (stream.ending !== 'no') finish(h2, stream)
  return sent
}

/** Writes of the chunk what the windows allow, as frames; END_STREAM goes with its last byte when nothing is behind it. */
const writeChunk = <O>(h2: Http2<O>, stream: Stream<O>, chunk: Buffer, isAll: boolean): number => {
  const bytes = Math.min(chunk.length, stream.sendWindow, h2.sendWindow)
  if (bytes <= 0) return 0
  const last = isAll && bytes === chunk.length && stream.ending === 'data'
  for (let at = 0; at < bytes; at += FRAME_BYTES) {
    const end = Math.min(at + FRAME_BYTES, bytes)
    h2.output.data(stream.id, at === 0 && end === chunk.length ? chunk : chunk.subarray(at, end), last && end === bytes)
    // A frame that the window cut short earns nothing: windows of one byte are an attack.
    if (end === chunk.length || end - at >= 256) earnChatter(h2.patience)
  }
  stream.sendWindow -= bytes
  h2.sendWindow -= bytes
  if (last) endLocal(h2, stream)
  return bytes
}

/** Writes the end of the message: its trailers, or an empty DATA frame. */
const finish = <O>(h2: Http2<O>, stream: Stream<O>): void => {
  const { ending } = stream
  if (!canSend(stream)) return
  if (ending === 'data') h2.output.frame(FRAME.data, FLAG.endStream, stream.id, 0)
  else if (ending !== 'no') {
    const start = beginBlock(h2, ending, 64)
    endBlock(h2, stream.id, writeFields(h2, h2.encoder.begin(h2.output.buffer, start), ending, undefined), true)
  }
  endLocal(h2, stream)
}

/**
 * Our half is over. A server that has answered before the request was over may ask the client to stop (RFC 9113 8.1);
 * its user says when. A tunnel has two independent halves.
 */
const endLocal = <O>(h2: Http2<O>, stream: Stream<O>): void => {
  if (stream.state === 'halfClosedRemote') {
    earnReset(h2.patience)
    closeStream(h2, stream, 'ended')
    releaseUnread(h2, stream)
    return
  }
  stream.state = 'halfClosedLocal'
  if (!isAnswered(h2, stream)) return
  earnReset(h2.patience)
  releaseUnread(h2, stream)
  h2.handler.answeredEarly(stream)
}

/** Nobody reads what a client still sends of a request that has its answer. */
export const isAnswered = <O>(h2: Http2<O>, stream: Stream<O>): boolean =>
  h2.role === 'server' && stream.state === 'halfClosedLocal' && stream.awaits !== 'tunnel'

/** Gives the stream up; both halves end. What its owner had not consumed no longer counts against the connection. */
export const resetStream = <O>(h2: Http2<O>, stream: Stream<O>, code: number): void => {
  if (stream.state !== 'closed') {
    h2.output.number(FRAME.rstStream, stream.id, code)
    closeStream(h2, stream, 'byUs')
  }
  releaseUnread(h2, stream)
}

export const releaseUnread = <O>(h2: Http2<O>, stream: Stream<O>): void => {
  const bytes = stream.unreadBytes
  stream.unreadBytes = 0
  h2.unreadBytes -= bytes
  creditConnection(h2, bytes)
}

/** So many bytes of this stream have left us: the peer may send as many again, and more if it never has to wait. */
export const consume = <O>(h2: Http2<O>, stream: Stream<O>, bytes: number): void => {
  const count = Math.min(bytes, stream.unreadBytes)
  stream.unreadBytes -= count
  h2.unreadBytes -= count
  creditConnection(h2, count)
  if ((stream.state !== 'open' && stream.state !== 'halfClosedLocal') || isAnswered(h2, stream)) return
  stream.creditBytes += count
  stream.passedBytes += count
  if (stream.creditBytes * 2 < stream.windowBytes) return
  const credit = stream.creditBytes + growth(h2, stream)
  h2.output.number(FRAME.windowUpdate, stream.id, credit)
  stream.receiveWindow += credit
  stream.creditBytes = 0
}

/** A reader that has taken a whole window and leaves less than half of one lying gets twice the window. */
const growth = <O>(h2: Http2<O>, stream: Stream<O>): number => {
  const { limits } = h2
  const more = Math.min(stream.windowBytes, limits.windowBytesMax - stream.windowBytes)
  if (more <= 0 || stream.passedBytes < stream.windowBytes) return 0
  if (stream.unreadBytes * 2 > stream.windowBytes || h2.unreadBytes * 4 > limits.connectionWindowBytes) return 0
  stream.passedBytes = 0
  stream.windowBytes += more
  return more
}

/** Bytes that nobody holds any longer. Announced once they are worth a frame. */
export const creditConnection = <O>(h2: Http2<O>, bytes: number): void => {
  h2.creditBytes += bytes
  if (h2.creditBytes * 4 < h2.limits.connectionWindowBytes || h2.failure !== undefined) return
  h2.output.number(FRAME.windowUpdate, 0, h2.creditBytes)
  h2.receiveWindow += h2.creditBytes
  h2.creditBytes = 0
}

/** No streams above `lastStream` are served from now on (RFC 9113 6.8). */
export const sendGoaway = <O>(h2: Http2<O>, lastStream: number, code: number, why = ''): void => {
  h2.goawaySent = lastStream
  h2.output.goaway(lastStream, code, why)
}

/** All bits: the streams that may already be on their way are still served (RFC 9113 6.8). */
export const LAST_STREAM_UNKNOWN = 2 ** 31 - 1

const PING_PAYLOAD = Buffer.from('sluice h')

export const sendPing = <O>(h2: Http2<O>): void => h2.output.ping(PING_PAYLOAD, false)

// Header blocks are encoded where they will be sent from, behind room for the frame's head.

const beginBlock = <O>(h2: Http2<O>, fields: readonly string[], moreBytes: number): number => {
  let bytes = FRAME_HEAD_BYTES + moreBytes
  for (let at = 0; at < fields.length; at += 2) bytes += fieldBytesMax(fields[at]!, fields[at + 1]!)
  h2.output.reserve(bytes)
  return h2.output.length + FRAME_HEAD_BYTES
}

const writeFields = <O>(
  { encoder, output }: Http2<O>,
  position: number,
  fields: readonly string[],
  neverIndexed: readonly string[] | undefined,
): number => {
  let at = position
  const { buffer } = output
  if (neverIndexed === undefined)
    for (let index = 0; index < fields.length; index += 2)
      at = encoder.field(buffer, at, fields[index]!, fields[index + 1]!)
  else
    for (let index = 0; index < fields.length; index += 2)
      at = encoder.field(buffer, at, fields[index]!, fields[index + 1]!, neverIndexed.includes(fields[index]!))
  return at
}

const endBlock = <O>({ output }: Http2<O>, stream: number, end: number, last: boolean): void => {
  const start = output.length
  const bytes = end - start - FRAME_HEAD_BYTES
  const flags = last ? FLAG.endStream : 0
  if (bytes <= FRAME_BYTES) {
    writeFrameHead(output.buffer, start, FRAME.headers, flags | FLAG.endHeaders, stream, bytes)
    output.length = end
    return
  }
  const block = Buffer.from(output.buffer.subarray(start + FRAME_HEAD_BYTES, end))
  for (let at = 0; at < bytes; at += FRAME_BYTES) {
    const piece = block.subarray(at, at + FRAME_BYTES)
    const isEnd = at + FRAME_BYTES >= bytes
    output.frame(
      at === 0 ? FRAME.headers : FRAME.continuation,
      (at === 0 ? flags : 0) | (isEnd ? FLAG.endHeaders : 0),
      stream,
      piece.length,
    )
    output.write(piece)
  }
}
