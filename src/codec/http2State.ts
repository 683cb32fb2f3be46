import type { ProtocolError } from '../net/protocolError.ts'
import type { ByteQueue } from './byteQueue.ts'
import { HpackDecoder, HpackEncoder } from './hpack.ts'
import { type ErrorName, FRAME_BYTES, WINDOW_BYTES } from './http2Codes.ts'
import type { Http2Request, Http2Response } from './http2Message.ts'
import { Http2Output } from './http2Output.ts'
import { newPatience, type Patience } from './http2Patience.ts'

/** Which side of HTTP/2 we are. Who dialled the connection does not matter. */
export type Role = 'client' | 'server'

/** Every limit of one connection. */
export interface Http2Limits {
  /** Streams the peer may have open at once (SETTINGS_MAX_CONCURRENT_STREAMS). */
  readonly streamsMax: number
  /** What a header list may count, by RFC 9113 6.5.2, and how many fields it may have. */
  readonly headBytesMax: number
  readonly fieldsMax: number
  /** What a stream may send ahead of its reader: at first, and for a reader that keeps up. */
  readonly windowBytes: number
  readonly windowBytesMax: number
  /** The same for all streams of the connection together: its memory is bounded by this. */
  readonly connectionWindowBytes: number
  /** Whether a client may ask for extended CONNECT (RFC 8441). */
  readonly extendedConnect: boolean
}

export const HTTP2_LIMITS: Http2Limits = {
  streamsMax: 100, // what RFC 9113 6.5.2 calls the least; what nginx (128) and node (4294967295) allow is more
  headBytesMax: 65_536, // as for HTTP/1
  fieldsMax: 100,
  windowBytes: WINDOW_BYTES,
  windowBytesMax: 1_048_576, // 1 MiB in 10 ms is 100 MiB/s for one stream
  connectionWindowBytes: 8_388_608, // more than all streams stalled at their first window
  extendedConnect: false,
}

/** RFC 9113 5.1. Idle streams have no record, closed ones are out of the table. */
export type StreamState = 'open' | 'halfClosedLocal' | 'halfClosedRemote' | 'closed'

/** One stream. `owner` is whatever the user of the codec keeps for it. */
export interface Stream<O> {
  readonly id: number
  owner: O | undefined
  state: StreamState
  /** What the peer may send next: a response head, body and trailers, or tunnelled bytes only (8.5). */
  awaits: 'head' | 'body' | 'tunnel'
  /** HEAD: the answer has no body, whatever its content-length says. CONNECT: a 2xx makes it a tunnel. */
  readonly method: string
  /** What content-length still promises; -1 when it promised nothing. */
  bodyLeft: number
  /** What we may send. */
  sendWindow: number
  /** What the peer may still send, what the window is when full, and what passed since it grew last. */
  receiveWindow: number
  windowBytes: number
  passedBytes: number
  /** Given to the owner and not consumed; consumed and not yet announced. */
  unreadBytes: number
  creditBytes: number
  /** To be sent when windows allow, and how the message ends after it. */
  queue: ByteQueue | undefined
  ending: 'no' | 'data' | string[]
  isWaiting: boolean
}

/** What the codec tells its user. Calls are synchronous; the user may send from inside them. */
export interface Http2Handler<O> {
  /** Server. `last`: neither body nor trailers follow. */
  requestRead(stream: Stream<O>, request: Http2Request, last: boolean): void
  /** Server: the head is over the limits, the request is not to be forwarded. */
  requestTooLarge(stream: Stream<O>, last: boolean): void
  /** Server: a request that was reset at once, malformed or one too many; no stream of it exists. */
  requestRefused(name: ErrorName, why: string): void
  /** Client: a 1xx. */
  informationRead(stream: Stream<O>, response: Http2Response): void
  /** Client: the final head. */
  responseRead(stream: Stream<O>, response: Http2Response, last: boolean): void
  /** A piece of body. Its memory is the reader's buffer: copy what is kept for long. Answer with `consume`. */
  dataRead(stream: Stream<O>, chunk: Buffer, last: boolean): void
  /** Ends the message. */
  trailersRead(stream: Stream<O>, fields: string[]): void
  /** The stream is lost, by the peer or because of what the peer did; nothing more comes of it. */
  streamReset(stream: Stream<O>, code: number, why: string): void
  /**
   * Server: the answer is out before the request was over. The client is to stop (`resetStream` with NO_ERROR), but not
   * before it has had time to read the answer: some take the reset for an error when both come together.
   */
  answeredEarly(stream: Stream<O>): void
  /** So many bytes of what was sent have left. */
  sent(stream: Stream<O>, bytes: number): void
  /** The peer takes no new streams, and those above `lastStream` never happened. */
  goneAway(lastStream: number, code: number): void
  settingsRead(): void
  settingsAcknowledged(): void
  pingAnswered(): void
}

/** One connection. Plain and open: the functions of http2.ts and http2Send.ts work on it, users only look. */
export interface Http2<O> {
  readonly role: Role
  readonly limits: Http2Limits
  readonly handler: Http2Handler<O>
  readonly output: Http2Output
  readonly decoder: HpackDecoder
  readonly encoder: HpackEncoder
  readonly patience: Patience
  readonly streams: Map<number, Stream<O>>
  /** Recently closed streams, oldest overwritten first: the id times four, plus how it closed. */
  readonly closedStreams: number[]
  closedCount: number
  /** Set by the owner of the socket while too much output waits for it: no DATA is written. */
  isCongested: boolean
  /** The error that ended the connection. */
  failure: ProtocolError | undefined
  /** What is to be read: the preface still (server), settings first, then anything. */
  expects: 'preface' | 'settings' | 'frames'
  /** The beginning of a frame that has not all come. */
  held: Buffer
  heldBytes: number
  /** The DATA frame that is being read: its stream (undefined: ignored) and what is left of it. */
  dataStream: Stream<O> | undefined
  dataLeft: number
  paddingLeft: number
  dataIsLast: boolean
  isInData: boolean
  /** The header block that is being collected: its stream, 0 for none. */
  blockStream: number
  blockIsLast: boolean
  /** The frame said that its stream depends on itself (RFC 7540 5.3.1). */
  blockIsCircular: boolean
  blockFrames: number
  block: Buffer
  blockBytes: number
  /** The highest stream the peer opened, and the next one of ours. */
  lastPeerStream: number
  nextStream: number
  /** The highest stream we told the peer in GOAWAY that we serve; -1: none sent. */
  goawaySent: number
  goawayRead: boolean
  sendWindow: number
  receiveWindow: number
  unreadBytes: number
  creditBytes: number
  /** The peer's settings. */
  peerWindowBytes: number
  peerFrameBytes: number
  peerStreamsMax: number
  peerExtendedConnect: boolean
  /** Streams with something to send and a window to send it in, in turn. */
  readonly waiting: Stream<O>[]
}

const CLOSED_REMEMBERED = 128 // twice what a window of frames in flight usually holds

/** What waits for nothing is kept in: most connections are idle most of the time. */
export const NO_BYTES = Buffer.alloc(0)

export const newHttp2 = <O>(role: Role, handler: Http2Handler<O>, limits: Http2Limits = HTTP2_LIMITS): Http2<O> => ({
  role,
  limits,
  handler,
  output: new Http2Output(),
  decoder: new HpackDecoder({ listBytesMax: limits.headBytesMax, fieldsMax: limits.fieldsMax }),
  encoder: new HpackEncoder(),
  patience: newPatience(),
  streams: new Map(),
  closedStreams: [],
  closedCount: 0,
  isCongested: false,
  failure: undefined,
  expects: role === 'server' ? 'preface' : 'settings',
  held: NO_BYTES,
  heldBytes: 0,
  dataStream: undefined,
  dataLeft: 0,
  paddingLeft: 0,
  dataIsLast: false,
  isInData: false,
  blockStream: 0,
  blockIsLast: false,
  blockIsCircular: false,
  blockFrames: 0,
  block: NO_BYTES,
  blockBytes: 0,
  lastPeerStream: 0,
  nextStream: 1,
  goawaySent: -1,
  goawayRead: false,
  sendWindow: WINDOW_BYTES,
  receiveWindow: WINDOW_BYTES,
  unreadBytes: 0,
  creditBytes: 0,
  peerWindowBytes: WINDOW_BYTES,
  peerFrameBytes: FRAME_BYTES,
  peerStreamsMax: Number.POSITIVE_INFINITY,
  peerExtendedConnect: false,
  waiting: [],
})

/** A new stream in the table. */
export const newStream = <O>(
  h2: Http2<O>,
  id: number,
  state: StreamState,
  awaits: Stream<O>['awaits'],
  method: string,
): Stream<O> => {
  const stream: Stream<O> = {
    id,
    owner: undefined,
    state,
    awaits,
    method,
    bodyLeft: -1,
    sendWindow: h2.peerWindowBytes,
    receiveWindow: h2.limits.windowBytes,
    windowBytes: h2.limits.windowBytes,
    passedBytes: 0,
    unreadBytes: 0,
    creditBytes: 0,
    queue: undefined,
    ending: 'no',
    isWaiting: false,
  }
  h2.streams.set(id, stream)
  return stream
}

/** Whether nothing of the connection is under way, in either direction. */
export const isAtRest = <O>(h2: Http2<O>): boolean =>
  h2.expects === 'frames' &&
  h2.streams.size === 0 &&
  h2.waiting.length === 0 &&
  h2.output.bytes === 0 &&
  h2.heldBytes === 0 &&
  h2.blockStream === 0 &&
  !h2.isInData &&
  h2.failure === undefined &&
  h2.goawaySent < 0 &&
  !h2.goawayRead

/** How a stream closed: both ends said END_STREAM, we reset it, the peer did. Not remembered: `unknown`. */
export type Closed = 'ended' | 'byUs' | 'byPeer' | 'unknown'

const CLOSED: readonly Closed[] = ['ended', 'byUs', 'byPeer', 'unknown']

/** Takes the stream out of the table. */
export const closeStream = <O>(h2: Http2<O>, stream: Stream<O>, how: Closed): void => {
  stream.state = 'closed'
  stream.queue?.clear()
  stream.queue = undefined
  stream.ending = 'no'
  h2.streams.delete(stream.id)
  rememberClosed(h2, stream.id, how)
}

/** A stream of this id was closed, or refused. */
export const rememberClosed = <O>(h2: Http2<O>, id: number, how: Closed): void => {
  h2.closedStreams[h2.closedCount++ % CLOSED_REMEMBERED] = id * 4 + CLOSED.indexOf(how)
}

/** How the stream of this id, which is not in the table and not idle, was closed. */
export const howClosed = <O>(h2: Http2<O>, id: number): Closed => {
  for (const closed of h2.closedStreams) {
    const how = closed % 4
    if (closed - how === id * 4) return CLOSED[how]!
  }
  return 'unknown'
}

/** Whether nobody has opened this stream yet (RFC 9113 5.1.1). Even ones would be pushed, which nobody may. */
export const isIdle = <O>(h2: Http2<O>, id: number): boolean => {
  if (id % 2 === 0) return true
  return h2.role === 'server' ? id > h2.lastPeerStream : id >= h2.nextStream
}
