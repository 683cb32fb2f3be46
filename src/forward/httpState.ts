import type { Clock } from '../net/clock.ts'
import type { RuleRef } from '../policy/verdict.ts'
import type { Traces } from '../telemetry/traces.ts'
import { Balancers } from './balancers.ts'
import { Pool, type PoolLimitHit } from './pool.ts'

/** What the HTTP connections of one process share. */
export interface HttpState {
  readonly pool: Pool
  /** The endpoints of names, and of lists of addresses; connections passed as bytes share them. */
  readonly balancers: Balancers
  /** Marks the requests that passed here: eight hex digits of chance, so that no two proxies share them. */
  readonly hop: string
  readonly rates: Pick<Rates, 'take'>
  readonly budgets: Pick<Budgets, 'requested' | 'spend'>
  readonly idle: IdleWatch
  /** Present where traces are configured. */
  readonly traces?: Pick<Traces, 'begin'> | undefined
  /** How often each limit was hit. */
  readonly hits: Record<PoolLimitHit | 'rate' | 'retryBudget', number>
}

/** A process that has served no request yet. */
export const createHttpState = (
  clock: Clock,
  random: () => number,
  traces?: HttpState['traces'],
  limits: Pick<HttpState, 'rates' | 'budgets'> = { rates: new Rates(clock), budgets: new Budgets(clock) },
): HttpState => {
  const hits = { connections: 0, pending: 0, rate: 0, retryBudget: 0 }
  const pool = new Pool(clock, (what) => {
    hits[what]++
  })
  return {
    pool,
    balancers: new Balancers(clock, random, (address) => pool.retire(address)),
    hop: Math.floor(random() * 2 ** 32)
      .toString(16)
      .padStart(8, '0'),
    rates: limits.rates,
    budgets: limits.budgets,
    idle: new IdleWatch(clock),
    hits,
    traces,
  }
}

/** A rule of the policy as a key: rules keep their place, and with it their counts, across a reload that leaves them. */
const keyOf = ({ file, line }: RuleRef): string => `${file}:${line}`

/** How many clients of a rule are remembered; beyond it the one not seen for longest is forgotten. */
const BUCKETS_MAX = 10_000

interface Bucket {
  tokens: number
  at: number
}

/** Token buckets, one for each rule, or for each rule and client. */
export class Rates {
  readonly #clock: Clock
  readonly #buckets = new Map<string, Bucket>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Takes a request from the bucket: 0 if it may pass, or the milliseconds after which the next one may. */
  take(rule: RuleRef, client: string, requests: number, perMs: number): number {
    const key = `${keyOf(rule)} ${client}`
    const now = this.#clock.now()
    const bucket = this.#buckets.get(key) ?? { tokens: requests, at: now }
    bucket.tokens = Math.min(requests, bucket.tokens + ((now - bucket.at) * requests) / perMs)
    bucket.at = now
    // Taken out and put back, it is the last of the map, whose first is then the oldest.
    this.#buckets.delete(key)
    this.#buckets.set(key, bucket)
    if (this.#buckets.size > BUCKETS_MAX) this.#buckets.delete(this.#buckets.keys().next().value!)
    if (bucket.tokens < 1) return ((1 - bucket.tokens) * perMs) / requests
    bucket.tokens--
    return 0
  }
}

const BUDGET_MS = 10_000

interface Spent {
  requests: number
  retries: number
  since: number
}

/** How many destinations of rules are remembered; beyond it the one not asked for longest is forgotten. */
const DESTINATIONS_MAX = 10_000

/** How many requests may be repeated, by rule and destination: a share of the recent ones, and a few always. */
export class Budgets {
  readonly #clock: Clock
  readonly #spent = new Map<string, Spent>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** A request came that could be repeated. */
  requested(rule: RuleRef, destination: string) {
    this.#of(rule, destination).requests++
  }

  /** Spends one repetition, if there is one. */
  spend(rule: RuleRef, destination: string, percent: number, minPerSecond: number): boolean {
    const spent = this.#of(rule, destination)
    const allowed = (spent.requests * percent) / 100 + (minPerSecond * BUDGET_MS) / 1000
    if (spent.retries + 1 > allowed) return false
    spent.retries++
    return true
  }

  #of(rule: RuleRef, destination: string): Spent {
    const key = `${keyOf(rule)} ${destination}`
    const now = this.#clock.now()
    const found = this.#spent.get(key)
    if (found === undefined) {
      const fresh = { requests: 0, retries: 0, since: now }
      this.#spent.set(key, fresh)
      if (this.#spent.size > DESTINATIONS_MAX) this.#spent.delete(this.#spent.keys().next().value!)
      return fresh
    }
    // Taken out and put back, it is the last of the map, whose first is then the oldest.
    this.#spent.delete(key)
    this.#spent.set(key, found)
    if (now - found.since > BUDGET_MS) {
      // Half of the last window goes on counting, so that a burst at its border is not free.
      found.requests = now - found.since > 2 * BUDGET_MS ? 0 : found.requests / 2
      found.retries = now - found.since > 2 * BUDGET_MS ? 0 : found.retries / 2
      found.since = now
    }
    return found
  }
}

/** What can be idle for too long. Its place in a row is kept in itself: a Set costs more than all else that moves. */
export interface Idling {
  /** How often something moved, ever: a number that changes. */
  readonly moves: number
  readonly idleMs: number
  idled(): void
  /** Set by the watch alone. */
  readonly watched: Watched
}

/** A place in the row of an IdleWatch. */
export interface Watched {
  next: Idling | undefined
  previous: Idling | undefined
  /** What was seen when it was last found to have moved; -1: nothing yet. */
  moves: number
  since: number
  isIn: boolean
}

/** A place in no row yet. */
export const unwatched = (): Watched => ({ next: undefined, previous: undefined, moves: -1, since: 0, isIn: false })

const WATCH_MS = 1000

/** Finds what has not moved for long, by looking once a second: so that moving costs nothing. */
export class IdleWatch {
  readonly #clock: Clock
  #first: Idling | undefined
  #isLooking = false

  constructor(clock: Clock) {
    this.#clock = clock
  }

  add(it: Idling) {
    const first = this.#first
    it.watched.isIn = true
    it.watched.next = first
    if (first !== undefined) first.watched.previous = it
    this.#first = it
    if (this.#isLooking) return
    this.#isLooking = true
    this.#clock.after(WATCH_MS, () => this.#look())
  }

  remove({ watched }: Idling) {
    if (!watched.isIn) return
    const { next, previous } = watched
    watched.isIn = false
    if (previous === undefined) this.#first = next
    else previous.watched.next = next
    if (next !== undefined) next.watched.previous = previous
    watched.next = undefined
    watched.previous = undefined
  }

  #look() {
    const now = this.#clock.now()
    const idle: Idling[] = []
    for (let it = this.#first; it !== undefined; it = it.watched.next) {
      const { watched } = it
      if (watched.moves !== it.moves) {
        watched.moves = it.moves
        watched.since = now
      } else if (now - watched.since >= it.idleMs) idle.push(it)
    }
    for (const it of idle) {
      this.remove(it)
      it.idled()
    }
    this.#isLooking = this.#first !== undefined
    if (this.#isLooking) this.#clock.after(WATCH_MS, () => this.#look())
  }
}
