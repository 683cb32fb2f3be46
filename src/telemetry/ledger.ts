import type { Clock } from '../net/clock.ts'
import type { Connection } from '../net/connection.ts'
import type { Traffic } from '../net/traffic.ts'
import { Life } from './life.ts'
import type { Outcome, RequestOutcome, Result } from './outcome.ts'
import { redactedTarget } from './redact.ts'

/** Every open connection, and those who want to hear how each one ended. */
export interface Ledger {
  readonly open: ReadonlySet<Life>
  readonly draining: boolean
  /** `ageMs`: how long ago it was accepted. */
  begin(from: Omit<Connection, 'stream'>, ageMs?: number): Life
  /** `show` begins the lives of connections that exist elsewhere; it is called before anybody looks at the open ones. */
  alsoOpen(show: () => void): void
  /** Writes the one Outcome of a life; a second one is a bug and throws. */
  end(life: Life, result: Result, traffic: Traffic, endedAt?: number): Outcome
  /** Each Outcome, once, as it is written. Returns how to stop listening. */
  subscribe(hear: (outcome: Outcome) => void): () => void
  /** Each HTTP request, once, with the connection it came on. Returns how to stop listening. */
  subscribeRequests(hear: (request: RequestOutcome, life: Life) => void): () => void
  /** Closes the connections that the policy of now denies. */
  recheck(): void
  /** Lets connections end by themselves for `ms`, then closes them; resolves when none is left. */
  drain(ms: number): Promise<void>
}

/** An empty ledger. */
export const createLedger = (clock: Clock): Ledger => {
  const open = new Set<Life>()
  const hearers = new Set<(outcome: Outcome) => void>()
  const requestHearers = new Set<(request: RequestOutcome, life: Life) => void>()
  const requested = (life: Life, request: RequestOutcome) => {
    const { target, referer } = request
    const shown = { ...request, target: redactedTarget(target), ...(referer && { referer: redactedTarget(referer) }) }
    for (const hear of requestHearers) hear(shown, life)
  }
  let born = 0
  let draining = false
  let emptied = () => {}
  const shows: (() => void)[] = []
  const all = (): ReadonlySet<Life> => {
    for (const show of shows) show()
    return open
  }
  return {
    get open() {
      return all()
    },
    alsoOpen(show) {
      shows.push(show)
    },
    get draining() {
      return draining
    },
    begin(from, ageMs = 0) {
      const life = new Life((++born).toString(36), clock, from, ageMs)
      if (requestHearers.size > 0) life.onRequest = requested
      open.add(life)
      return life
    },
    end(life, result, traffic, endedAt = clock.now()) {
      if (!open.delete(life)) throw new Error(`connection ${life.id} ended twice`)
      const outcome = life.outcome(result, traffic, endedAt)
      for (const hear of hearers) hear(outcome)
      if (draining && all().size === 0) emptied()
      return outcome
    },
    subscribe(hear) {
      hearers.add(hear)
      return () => hearers.delete(hear)
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
