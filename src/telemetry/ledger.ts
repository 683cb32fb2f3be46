import type { Clock } from '../net/clock.ts'
import type { Connection, Direction } from '../net/connection.ts'
import type { Traffic } from '../net/traffic.ts'
import { Life } from './life.ts'
import type { Outcome, RequestOutcome, Result } from './outcome.ts'
import { redactedTarget } from './redact.ts'

/** Connections of which only numbers are wanted: they differ in how long they lasted and how much they carried. */
export type Alike = Pick<Outcome, 'direction' | 'protocols' | 'rules' | 'result' | 'ended'> &
  Partial<Pick<Outcome, 'reason' | 'error'>>

/** For who subscribes and counts: no Outcome need be written for that. */
export const merely = (): boolean => false

/** What is open in a direction, and what that has carried so far. */
export interface Total {
  open: number
  sent: number
  received: number
}

/** Connections that exist elsewhere. */
export interface Elsewhere {
  /** Begins their lives, marked as carried; it is called before anybody looks at the open ones. */
  readonly show: () => void
  /** Adds them all up, those that were shown included. */
  readonly total: () => Total & { readonly direction: Direction }
  /** Those of another thread, which can be looked at and no more. */
  readonly lives?: () => readonly Life[]
}

/** Every open connection, and those who want to hear how each one ended. */
export interface Ledger {
  readonly open: ReadonlySet<Life>
  readonly draining: boolean
  /** `ageMs`: how long ago it was accepted. */
  begin(from: Omit<Connection, 'stream'>, ageMs?: number): Life
  alsoOpen(elsewhere: Elsewhere): void
  /** Sums over the open ones, for which no life is begun. */
  totals(): Readonly<Record<Direction, Total>>
  /** Writes the one Outcome of a life; a second one is a bug and throws. */
  end(life: Life, result: Result, traffic: Traffic, endedAt?: number): Outcome
  /** A connection that nobody knew, and of whose kind there are many, is over. */
  count(alike: Alike, ms: number, bytes: Outcome['bytes']): void
  /** Whether somebody wants whole Outcomes; if not, `count` is enough for connections that are alike. */
  readonly wantsOutcomes: boolean
  /** Each Outcome, once, as it is written. `wants`: whether those that could merely be counted must be written. Returns how to stop listening. */
  subscribe(hear: (outcome: Outcome) => void, wants?: () => boolean): () => void
  /** Each connection that was only counted. */
  subscribeCounts(hear: (alike: Alike, ms: number, bytes: Outcome['bytes']) => void): void
  /** An Outcome, or a request, that was written in another thread. */
  heard(outcome: Outcome): void
  heardRequest(request: RequestOutcome, life: Life): void
  /** Asks the threads that have connections; what `open` and `totals` say is then of now. */
  look(): Promise<void>
  /** How they are asked. */
  lookBy(look: () => Promise<void>): void
  /** Each HTTP request, once, with the connection it came on. Returns how to stop listening. */
  subscribeRequests(hear: (request: RequestOutcome, life: Life) => void): () => void
  /** Closes the connections that the policy of now denies. */
  recheck(): void
  /** Lets connections end by themselves for `ms`, then closes them; resolves when none is left. */
  drain(ms: number): Promise<void>
}

/** An empty ledger. `thread` goes before the number of each connection. */
export const createLedger = (clock: Clock, thread = ''): Ledger => {
  const open = new Set<Life>()
  const hearers = new Map<(outcome: Outcome) => void, () => boolean>()
  const countHearers: ((alike: Alike, ms: number, bytes: Outcome['bytes']) => void)[] = []
  const requestHearers = new Set<(request: RequestOutcome, life: Life) => void>()
  const requested = (life: Life, request: RequestOutcome) => {
    const target = redactedTarget(request.target)
    const referer = request.referer && redactedTarget(request.referer)
    const isShown = target === request.target && referer === request.referer
    const shown = isShown ? request : { ...request, target, ...(referer && { referer }) }
    for (const hear of requestHearers) hear(shown, life)
  }
  let born = 0
  let draining = false
  let emptied = () => {}
  const elsewhere: Elsewhere[] = []
  let look = async () => {}
  const all = (): ReadonlySet<Life> => {
    for (const { show } of elsewhere) show()
    return open
  }
  const ended = () => {
    if (draining && open.size === 0 && all().size === 0) emptied()
  }
  return {
    get open() {
      const afar = elsewhere.flatMap(({ lives }) => lives?.() ?? [])
      return afar.length === 0 ? all() : new Set([...all(), ...afar])
    },
    heard(outcome) {
      for (const hear of hearers.keys()) hear(outcome)
    },
    heardRequest(request, life) {
      for (const hear of requestHearers) hear(request, life)
    },
    look: () => look(),
    lookBy(asking) {
      look = asking
    },
    alsoOpen(others) {
      elsewhere.push(others)
    },
    totals() {
      const totals = { inbound: { open: 0, sent: 0, received: 0 }, outbound: { open: 0, sent: 0, received: 0 } }
      const add = (direction: Direction, { open, sent, received }: Total) => {
        const total = totals[direction]
        total.open += open
        total.sent += sent
        total.received += received
      }
      for (const { total } of elsewhere) {
        const sum = total()
        add(sum.direction, sum)
      }
      for (const { direction, isCarried, count } of open) if (!isCarried) add(direction, { open: 1, ...count })
      return totals
    },
    get draining() {
      return draining
    },
    begin(from, ageMs = 0) {
      const life = new Life(thread + (++born).toString(36), clock, from, ageMs)
      if (requestHearers.size > 0) life.onRequest = requested
      open.add(life)
      return life
    },
    end(life, result, traffic, endedAt = clock.now()) {
      if (!open.delete(life)) throw new Error(`connection ${life.id} ended twice`)
      const outcome = life.outcome(result, traffic, endedAt)
      for (const hear of hearers.keys()) hear(outcome)
      ended()
      return outcome
    },
    count(alike, ms, bytes) {
      for (const hear of countHearers) hear(alike, ms, bytes)
      ended()
    },
    get wantsOutcomes() {
      for (const wants of hearers.values()) if (wants()) return true
      return false
    },
    subscribe(hear, wants = () => true) {
      hearers.set(hear, wants)
      return () => hearers.delete(hear)
    },
    subscribeCounts(hear) {
      countHearers.push(hear)
    },
    subscribeRequests(hear) {
      requestHearers.add(hear)
      for (const life of open) life.onRequest = requested
      return () => {
        requestHearers.delete(hear)
        if (requestHearers.size > 0) return
        for (const life of open) life.onRequest = undefined
      }
    },
    recheck() {
      for (const life of all()) if (life.allowed?.() === false) life.close('policyChanged')
    },
    drain(ms) {
      draining = true
      if (all().size === 0) return Promise.resolve()
      return new Promise((resolve) => {
        const cancel = clock.after(ms, () => {
          for (const life of all()) life.close('drained')
        })
        emptied = () => {
          cancel()
          resolve()
        }
        for (const life of open) life.onDrain?.()
      })
    },
  }
}
