import type { Endpoint } from '../net/endpoint.ts'
import { expected, type Latency } from './latency.ts'

/** Why an endpoint is left alone. */
export type RestReason = 'connect' | 'failures' | 'successRate' | 'healthCheck'

/** Whether an endpoint gets requests. */
export type Circuit =
  | { readonly is: 'ready' }
  | { readonly is: 'resting'; readonly because: RestReason; readonly until: number }
  /** The rest is over, and one try decides: `isTaken` while it is under way. */
  | { readonly is: 'probing'; readonly because: RestReason; readonly isTaken: boolean }

/** An endpoint of a name, with what was learned of it. */
export interface Member {
  endpoint: Endpoint
  readonly latency: Latency
  /** Requests, or connections, under way. */
  inFlight: number
  circuit: Circuit
  /** Ejections in a row, and failed connects: the exponents of the next pause. */
  ejections: number
  connectFailures: number
  /** Judgements since the last good one, and in this window. */
  failuresInRow: number
  windowFrom: number
  good: number
  bad: number
  /** Checks in a row that failed, where there are active checks. */
  checksFailed: number
  /** Smooth weighted round robin: who has waited longest for its share. */
  credit: number
  /** It left the set: it finishes what it has, and gets nothing new. */
  isGone: boolean
  /** For people: how often it was chosen, and how often that went badly, ever. */
  chosen: number
  failed: number
}

export const READY: Circuit = { is: 'ready' }

/** One that nothing is known of yet. */
export const newMember = (endpoint: Endpoint, rttMs: number, now: number): Member => ({
  endpoint,
  latency: expected(rttMs, now),
  inFlight: 0,
  circuit: READY,
  ejections: 0,
  connectFailures: 0,
  failuresInRow: 0,
  windowFrom: now,
  good: 0,
  bad: 0,
  checksFailed: 0,
  credit: 0,
  isGone: false,
  chosen: 0,
  failed: 0,
})

/** Whether it takes a request by its state; that it has room is another question. */
export const isReady = ({ circuit }: Member): boolean =>
  circuit.is === 'ready' || (circuit.is === 'probing' && !circuit.isTaken)

/** Left alone for how it answered, not because it cannot be reached: better than nothing. */
export const isEjected = ({ circuit }: Member): boolean =>
  circuit.is !== 'ready' && (circuit.because === 'failures' || circuit.because === 'successRate')
