import { createHash } from 'node:crypto'
import type { Duplex } from 'node:stream'
import { ERROR } from '../codec/http2Codes.ts'
import type { Http2Response } from '../codec/http2Message.ts'
import { canOpen, consume, resetStream, sendData, sendRequest, sendTrailers } from '../codec/http2Send.ts'
import { type Http2Handler, type Http2Limits, newHttp2, type Stream } from '../codec/http2State.ts'
import type { Clock } from '../net/clock.ts'
import { kept } from '../net/direct.ts'
import type { Ending } from '../net/traffic.ts'
import type { Answer, Asking, Fields, RequestHead, ResponseHead, Upstream, UpstreamEvents, Why } from './exchange.ts'
import { fieldOf } from './fields.ts'
import { type Http2Times, Http2Wire } from './http2Wire.ts'

/** Until the server has said how many streams it takes. */
const STREAMS_AT_FIRST = 100

/** What an upstream HTTP/2 connection needs to know. */
export interface Http2UpstreamOptions {
  readonly limits: Http2Limits
  readonly times: Http2Times
  readonly clock: Clock
  /** Requests at once, where that is not the 100 of a connection that the pool may open another beside. */
  readonly streamsMax?: number
  /** Told once how the connection ended. */
  readonly ended?: (how: Ending, error: Error | undefined) => void
}

/** A connection on which we are the client, whoever dialled it: many requests at once. */
export class Http2Upstream implements Upstream, Http2Handler<UpstreamStream> {
  readonly protocol = 'http2'
  readonly wire: Http2Wire<UpstreamStream>
  readonly #events: UpstreamEvents
  readonly #options: Http2UpstreamOptions
  /** Requests for extended CONNECT wait for the server's SETTINGS (RFC 8441 3). */
  readonly #held: { readonly asking: UpstreamStream; readonly last: boolean }[] = []
  #isSettled = false
  /** The connection itself is gone. */
  isLost = false
  /** Counts what was heard, so that a request knows whether anything came after it. */
  heard = 0

  constructor(stream: Duplex, options: Http2UpstreamOptions, events: UpstreamEvents) {
    this.#events = events
    this.#options = options
    const h2 = newHttp2<UpstreamStream>('client', this, options.limits)
    this.wire = new Http2Wire(stream, h2, options.clock, options.times, (ended, error) => this.#lost(ended, error))
    this.wire.begin()
  }

  room(): number {
    const { h2, isClosing } = this.wire
    if (isClosing || !canOpen(h2)) return 0
    const most = this.#options.streamsMax ?? STREAMS_AT_FIRST
    return Math.max(0, Math.min(h2.peerStreamsMax, most) - h2.streams.size - this.#held.length)
  }

  readonly open = (head: RequestHead, last: boolean, answer: Answer): Asking => {
    const asking = new UpstreamStream(this, head, answer)
    if (this.wire.isClosing || !canOpen(this.wire.h2)) asking.fail(ERROR.REFUSED_STREAM, 'unhandled')
    else if (head.upgrade === undefined || this.#isSettled) asking.begin(last)
    else this.#held.push({ asking, last })
    return asking
  }

  close(): void {
    this.wire.drain()
  }

  requestRead(): void {}
  requestTooLarge(): void {}
  requestRefused(): void {}
  answeredEarly(): void {}

  informationRead({ owner }: Stream<UpstreamStream>, response: Http2Response): void {
    owner!.informed(response)
  }

  responseRead({ owner }: Stream<UpstreamStream>, response: Http2Response, last: boolean): void {
    this.heard += 1
    owner!.answered(response, last)
    if (last) this.#freed()
  }

  dataRead({ owner }: Stream<UpstreamStream>, chunk: Buffer, last: boolean): void {
    owner!.answer.data(chunk, last)
    if (last) this.#freed()
  }

  trailersRead({ owner }: Stream<UpstreamStream>, fields: Fields): void {
    owner!.answer.trailers(fields)
    this.#freed()
  }

  streamReset({ owner }: Stream<UpstreamStream>, code: number, why: string): void {
    if (why === 'RST_STREAM') this.heard += 1
    owner!.answer.abort(code, whyReset(code, why))
    this.#freed()
  }

  sent({ owner }: Stream<UpstreamStream>, bytes: number): void {
    owner!.answer.consumed(bytes)
  }

  goneAway(): void {
    this.wire.drain()
    this.#events.ended(this)
  }

  settingsRead(): void {
    this.heard += 1
    this.#isSettled = true
    for (const { asking, last } of this.#held.splice(0)) asking.begin(last)
    this.#freed()
  }

  settingsAcknowledged(): void {
    this.wire.acknowledged()
  }

  pingAnswered(): void {
    this.wire.answered()
  }

  #freed(): void {
    this.#events.freed(this)
  }

  freed(): void {
    this.#freed()
  }

  #lost(ended: Ending, error: Error | undefined): void {
    this.isLost = true
    const streams = [...this.wire.h2.streams.values()]
    this.wire.h2.streams.clear()
    this.#events.ended(this)
    const why = ended === 'protocolError' ? 'malformed' : ended === 'internalError' ? 'fault' : undefined
    for (const { owner } of streams) owner?.lost(why)
    for (const { asking } of this.#held.splice(0)) asking.lost(why)
    this.#options.ended?.(ended === 'clientReset' ? 'upstreamReset' : ended, error)
  }
}

/** RFC 9113 8.7: what was refused, or is above the last stream of GOAWAY, was surely not handled. */
const whyReset = (code: number, why: string): Why | undefined => {
  if (why === 'GOAWAY' || code === ERROR.REFUSED_STREAM) return 'unhandled'
  return why === 'RST_STREAM' ? undefined : 'malformed'
}

/** One request on its way, and the way back for its answer. */
class UpstreamStream implements Asking {
  readonly answer: Answer
  readonly #upstream: Http2Upstream
  readonly #head: RequestHead
  #stream: Stream<UpstreamStream> | undefined
  #heardBefore = 0
  #isOver = false
  /** What came before the stream could be opened. */
  #early: (() => void)[] | undefined

  constructor(upstream: Http2Upstream, head: RequestHead, answer: Answer) {
    this.#upstream = upstream
    this.#head = head
    this.answer = answer
  }

  begin(last: boolean): void {
    if (this.#isOver) return
    const { wire } = this.#upstream
    const { h2 } = wire
    const head = requestToSend(this.#head)
    if (head.upgrade !== undefined && !h2.peerExtendedConnect) return this.fail(ERROR.HTTP_1_1_REQUIRED, 'malformed')
    if (!canOpen(h2)) return this.fail(ERROR.REFUSED_STREAM, 'unhandled')
    this.#heardBefore = this.#upstream.heard
    this.#stream = sendRequest(h2, head, last && head.method !== 'CONNECT', this)
    wire.touch()
    const early = this.#early
    this.#early = undefined
    if (early !== undefined) for (const step of early) step()
  }

  /** Not in the caller's turn, who has no Asking yet. */
  fail(code: number, why: Why): void {
    this.#isOver = true
    queueMicrotask(() => this.answer.abort(code, why))
  }

  informed(response: Http2Response): void {
    this.answer.information(responseHead(this.#head, response))
  }

  answered(response: Http2Response, last: boolean): void {
    this.answer.head(responseHead(this.#head, response), last)
  }

  /** The connection is gone; `known`: why, where it was not the network. */
  lost(known: Why | undefined): void {
    if (this.#isOver) return
    this.#isOver = true
    // Before the server has said anything at all, or since the request: it was closing as we sent.
    const isUnheard = this.#upstream.heard === this.#heardBefore
    const why = known ?? (isUnheard && this.#heardBefore > 0 ? 'closedIdle' : 'closed')
    this.answer.abort(ERROR.INTERNAL_ERROR, why)
  }

  data(chunk: Buffer, last: boolean): void {
    if (this.#isOver) return
    if (this.#stream === undefined) {
      const early = kept(chunk)
      return this.#later(() => this.data(early, last))
    }
    sendData(this.#upstream.wire.h2, this.#stream, chunk, last)
    this.#upstream.wire.touch()
  }

  trailers(fields: Fields): void {
    if (this.#isOver) return
    if (this.#stream === undefined) return this.#later(() => this.trailers(fields))
    sendTrailers(this.#upstream.wire.h2, this.#stream, fields)
    this.#upstream.wire.touch()
  }

  abort(code: number): void {
    if (this.#isOver) return
    this.#isOver = true
    if (this.#stream === undefined) return
    // An answer that came whole needs no more of the request (RFC 9113 8.1).
    resetStream(this.#upstream.wire.h2, this.#stream, code === ERROR.NO_ERROR ? ERROR.CANCEL : code)
    this.#upstream.wire.touch()
    this.#upstream.freed()
  }

  consumed(bytes: number): void {
    if (this.#stream === undefined) return
    consume(this.#upstream.wire.h2, this.#stream, bytes)
    this.#upstream.wire.touch()
  }

  #later(step: () => void): void {
    this.#early ??= []
    this.#early.push(step)
  }
}

/**
 * The request in the words of HTTP/2. Host is `:authority` there, and the Upgrade of a websocket an extended CONNECT,
 * which needs no key (RFC 8441 5).
 */
const requestToSend = (head: RequestHead): RequestHead => {
  if (head.version === '2') return head
  const isUpgrade = head.upgrade !== undefined
  const fields = without(head.fields, isUpgrade ? UPGRADE_FIELDS : HOST)
  return isUpgrade ? { ...head, method: 'CONNECT', fields } : { ...head, fields }
}

const HOST = new Set(['host'])
const UPGRADE_FIELDS = new Set(['host', 'sec-websocket-key', 'content-length'])

const without = (fields: Fields, names: ReadonlySet<string>): Fields => {
  const left: Fields = []
  for (let at = 0; at < fields.length; at += 2)
    if (!names.has(fields[at]!.toLowerCase())) left.push(fields[at]!, fields[at + 1]!)
  return left
}

const LENGTH = new Set(['content-length'])

/** Where no body can follow, its length may not either (RFC 9110 8.6 and 9.3.6). */
const isWithoutLength = (asked: RequestHead, status: number): boolean =>
  status < 200 || status === 204 || (asked.method === 'CONNECT' && status < 300)

/** To a client of HTTP/1 the 200 of an extended CONNECT is the 101 it waits for. */
const responseHead = (asked: RequestHead, response: Http2Response): ResponseHead => {
  if (response.length !== undefined && isWithoutLength(asked, response.status))
    return responseHead(asked, { ...response, fields: without(response.fields, LENGTH), length: undefined })
  if (asked.version === '2' || asked.upgrade === undefined || response.status < 200 || response.status > 299)
    return response
  const key = fieldOf(asked.fields, 'sec-websocket-key')
  const fields = key === undefined ? response.fields : [...response.fields, 'sec-websocket-accept', acceptOf(key)]
  return { status: 101, reason: 'Switching Protocols', upgrade: asked.upgrade, fields }
}

/** RFC 6455 4.2.2. */
const acceptOf = (key: string): string =>
  createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
