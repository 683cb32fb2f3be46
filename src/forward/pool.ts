import type { Duplex } from 'node:stream'
import type { Address } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import { codedError } from '../net/codedError.ts'
import type { Dial } from '../net/connection.ts'
import { dialWithin } from '../net/dial.ts'
import { guarded } from '../net/fault.ts'
import type { Upstream, UpstreamEvents } from './exchange.ts'

/** A request that asks for a connection: told once, with one or with the reason why there is none. */
export interface Waiter {
  /** The request takes its place on the connection within this call. */
  ready(upstream: Upstream): void
  failed(error: Error): void
}

/** Where to, how, and what it may cost. */
export interface PoolTarget {
  readonly address: Address
  /** What must be the same for a connection to be shared: protocol, TLS, whatever else the dial depends on. */
  readonly kind: string
  readonly dial: Dial
  /** Whether one connection serves many requests at once. */
  readonly isShared: boolean
  /** Whether there are others to ask: then one that refuses is told of at once, else it is asked again for a while. */
  readonly isOneOfMany: boolean
  /** Speaks the protocol over a new connection. */
  readonly speak: (stream: Duplex, events: UpstreamEvents) => Upstream
  /** How long a request may wait until it has a connection. */
  readonly connectMs: number
  readonly limits: PoolLimits
}

/** Each of these, when hit, is counted by name. */
export interface PoolLimits {
  readonly connectionsMax: number
  readonly pendingMax: number
  /** Below the keep-alive of common servers (Apache 5 s, node 5 s), so that theirs is hardly ever the first to pass. */
  readonly idleMs: number
  /** So long a connection takes new requests. */
  readonly ageMs: number
}

export type PoolLimitHit = 'connections' | 'pending'

/** How often idle connections are looked at. */
const SWEEP_MS = 500
/** A server that is not listening yet is asked again, ever more slowly, until the time to connect is over, or a second. */
const REFUSED_MS_MAX = 1_000
const AGAIN_MS_MIN = 20
const AGAIN_MS_MAX = 500

interface Idle {
  readonly upstream: Upstream
  /** When it has been idle for too long. */
  readonly until: number
}

/** Connections to one address, of one kind. */
interface Destination {
  /** Free HTTP/1 connections, the last used last: the busy stay warm and the others grow old. */
  readonly idle: Idle[]
  /** HTTP/2 connections; each takes many requests. */
  readonly shared: Set<Upstream>
  readonly waiting: Pending[]
  /** When a connection is too old for new requests. Some are older than others by chance, or all would go at once. */
  readonly until: WeakMap<Upstream, number>
  idleMs: number
  isForgotten: boolean
  open: number
  dialling: number
}

interface Pending {
  readonly waiter: Waiter
  readonly target: PoolTarget
  readonly cancelTimer: () => void
}

/** Connections to upstreams, kept between requests: one pool for the whole process. */
export class Pool {
  readonly #clock: Clock
  readonly #limitHit: (what: PoolLimitHit, address: Address) => void
  readonly #destinations = new Map<string, Destination>()
  /** So that a request on a connection that goes to one place builds no key. */
  readonly #byTarget = new WeakMap<PoolTarget, Destination>()
  #isSweeping = false
  #born = 0

  constructor(clock: Clock, limitHit: (what: PoolLimitHit, address: Address) => void = () => {}) {
    this.#clock = clock
    this.#limitHit = limitHit
  }

  /** Connections now open or being opened, for tests and metrics. */
  get size(): number {
    let size = 0
    for (const destination of this.#destinations.values()) size += destination.open + destination.dialling
    return size
  }

  /** What the pool holds now, counted anew each time. */
  get holds(): { readonly busy: number; readonly idle: number; readonly dialling: number; readonly waiting: number } {
    const holds = { busy: 0, idle: 0, dialling: 0, waiting: 0 }
    for (const { idle, open, dialling, waiting } of this.#destinations.values()) {
      holds.busy += open - idle.length
      holds.idle += idle.length
      holds.dialling += dialling
      holds.waiting += waiting.length
    }
    return holds
  }

  /**
   * Finds a connection, or opens one, or waits for one. `fresh`: not one that was used before, whose server may be
   * closing it. Returns how to stop waiting.
   */
  acquire(target: PoolTarget, waiter: Waiter, fresh = false): () => void {
    const destination = this.#destination(target)
    const found = fresh ? undefined : this.#free(destination)
    if (found !== undefined) {
      waiter.ready(found)
      return nothing
    }
    const mayOpen = this.#hasRoom(destination, target)
    if (!mayOpen) this.#limitHit('connections', target.address)
    if (!mayOpen && destination.waiting.length - destination.dialling >= target.limits.pendingMax) {
      this.#limitHit('pending', target.address)
      waiter.failed(codedError('POOL_PENDING', 'too many requests wait for a connection'))
      return nothing
    }
    const pending = this.#wait(destination, target, waiter)
    if (this.#mayOpen(destination, target)) this.#open(destination, target)
    return () => this.#forget(destination, pending)
  }

  /** A connection of its own, which nothing else will use. */
  single(target: PoolTarget, waiter: Waiter): () => void {
    const signal = new AbortController()
    const events: UpstreamEvents = { freed: (upstream) => upstream.close(), ended: () => {} }
    this.#dial(target, signal.signal).then(
      (stream) =>
        signal.signal.aborted ? stream.destroy() : guarded(stream, () => waiter.ready(target.speak(stream, events))),
      (error) => signal.signal.aborted || waiter.failed(error),
    )
    return () => signal.abort()
  }

  /** Nothing new goes there: what is idle is closed, and each other connection once it is. */
  retire({ host, port }: Address) {
    const start = `${host} ${port} `
    for (const [key, destination] of this.#destinations) if (key.startsWith(start)) closeAll(destination)
  }

  /** Closes what is idle, and each other connection once it is. */
  close() {
    for (const destination of this.#destinations.values()) closeAll(destination)
  }

  #destination(target: PoolTarget): Destination {
    const known = this.#byTarget.get(target)
    if (known !== undefined && !known.isForgotten) return known
    const { address } = target
    const key = `${address.host} ${address.port} ${target.kind}`
    let found = this.#destinations.get(key)
    if (found === undefined) {
      found = {
        idle: [],
        shared: new Set(),
        waiting: [],
        until: new WeakMap(),
        idleMs: 0,
        open: 0,
        dialling: 0,
        isForgotten: false,
      }
      this.#destinations.set(key, found)
    }
    found.idleMs = target.limits.idleMs
    this.#byTarget.set(target, found)
    return found
  }

  #free(destination: Destination): Upstream | undefined {
    for (const upstream of destination.shared) {
      if (upstream.room() === 0) continue
      if (!this.#isTooOld(destination, upstream)) return upstream
      upstream.close()
    }
    while (true) {
      const last = destination.idle.pop()?.upstream
      if (last === undefined || (last.room() > 0 && !this.#isTooOld(destination, last))) return last
      last.close()
    }
  }

  #isTooOld({ until }: Destination, upstream: Upstream): boolean {
    return this.#clock.now() >= (until.get(upstream) ?? Number.POSITIVE_INFINITY)
  }

  #hasRoom({ open, dialling }: Destination, { limits }: PoolTarget): boolean {
    return open + dialling < limits.connectionsMax
  }

  #mayOpen(destination: Destination, target: PoolTarget): boolean {
    // One dial for each that waits, and no more; one for all of them where a connection serves many.
    const { dialling, waiting } = destination
    return dialling < (target.isShared ? 1 : waiting.length) && this.#hasRoom(destination, target)
  }

  #wait(destination: Destination, target: PoolTarget, waiter: Waiter): Pending {
    const cancelTimer = this.#clock.after(target.connectMs, () => {
      this.#forget(destination, pending)
      const isFull = destination.dialling === 0 && target.isOneOfMany
      const code = isFull ? 'POOL_PENDING' : 'CONNECT_TIMEOUT'
      waiter.failed(codedError(code, `no connection within ${target.connectMs} ms`))
    })
    const pending: Pending = { waiter, target, cancelTimer }
    destination.waiting.push(pending)
    return pending
  }

  #forget(destination: Destination, pending: Pending) {
    const at = destination.waiting.indexOf(pending)
    if (at === -1) return
    destination.waiting.splice(at, 1)
    pending.cancelTimer()
  }

  #open(destination: Destination, target: PoolTarget) {
    destination.dialling++
    this.#dial(target).then(
      (stream) => {
        destination.dialling--
        guarded(stream, () => this.#opened(destination, target, stream))
      },
      (error) => {
        destination.dialling--
        this.#failed(destination, target, error)
      },
    )
  }

  async #dial({ dial, address, connectMs, isOneOfMany }: PoolTarget, signal?: AbortSignal): Promise<Duplex> {
    const until = this.#clock.now() + connectMs
    const againUntil = isOneOfMany ? 0 : Math.min(until, this.#clock.now() + REFUSED_MS_MAX)
    for (let again = AGAIN_MS_MIN; ; again = Math.min(2 * again, AGAIN_MS_MAX)) {
      try {
        return await dialWithin(dial, address, Math.max(1, until - this.#clock.now()), this.#clock, signal)
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException
        if (code !== 'ECONNREFUSED' || this.#clock.now() + again >= againUntil || signal?.aborted) throw error
      }
      await new Promise<void>((resolve) => this.#clock.after(again, resolve))
    }
  }

  #opened(destination: Destination, target: PoolTarget, stream: Duplex) {
    let isGone = false
    const upstream = target.speak(stream, {
      freed: (free) => this.#freed(destination, free),
      ended: (gone) => {
        destination.shared.delete(gone)
        if (isGone) return
        isGone = true
        destination.open--
        this.#refill(destination)
      },
    })
    destination.open++
    destination.until.set(upstream, this.#clock.now() + target.limits.ageMs * (0.9 + (0.1 * (this.#born++ % 8)) / 8))
    if (upstream.protocol === 'http2') destination.shared.add(upstream)
    this.#freed(destination, upstream)
    this.#refill(destination)
  }

  /** Gives a connection that has room to those who wait, in their order; what nobody wants is kept. */
  #freed(destination: Destination, upstream: Upstream) {
    while (destination.waiting.length > 0 && upstream.room() > 0) {
      const pending = destination.waiting.shift()!
      pending.cancelTimer()
      pending.waiter.ready(upstream)
    }
    if (upstream.protocol !== 'http1' || upstream.room() === 0) return
    if (this.#isTooOld(destination, upstream)) return upstream.close()
    destination.idle.push({ upstream, until: this.#clock.now() + destination.idleMs })
    this.#sweepLater()
  }

  #failed(destination: Destination, { isOneOfMany }: PoolTarget, error: Error) {
    // Where there are others to ask, those who wait need not find out one by one.
    for (const { waiter, cancelTimer } of destination.waiting.splice(0, isOneOfMany ? destination.waiting.length : 1)) {
      cancelTimer()
      waiter.failed(error)
    }
    this.#refill(destination)
  }

  /** Those who wait for a connection that is gone get another. */
  #refill(destination: Destination) {
    const next = destination.waiting[0]
    if (next !== undefined && this.#mayOpen(destination, next.target)) this.#open(destination, next.target)
  }

  #sweepLater() {
    if (this.#isSweeping) return
    this.#isSweeping = true
    this.#clock.after(SWEEP_MS, () => {
      this.#isSweeping = false
      this.#sweep()
    })
  }

  #sweep() {
    let isAnyLeft = false
    for (const [key, destination] of this.#destinations) {
      this.#sweepOne(destination)
      const { idle, open, dialling, waiting } = destination
      if (idle.length > 0) isAnyLeft = true
      if (open + dialling + waiting.length === 0) {
        destination.isForgotten = true
        this.#destinations.delete(key)
      }
    }
    if (isAnyLeft) this.#sweepLater()
  }

  #sweepOne({ idle }: Destination) {
    const now = this.#clock.now()
    let old = 0
    while (old < idle.length && (now >= idle[old]!.until || idle[old]!.upstream.room() === 0)) old++
    for (const { upstream } of idle.splice(0, old)) upstream.close()
  }
}

const closeAll = ({ idle, shared }: Destination) => {
  for (const { upstream } of idle.splice(0)) upstream.close()
  for (const upstream of shared) upstream.close()
}

const nothing = () => {}
