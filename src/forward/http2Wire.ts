import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { fail, receive } from '../codec/http2.ts'
import { connectionError, ERROR } from '../codec/http2Codes.ts'
import { LAST_STREAM_UNKNOWN, pump, resetStream, sendGoaway, sendPing, start } from '../codec/http2Send.ts'
import { type Http2, isAtRest } from '../codec/http2State.ts'
import { SEGMENT_BYTES } from '../codec/segments.ts'
import type { Clock } from '../net/clock.ts'
import { type Direct, directOf, hearBytes } from '../net/direct.ts'
import { Fault, faulted } from '../net/fault.ts'
import { type Guest, PARKED, type Park } from '../net/park.ts'
import { ProtocolError } from '../net/protocolError.ts'
import type { Ending } from '../net/traffic.ts'
import { flushLater } from './turn.ts'

/** Deadlines of an HTTP/2 connection, in milliseconds. */
export interface Http2Times {
  /** Our SETTINGS must be acknowledged within this (RFC 9113 6.5.3). */
  readonly settingsMs: number
  /** Silence before a PING asks whether the peer is still there, and how long it may take to answer. */
  readonly keepaliveMs: number
  readonly pingMs: number
  /** A connection without streams is closed after this. */
  readonly idleMs: number
}

export const HTTP2_TIMES: Http2Times = {
  settingsMs: 10_000,
  keepaliveMs: 30_000, // half of what NATs and load balancers of the large clouds give a silent connection
  pingMs: 10_000,
  idleMs: 60_000,
}

/**
 * With so much waiting for the stream no DATA is written any more, and with so much nothing is read either. A socket that
 * is written directly is full when the system takes no more: more of ours before it would only leave the cache.
 */
const CONGESTED_BYTES = 262_144
const STUFFED_BYTES = 1_048_576
/** So much is not gathered any further: sent at once it is still in the cache, and its buffer serves the next one. */
const WORTH_BYTES = SEGMENT_BYTES / 2
/** How long a client may go on opening streams after the first GOAWAY. */
const GOODBYE_MS = 1_000

/** A connection that is silent for so long, and has no streams, need not keep its socket. */
const REST_MS = 3_000

/** Where a connection without streams may wait, and who else then forgets what is easily found again. */
export interface Parking {
  readonly park: Park
  readonly connection: Guest['connection']
  readonly rests: () => void
}

/** The end of the connection: how, and for which error of the peer or the network. */
export type OnLost = (ended: Ending, error: Error | undefined) => void

const nothing = (): void => {}

/** Carries bytes between a stream and the codec, and keeps the connection's time. */
export class Http2Wire<O> implements Guest {
  readonly h2: Http2<O>
  place = 0
  until = 0
  #stream: Duplex
  readonly #parking: Parking | undefined
  readonly #clock: Clock
  readonly #times: Http2Times
  readonly #onLost: OnLost
  /** Where bytes are counted as they are on the connection: heads and frames among them. */
  readonly #count: { sent: number; received: number } | undefined
  /** A plain socket has taken the bytes when it says so; other streams may keep them. */
  readonly #takesAtOnce: boolean
  #direct: Direct | undefined
  /** Buffers that the socket may still be writing. */
  readonly #lent: Buffer[] = []
  /** Counts what came, of whatever kind: while it grows, the peer lives. */
  reads = 0
  #isDirty = false
  #isPaused = false
  #isClosing = false
  #isOver = false
  #isAcknowledged = false
  #isPinged = false
  readonly #begunAt: number
  #heardAt: number
  #busyAt: number
  #why: Ending = 'closed'
  #cancelTimer = nothing

  constructor(
    stream: Duplex,
    h2: Http2<O>,
    clock: Clock,
    times: Http2Times,
    onLost: OnLost,
    count?: { sent: number; received: number },
    parking?: Parking,
  ) {
    this.h2 = h2
    this.#stream = stream
    this.#clock = clock
    this.#times = times
    this.#onLost = onLost
    this.#count = count
    this.#takesAtOnce = stream instanceof Socket
    this.#direct = directOf(stream)
    this.#parking = this.#direct === undefined ? undefined : parking
    this.#begunAt = clock.now()
    this.#heardAt = this.#begunAt
    this.#busyAt = this.#begunAt
  }

  /** Says hello and begins to read. */
  begin(): void {
    start(this.h2)
    this.#listen()
    const stream = this.#stream
    this.#watch(
      Math.min(this.#times.settingsMs, this.#times.idleMs, this.#parking ? REST_MS : Number.POSITIVE_INFINITY),
    )
    this.touch()
    if (stream.destroyed) this.#lost('clientReset', undefined)
    else if (stream.readableEnded) this.#ended()
  }

  /** What carries it now. */
  get stream(): Duplex {
    return this.#stream
  }

  /** As a guest of the park: its own stream is with the connection. */
  get connection(): Guest['connection'] {
    return this.#parking!.connection
  }

  woken(stream: Duplex, isLate: boolean): void {
    this.#stream = stream
    this.#direct = directOf(stream)
    this.#heardAt = this.#clock.now()
    this.#listen()
    this.#watch(REST_MS)
    if (isLate) this.drain('idleTimeout')
  }

  #listen(): void {
    const stream = this.#stream
    hearBytes(stream, (bytes) => this.#read(bytes))
    stream.on('end', () => this.#ended())
    stream.on('error', (error) => this.#broken(error))
    stream.on('close', () => {
      // Unless it has been parked since.
      if (stream === this.#stream) this.#lost('clientReset', undefined)
    })
  }

  /** There is, or may be, something to send. */
  touch(): void {
    if (this.#isOver) return
    if (this.h2.output.bytes >= WORTH_BYTES) this.#writeAll()
    if (this.#isDirty) return
    this.#isDirty = true
    flushLater(this)
  }

  /** Our SETTINGS are known to the peer. */
  acknowledged(): void {
    this.#isAcknowledged = true
  }

  /** The second GOAWAY names the last stream that came; whatever is above it was never looked at (RFC 9113 6.8). */
  answered(): void {
    this.#isPinged = false
    if (this.#isClosing && this.h2.goawaySent === LAST_STREAM_UNKNOWN) this.#sayLast()
  }

  /** Takes no new streams, lets those in flight end, then closes. */
  drain(why: Ending = 'closed'): void {
    if (this.#isClosing) return
    this.#awake()
    this.#isClosing = true
    this.#why = why
    if (this.h2.role === 'server') {
      sendGoaway(this.h2, LAST_STREAM_UNKNOWN, ERROR.NO_ERROR)
      sendPing(this.h2)
      this.#clock.after(GOODBYE_MS, () => this.#sayLast())
    } else sendGoaway(this.h2, 0, ERROR.NO_ERROR)
    this.touch()
  }

  get isClosing(): boolean {
    return this.#isClosing || this.#isOver
  }

  /** Ends at once; what the peer has not been told yet is lost. */
  close(why: Ending, name: 'NO_ERROR' | 'CANCEL' | 'INTERNAL_ERROR' = 'NO_ERROR'): void {
    if (this.#isOver) return
    this.#awake()
    sendGoaway(this.h2, this.h2.lastPeerStream, ERROR[name])
    this.#writeAll()
    this.#lost(why, undefined)
  }

  flush(): void {
    this.#isDirty = false
    if (this.#isOver) return
    this.#writeAll()
    const { h2 } = this
    while (h2.waiting.length > 0 && h2.sendWindow > 0 && !h2.isCongested) {
      pump(h2)
      this.#writeAll()
    }
    if (h2.streams.size > 0) this.#busyAt = -1
    else if (this.#isClosing) this.#finish()
    else if (this.#busyAt < 0) this.#busyAt = this.#clock.now()
  }

  broke(error: unknown): void {
    faulted(this.#stream, error)
  }

  #sayLast(): void {
    if (this.#isOver || this.h2.goawaySent !== LAST_STREAM_UNKNOWN) return
    sendGoaway(this.h2, this.h2.lastPeerStream, ERROR.NO_ERROR)
    this.touch()
  }

  #finish(): void {
    if (this.h2.goawaySent === LAST_STREAM_UNKNOWN) return
    this.#stream.end()
    this.#lost(this.#why, undefined)
  }

  #writeAll(): void {
    const { output } = this.h2
    if (output.bytes === 0) return
    const stream = this.#stream
    const { bytes } = output
    const taken = output.take()
    if (!stream.writable) return
    if (this.#count !== undefined) this.#count.received += bytes
    if (this.#sendAtOnce(taken)) return this.h2.output.giveBack(taken)
    if (this.#takesAtOnce) this.#lent.push(...taken)
    const left = stream.writableLength
    if (left === 0) return this.#takeBack()
    if (this.#direct !== undefined || left > CONGESTED_BYTES) this.h2.isCongested = true
    if (left > STUFFED_BYTES && !this.#isPaused) {
      this.#isPaused = true
      stream.pause()
    }
  }

  /** Whether the system has taken all of it; what it has not, the stream has now. */
  #sendAtOnce(taken: readonly Buffer[]): boolean {
    const stream = this.#stream
    const direct = stream.writableLength === 0 ? this.#direct : undefined
    let at = 0
    let sent = 0
    for (; direct !== undefined && at < taken.length; at++) {
      const buffer = taken[at]!
      sent = Math.max(0, direct.send(buffer, buffer.length))
      if (sent < buffer.length) break
      sent = 0
    }
    if (at === taken.length) return true
    stream.cork()
    for (; at < taken.length - 1; at++, sent = 0) stream.write(sent === 0 ? taken[at] : taken[at]!.subarray(sent))
    stream.write(sent === 0 ? taken[at] : taken[at]!.subarray(sent), this.#whenWritten)
    stream.uncork()
    return false
  }

  /** The system has taken all that was written. */
  #takeBack(): void {
    if (this.#lent.length === 0) return
    this.h2.output.giveBack(this.#lent)
    this.#lent.length = 0
  }

  readonly #whenWritten = (): void => {
    if (this.#isOver || this.#stream.writableLength > 0) return
    this.#takeBack()
    this.h2.isCongested = false
    if (this.#isPaused) {
      this.#isPaused = false
      this.#stream.resume()
    }
    this.flush()
  }

  #read(bytes: Buffer): void {
    if (this.#isOver) return
    const now = this.#clock.now()
    this.#heardAt = now
    if (this.#count !== undefined) this.#count.sent += bytes.length
    this.reads += 1
    try {
      receive(this.h2, bytes, now)
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      return this.#failed(error)
    }
    this.touch()
  }

  #failed(error: ProtocolError): void {
    this.#writeAll()
    if (this.#stream.writable) this.#stream.end()
    this.#lost('protocolError', error)
  }

  /** Some close with our last words unread, which the system makes a reset: where nothing is open it takes nothing away. */
  #broken(error: Error): void {
    if (error instanceof Fault) this.#lost('internalError', error)
    else this.#lost('clientReset', this.h2.streams.size === 0 ? undefined : error)
  }

  /** The peer sends no more: a server's answers still go out, a client has nothing left to wait for. */
  #ended(): void {
    if (this.#isOver) return
    const { h2 } = this
    h2.goawayRead = true
    if (h2.role === 'client') return this.#lost(h2.streams.size === 0 ? 'closed' : 'clientReset', undefined)
    for (const stream of [...h2.streams.values()]) {
      if (stream.state === 'halfClosedRemote') continue
      resetStream(h2, stream, ERROR.CANCEL)
      h2.handler.streamReset(stream, ERROR.CANCEL, 'the connection ended')
    }
    this.#isClosing = true
    h2.goawaySent = h2.lastPeerStream
    this.touch()
  }

  #lost(ended: Ending, error: Error | undefined): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#cancelTimer()
    const stream = this.#stream
    // A peer that keeps its half open does not keep the socket: what is written still gets out.
    if (stream.writableEnded && !stream.destroyed) this.#clock.after(GOODBYE_MS, () => stream.destroy())
    else stream.destroy()
    this.#onLost(ended, error)
  }

  /** One timer for every deadline of the connection, looked at when the nearest may have come. */
  #watch(ms: number): void {
    this.#cancelTimer = this.#clock.after(ms, () => this.#look())
  }

  #look(): void {
    const { settingsMs, keepaliveMs, pingMs, idleMs } = this.#times
    const now = this.#clock.now()
    const settingsLeft = this.#isAcknowledged ? Number.POSITIVE_INFINITY : this.#begunAt + settingsMs - now
    if (settingsLeft <= 0) return this.#expired('SETTINGS_TIMEOUT', `SETTINGS not acknowledged within ${settingsMs} ms`)
    const silent = now - this.#heardAt
    if (this.#isPinged && silent >= pingMs) return this.#expired('NO_ERROR', `PING not answered within ${pingMs} ms`)
    const isIdle = this.h2.streams.size === 0
    const idleLeft = isIdle && this.#busyAt >= 0 ? this.#busyAt + idleMs - now : idleMs
    const restLeft = this.#parking && isIdle ? Math.max(this.#busyAt, this.#heardAt) + REST_MS - now : idleLeft
    if (restLeft <= 0 && idleLeft > 0 && this.#rest(idleLeft)) return
    if (idleLeft <= 0) this.drain('idleTimeout')
    else if (!isIdle && !this.#isPinged && silent >= keepaliveMs) {
      this.#isPinged = true
      sendPing(this.h2)
      this.touch()
    }
    const idleIn = Math.min(idleLeft > 0 ? idleLeft : idleMs, restLeft > 0 ? restLeft : REST_MS)
    const nearest = Math.min(settingsLeft, idleIn, keepaliveMs - (isIdle ? 0 : silent))
    this.#watch(this.#isPinged ? pingMs : Math.max(1, nearest))
  }

  /** Whether it waits in the park from now on. */
  #rest(forMs: number): boolean {
    const isQuiet = this.#isAcknowledged && !this.#isClosing && !this.#isPinged && !this.#isPaused && !this.#isDirty
    if (!isQuiet || this.#lent.length > 0 || !isAtRest(this.h2)) return false
    const stream = this.#stream
    this.#stream = PARKED
    if (this.#parking?.park.leave(stream, this, forMs)) {
      this.#direct = undefined
      this.#cancelTimer = nothing
      this.h2.encoder.forget()
      this.#parking.rests()
      return true
    }
    this.#stream = stream
    return false
  }

  #awake(): void {
    if (this.#stream === PARKED) this.#parking?.park.wake(this)
  }

  #expired(name: 'SETTINGS_TIMEOUT' | 'NO_ERROR', what: string): void {
    const error = connectionError(name, what)
    fail(this.h2, error)
    this.#writeAll()
    if (this.#stream.writable) this.#stream.end()
    this.#lost(name === 'NO_ERROR' ? 'idleTimeout' : 'protocolError', error)
  }
}
