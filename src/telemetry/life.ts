import type { Address } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import type { Connection, Direction } from '../net/connection.ts'
import type { Ending, Traffic } from '../net/traffic.ts'
import type { Outcome, RequestOutcome, Result, RuleName } from './outcome.ts'

/** A connection while it lives: filled in by whoever learns something, read by the page, closed by drain and reload. */
export class Life {
  readonly id: string
  readonly startedAt: number
  readonly started: number
  readonly direction: Direction
  readonly listener: string
  readonly peer: Address
  readonly destination: Address
  readonly protocols: string[] = []
  rules: Readonly<Record<string, RuleName>> = {}
  /** Live payload bytes: client to upstream, and back. */
  get count(): { sent: number; received: number } {
    this.recount?.(this.#count)
    return this.#count
  }
  /** Brings the count up to date, where the bytes pass elsewhere. */
  recount: ((count: { sent: number; received: number }) => void) | undefined
  /** Its bytes pass elsewhere, where they are added up, too. */
  isCarried = false
  readonly #count = { sent: 0, received: 0 }
  reason: string | undefined
  detected: Outcome['detected'] | undefined
  sni: string | undefined
  alpn: readonly string[] | undefined
  identity: string | undefined
  tls: Outcome['tls'] | undefined
  upstreamTls: Outcome['upstreamTls'] | undefined
  http: Outcome['http'] | undefined
  /** Set by the gateway. */
  exposed: Outcome['exposed'] | undefined
  dryRun: Outcome['dryRun'] | undefined
  candidate: Outcome['candidate'] | undefined
  upstream: Address | undefined
  /** The name that discovery found the upstream under. */
  name: string | undefined
  channel: string | undefined
  /** Asks whether the policy of now still allows it; set once the first verdict is known. */
  allowed: (() => boolean) | undefined
  /** Set by forwarders that can finish early and cleanly (HTTP keep-alive, HTTP/2): called when a drain begins. */
  onDrain: (() => void) | undefined
  /** Set where somebody listens to requests. */
  onRequest: ((life: Life, request: RequestOutcome) => void) | undefined
  #close: ((why: Ending) => void) | undefined
  #closing: Ending | undefined

  constructor(id: string, clock: Clock, from: Omit<Connection, 'stream'>, ageMs = 0) {
    this.id = id
    this.startedAt = clock.time() - ageMs
    this.started = clock.now() - ageMs
    this.direction = from.direction
    this.listener = from.listener
    this.peer = from.peer
    this.destination = from.destination
  }

  /** Whoever holds the streams now says how they are closed. A close that was ordered before reaches it at once. */
  set closer(close: (why: Ending) => void) {
    this.#close = close
    if (this.#closing !== undefined) close(this.#closing)
  }

  /** Ends the connection from outside: drain, a policy that changed. */
  close(why: Ending): void {
    this.#closing ??= why
    this.#close?.(why)
  }

  /** Why it was closed from outside, if it was. */
  get closing(): Ending | undefined {
    return this.#closing
  }

  /** Whether it is worth the trouble to describe a request. */
  get hearsRequests(): boolean {
    return this.onRequest !== undefined
  }

  /** An HTTP request on this connection is over. */
  requested(request: RequestOutcome): void {
    this.onRequest?.(this, request)
  }

  /** What is known of it so far. */
  facts(): Omit<Outcome, 'result' | 'bytes' | 'ms' | 'ended' | 'error'> {
    const { id, startedAt, direction, listener, peer, destination, protocols, rules } = this
    return {
      id,
      startedAt,
      direction,
      listener,
      peer,
      destination,
      protocols,
      ...(this.reason !== undefined && { reason: this.reason }),
      ...(this.dryRun && { dryRun: this.dryRun }),
      ...(this.candidate && { candidate: this.candidate }),
      ...(this.detected && { detected: this.detected }),
      ...(this.sni !== undefined && { sni: this.sni }),
      ...(this.alpn?.length && { alpn: this.alpn }),
      ...(this.identity !== undefined && { identity: this.identity }),
      ...(this.tls && { tls: this.tls }),
      ...(this.upstreamTls && { upstreamTls: this.upstreamTls }),
      ...(this.http && { http: this.http }),
      ...(this.exposed && { exposed: this.exposed }),
      rules,
      ...(this.upstream && { upstream: this.upstream }),
      ...(this.name !== undefined && { name: this.name }),
      ...(this.channel !== undefined && { channel: this.channel }),
    }
  }

  /** The one record of it. */
  outcome(result: Result, traffic: Traffic, now: number): Outcome {
    return {
      ...this.facts(),
      result,
      bytes: { sent: traffic.sent, received: traffic.received },
      ms: Math.round((now - this.started) * 1000) / 1000,
      ended: traffic.ended,
      ...(traffic.error && { error: traffic.error }),
    }
  }
}
