import type { Duplex } from 'node:stream'
import { sendPing } from '../codec/http2Send.ts'
import { HTTP2_LIMITS } from '../codec/http2State.ts'
import type { ChannelName } from '../forward/channels.ts'
import type { Answer, Asking, Fields, RequestHead, Upstream } from '../forward/exchange.ts'
import { Http2Upstream } from '../forward/http2Upstream.ts'
import type { Clock } from '../net/clock.ts'
import { isGrpcCall, openGrpcCall } from './grpcCall.ts'
import { EMPTY_GRPC_MESSAGE, PING_PATH, TOKEN_HEADER } from './wire.ts'

/** What every channel of a process is run with. */
export interface ChannelOptions {
  readonly clock: Clock
  readonly pingMs: number
  readonly firstPingMs: number
  /** How long the app may take to speak HTTP/2. */
  readonly settingsMs: number
  readonly streamsMax: number
  readonly messageBytesMax: number
  /** What apps are sent with each call, as `dapr-api-token`. */
  readonly appToken: string | undefined
}

/** Who is at the other end. */
export interface ChannelPeer {
  readonly app: string
  readonly name: ChannelName
  /** It is an app of our own SDK: it takes TCP as CONNECT streams. */
  readonly isOurs: boolean
  /** By its certificate, where it had to show one. */
  readonly identity?: string | null
}

/**
 * opening: it has not pinged yet. up: it takes calls. leaving: it takes no new ones and finishes those it has. gone: its
 * connection is closed.
 */
export type ChannelState = 'opening' | 'up' | 'leaving' | 'gone'

/** Why a channel is gone, for the log and for metrics. */
export type ChannelEnd = 'left' | 'lost' | 'silent' | 'noFirstPing' | 'pingRefused' | 'brokeProtocol' | 'closed'

/** What a channel tells the one who keeps it. */
export interface ChannelEvents {
  /** The app speaks HTTP/2. */
  readonly spoke: () => void
  readonly up: () => void
  /** There may be more room than before. */
  readonly freed: () => void
  readonly leaving: () => void
  /** A PING was not answered within its period. */
  readonly pingMissed: () => void
  readonly gone: (why: ChannelEnd, error: Error | undefined) => void
}

const MISSES_MAX = 2
const CANCEL = 8
const HEALTH_PATH = '/dapr.proto.runtime.v1.AppCallbackHealthCheck/HealthCheck'
const NEVER_MS = 2_073_600_000 // 24 days, which timers can still count: what ends a channel is its pings

/** One connection that an app opened and on which we call: HTTP/2, and we are its client. */
export class Channel implements Upstream {
  readonly protocol = 'http2'
  readonly peer: ChannelPeer
  readonly channel: ChannelName
  readonly openedAt: number
  state: ChannelState = 'opening'
  /** Calls so far. */
  calls = 0
  /** PINGs that were not answered in time, so far. */
  missed = 0
  /** When it was last given work, as a count of all work given. */
  lastPicked = 0
  readonly #options: ChannelOptions
  readonly #events: ChannelEvents
  readonly #upstream: Http2Upstream
  #ping: Asking | undefined
  #pingBytes = 0
  #why: ChannelEnd = 'lost'
  #cancelFirstPing = (): void => {}
  #cancelBeat = (): void => {}

  constructor(stream: Duplex, peer: ChannelPeer, options: ChannelOptions, events: ChannelEvents) {
    this.peer = peer
    this.channel = peer.name
    this.#options = options
    this.#events = events
    const { clock, settingsMs, streamsMax } = options
    this.openedAt = clock.time()
    this.#upstream = new Http2Upstream(
      stream,
      {
        clock,
        // Everything goes over this one connection: calls whose readers stall at their first window must not hold up others.
        limits: {
          ...HTTP2_LIMITS,
          connectionWindowBytes: HTTP2_LIMITS.connectionWindowBytes + streamsMax * HTTP2_LIMITS.windowBytes,
        },
        times: { settingsMs, keepaliveMs: NEVER_MS, pingMs: NEVER_MS, idleMs: NEVER_MS },
        streamsMax: streamsMax + 1, // Ping is one of them
        ended: (ended, error) => this.#gone(ended === 'protocolError' ? 'brokeProtocol' : this.#why, error),
      },
      // A connection that is lost tells it here too, before it tells how it ended.
      { freed: () => this.#freed(), ended: (upstream) => (upstream as Http2Upstream).isLost || this.#left() },
    )
  }

  /** Calls in flight. */
  get load(): number {
    return this.#upstream.wire.h2.streams.size - (this.#ping === undefined ? 0 : 1)
  }

  /** Grows with everything that comes from the app. */
  get reads(): number {
    return this.#upstream.wire.reads
  }

  room(): number {
    return this.state === 'up' ? this.#upstream.room() : 0
  }

  readonly open = (head: RequestHead, last: boolean, answer: Answer): Asking => {
    this.calls += 1
    const asked = this.#asApp(head)
    if (!isGrpcCall(asked)) return this.#upstream.open(asked, last, answer)
    return openGrpcCall(this.#upstream.open, asked, last, answer, this.#options)
  }

  /** Takes no new calls, lets those in flight end, then closes. */
  close(): void {
    this.#why = this.#why === 'lost' ? 'closed' : this.#why
    this.#leave()
  }

  /** Ends at once; what is in flight fails. */
  destroy(why: ChannelEnd): void {
    this.#why = why
    this.#upstream.wire.close('closed')
  }

  /** In the app's name, and with what we say to it: a caller cannot say it in our place. */
  #asApp(head: RequestHead): RequestHead {
    const { appToken } = this.#options
    const fields = withoutToken(head.fields)
    const isToken = appToken !== undefined && head.target !== HEALTH_PATH
    return {
      ...head,
      authority: head.authority === '' ? this.peer.app : head.authority,
      fields: isToken ? [...fields, TOKEN_HEADER, appToken] : fields,
    }
  }

  /** Room may have grown. The first time this is told it means that SETTINGS came: the app is an HTTP/2 server. */
  #freed(): void {
    if (this.#ping === undefined && this.state === 'opening') {
      this.#openPing()
      this.#events.spoke()
    }
    if (this.state === 'leaving') this.#leaveIfFree()
    else if (this.state === 'up') this.#events.freed()
  }

  #openPing(): void {
    const { app } = this.peer
    const fields: Fields = ['content-type', 'application/grpc', 'te', 'trailers']
    const head: RequestHead = {
      ...{ method: 'POST', scheme: 'http', authority: app, target: PING_PATH, version: '2' },
      fields,
    }
    const { clock, firstPingMs } = this.#options
    this.#ping = this.#upstream.open(head, false, {
      information: () => {},
      head: (_, last) => last && this.#pingEnded(),
      data: (chunk, last) => {
        this.#ping?.consumed(chunk.length)
        this.#pinged(chunk.length)
        if (last) this.#pingEnded()
      },
      trailers: () => this.#pingEnded(),
      abort: () => this.#pingEnded(),
      consumed: () => {},
    })
    this.#cancelFirstPing = clock.after(firstPingMs, () => this.destroy('noFirstPing'))
    this.#beat(this.#upstream.wire.reads, -1)
  }

  #pinged(bytes: number): void {
    this.#pingBytes += bytes
    if (this.state !== 'opening' || this.#pingBytes < EMPTY_GRPC_MESSAGE.length) return
    this.#cancelFirstPing()
    this.state = 'up'
    this.#events.up()
  }

  /** The app says goodbye, or has no Ping at all. */
  #pingEnded(): void {
    const ping = this.#ping
    if (ping === undefined || this.#upstream.isLost) return
    this.#ping = undefined
    ping.abort(CANCEL)
    if (this.state === 'opening') this.destroy('pingRefused')
    else this.#left()
  }

  /** Every period: whether anything came since the last time, and another PING. The first beat asks, the second can miss. */
  #beat(reads: number, misses: number): void {
    const { wire } = this.#upstream
    this.#cancelBeat = this.#options.clock.after(this.#options.pingMs, () => {
      const now = wire.reads === reads ? misses + 1 : 0
      if (now > 0) {
        this.missed += 1
        this.#events.pingMissed()
      }
      if (now >= MISSES_MAX) return this.destroy('silent')
      sendPing(wire.h2)
      wire.touch()
      this.#beat(wire.reads, now)
    })
  }

  /** The app leaves: by GOAWAY, or by ending Ping. */
  #left(): void {
    if (this.#why === 'lost' && this.state !== 'opening') this.#why = 'left'
    this.#leave()
  }

  #leave(): void {
    if (this.state === 'leaving' || this.state === 'gone') return
    this.state = 'leaving'
    this.#events.leaving()
    this.#leaveIfFree()
  }

  #leaveIfFree(): void {
    if (this.load > 0) return
    const ping = this.#ping
    this.#ping = undefined
    ping?.abort(CANCEL)
    this.#upstream.close()
  }

  #gone(why: ChannelEnd, error: Error | undefined): void {
    if (this.state === 'gone') return
    this.state = 'gone'
    this.#cancelFirstPing()
    this.#cancelBeat()
    this.#events.gone(why, error)
  }
}

/** The same array where there is none. */
const withoutToken = (fields: Fields): Fields => {
  let kept: Fields | undefined
  for (let at = 0; at < fields.length; at += 2) {
    const isToken = fields[at]!.length === TOKEN_HEADER.length && fields[at]!.toLowerCase() === TOKEN_HEADER
    if (isToken) kept ??= fields.slice(0, at)
    else kept?.push(fields[at]!, fields[at + 1]!)
  }
  return kept ?? fields
}
