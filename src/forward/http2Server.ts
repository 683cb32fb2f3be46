import type { Duplex } from 'node:stream'
import { authorityOf } from '../codec/authority.ts'
import { connectionError, ERROR, type ErrorName, errorName } from '../codec/http2Codes.ts'
import { applySettings } from '../codec/http2Control.ts'
import type { Http2Request, Http2Response } from '../codec/http2Message.ts'
import { consume, resetStream, sendData, sendInformation, sendResponse, sendTrailers } from '../codec/http2Send.ts'
import { type Http2Handler, type Http2Limits, newHttp2, newStream, type Stream } from '../codec/http2State.ts'
import type { Clock } from '../net/clock.ts'
import type { ProtocolError } from '../net/protocolError.ts'
import type { Ending } from '../net/traffic.ts'
import {
  type Answer,
  type Asking,
  type Fields,
  type GivenUp,
  type Open,
  OUR_FAULT,
  type RequestHead,
  type ResponseHead,
} from './exchange.ts'
import { type Http2Times, Http2Wire, type Parking } from './http2Wire.ts'

/** What a client-facing HTTP/2 connection needs from the program around it. */
export interface Http2Face {
  /** Where requests go. */
  readonly open: Open
  /** Answers a request that cannot go anywhere. */
  readonly refuse: (head: RequestHead, cause: 'authority' | 'headTooLarge', answer: Answer) => void
  /** A request that was reset before it could be opened. */
  readonly refused: (error: ProtocolError) => void
  readonly limits: Http2Limits
  readonly times: Http2Times
  readonly clock: Clock
  /** Live bytes of the connection, from the client and to it. */
  readonly count: { sent: number; received: number }
  readonly parking?: Parking | undefined
  /** `stream`: the one that carries it now, which need not be the first. */
  readonly ended: (how: Ending, error: Error | undefined, stream: Duplex) => void
}

/** An HTTP/1.1 request that asked for h2c: it becomes stream 1 (RFC 7540 3.2). */
export interface Upgraded {
  readonly head: RequestHead
  /** The payload of HTTP2-Settings, which was checked. */
  readonly settings: Buffer
}

/** A client-facing HTTP/2 connection as its owner sees it. */
export interface Http2Serving {
  /** GOAWAY; streams in flight end, then the connection does. */
  drain(): void
  close(why: Ending): void
}

/** Serves HTTP/2 on a stream whose next bytes are the client's preface. */
export const serveHttp2 = (stream: Duplex, face: Http2Face, upgraded?: Upgraded): Http2Serving => {
  const server = new Http2Server(stream, face)
  server.begin(upgraded)
  return server
}

/**
 * Between an early answer and the reset that asks the client to stop: curl 7.88 reports only the reset when it reads both
 * at once. Until then the client may send what its window allows, which is not renewed.
 */
const ANSWER_FIRST_MS = 100

class Http2Server implements Http2Handler<ServerStream>, Http2Serving {
  readonly face: Http2Face
  readonly wire: Http2Wire<ServerStream>

  constructor(stream: Duplex, face: Http2Face) {
    this.face = face
    const h2 = newHttp2<ServerStream>('server', this, face.limits)
    const lost = (ended: Ending, error: Error | undefined) => this.#lost(ended, error)
    this.wire = new Http2Wire(stream, h2, face.clock, face.times, lost, face.count, face.parking)
  }

  begin(upgraded: Upgraded | undefined): void {
    this.wire.begin()
    if (upgraded === undefined) return
    const { h2 } = this.wire
    applySettings(h2, upgraded.settings, 0, upgraded.settings.length)
    h2.lastPeerStream = 1
    const stream = newStream(h2, 1, 'halfClosedRemote', 'body', upgraded.head.method)
    this.#open(stream, upgraded.head, true)
  }

  drain(): void {
    this.wire.drain('drained')
  }

  close(why: Ending): void {
    this.wire.close(why)
  }

  requestRead(stream: Stream<ServerStream>, request: Http2Request, last: boolean): void {
    const { method, upgrade } = request
    const authority = authorityOf(request.authority)
    const isTunnel = method === 'CONNECT' && upgrade === undefined
    // Where a tunnel leads has to be said whole (RFC 9113 8.5, RFC 9110 9.3.6).
    if (authority === undefined || (isTunnel && !/:\d+$/.test(authority)))
      return this.#refuse(stream, request, last, 'authority')
    if (authority === request.authority) return this.#open(stream, request, last)
    // As rules compare it and as HTTP/1 writes it: a port in few digits, and none that is empty.
    this.#open(stream, { ...request, authority, ...(isTunnel && { target: authority }) }, last)
  }

  requestTooLarge(stream: Stream<ServerStream>, last: boolean): void {
    this.#refuse(stream, NO_REQUEST, last, 'headTooLarge')
  }

  #open(stream: Stream<ServerStream>, head: RequestHead, last: boolean): void {
    const exchange = new ServerStream(this, stream, last)
    stream.owner = exchange
    exchange.asking = this.face.open(head, last, exchange)
    if (exchange.isOver) exchange.asking.abort(ERROR.NO_ERROR)
  }

  #refuse(stream: Stream<ServerStream>, head: RequestHead, last: boolean, cause: 'authority' | 'headTooLarge'): void {
    const exchange = new ServerStream(this, stream, last)
    stream.owner = exchange
    this.face.refuse(head, cause, exchange)
  }

  informationRead(): void {}
  responseRead(_: Stream<ServerStream>, _response: Http2Response): void {}

  dataRead({ owner }: Stream<ServerStream>, chunk: Buffer, last: boolean): void {
    owner!.dataCame(chunk, last)
  }

  trailersRead({ owner }: Stream<ServerStream>, fields: Fields): void {
    owner!.trailersCame(fields)
  }

  requestRefused(name: ErrorName, why: string): void {
    this.face.refused(connectionError(name, why))
  }

  streamReset({ owner }: Stream<ServerStream>, code: number, why: string): void {
    owner?.gaveUp(code, why === 'RST_STREAM' ? undefined : { cause: `HTTP2_${errorName(code)}` })
  }

  answeredEarly(stream: Stream<ServerStream>): void {
    const { h2 } = this.wire
    this.face.clock.after(ANSWER_FIRST_MS, () => {
      if (stream.state === 'closed') return
      resetStream(h2, stream, ERROR.NO_ERROR)
      this.wire.touch()
    })
  }

  sent({ owner }: Stream<ServerStream>, bytes: number): void {
    owner!.asking?.consumed(bytes)
  }

  goneAway(): void {}
  settingsRead(): void {}

  settingsAcknowledged(): void {
    this.wire.acknowledged()
  }

  pingAnswered(): void {
    this.wire.answered()
  }

  #lost(ended: Ending, error: Error | undefined): void {
    const streams = [...this.wire.h2.streams.values()]
    this.wire.h2.streams.clear()
    const why = ended === 'internalError' ? OUR_FAULT : undefined
    for (const { owner } of streams) owner?.gaveUp(ERROR.CANCEL, why)
    this.face.ended(ended, error, this.wire.stream)
  }
}

const NO_REQUEST: RequestHead = { method: 'GET', scheme: 'http', authority: '', target: '/', version: '2', fields: [] }

/** One request of the client, and the way back to it. */
class ServerStream implements Answer {
  readonly #server: Http2Server
  readonly #stream: Stream<ServerStream>
  asking: Asking | undefined
  /** Nothing more is to be said to the client, or to be heard from it. */
  isOver = false
  #isRequestDone: boolean
  #isHeadSent = false

  constructor(server: Http2Server, stream: Stream<ServerStream>, last: boolean) {
    this.#server = server
    this.#stream = stream
    this.#isRequestDone = last
  }

  dataCame(chunk: Buffer, last: boolean): void {
    if (last) this.#isRequestDone = true
    if (this.isOver || this.asking === undefined) return this.consumed(chunk.length)
    this.asking.data(chunk, last)
  }

  trailersCame(fields: Fields): void {
    this.#isRequestDone = true
    if (!this.isOver) this.asking?.trailers(fields)
  }

  /** The client, or the connection, is gone. */
  gaveUp(code: number, why?: GivenUp): void {
    if (this.isOver) return
    this.isOver = true
    this.asking?.abort(code, why)
  }

  information(head: ResponseHead): void {
    if (this.isOver || this.#isHeadSent) return
    const { wire } = this.#server
    sendInformation(wire.h2, this.#stream, head.status, head.fields)
    wire.touch()
  }

  head(head: ResponseHead, last: boolean): void {
    if (this.isOver || this.#isHeadSent) return
    this.#isHeadSent = true
    const { wire } = this.#server
    // Only a 2xx makes a tunnel (RFC 9113 8.5); with another answer the request is over when the answer is.
    if (head.status >= 300) this.#stream.awaits = 'body'
    if (last) this.#answered()
    sendResponse(wire.h2, this.#stream, head.status, head.fields, last, head.neverIndexed)
    wire.touch()
  }

  data(chunk: Buffer, last: boolean): void {
    if (this.isOver) return
    const { wire } = this.#server
    if (last) this.#answered()
    sendData(wire.h2, this.#stream, chunk, last)
    wire.touch()
  }

  trailers(fields: Fields): void {
    if (this.isOver) return
    const { wire } = this.#server
    this.#answered()
    sendTrailers(wire.h2, this.#stream, fields)
    wire.touch()
  }

  /** The answer breaks off, or never comes: the client's stream is reset with the same code. */
  abort(code: number): void {
    if (this.isOver) return
    const { wire } = this.#server
    this.isOver = true
    resetStream(wire.h2, this.#stream, code === ERROR.NO_ERROR ? ERROR.INTERNAL_ERROR : code)
    wire.touch()
  }

  consumed(bytes: number): void {
    const { wire } = this.#server
    consume(wire.h2, this.#stream, bytes)
    wire.touch()
  }

  /** The answer is complete. What the client still sends of its request nobody reads, unless it is a tunnel. */
  #answered(): void {
    if (this.#stream.awaits === 'tunnel') return
    if (this.#isRequestDone) return
    this.isOver = true
    this.asking?.abort(ERROR.NO_ERROR)
  }
}
