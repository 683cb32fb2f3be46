/** The estimate before anything was measured: a datacentre round trip with some work in it. */
export const DEFAULT_RTT_MS = 30
/** After so long the past counts for 1/e. */
export const DECAY_MS = 10_000

/** A running estimate of latency that jumps to a peak at once and forgets it slowly (Finagle's peak EWMA). */
export interface Latency {
  readonly ms: number
  readonly at: number
}

/** Nothing measured yet. */
export const unmeasured = (now: number, ms: number = DEFAULT_RTT_MS): Latency => ({ ms, at: now })

/** The estimate with one more measurement in it; `decayMs` is the time constant. */
export const observed = (latency: Latency, sampleMs: number, now: number, decayMs: number = DECAY_MS): Latency => {
  if (sampleMs >= latency.ms) return { ms: sampleMs, at: now }
  const kept = Math.exp(-Math.max(0, now - latency.at) / decayMs)
  return { ms: latency.ms * kept + sampleMs * (1 - kept), at: now }
}

/** What a further request would wait for: latency times the requests it would share the endpoint with. */
export const cost = (latency: Latency, inFlight: number): number => Math.max(latency.ms, 1) * (inFlight + 1)
