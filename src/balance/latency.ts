/** A running estimate of latency that jumps to a peak at once and forgets it slowly (Finagle's peak EWMA). */
export interface Latency {
  ms: number
  at: number
}

/** What counts as no latency at all: below it, the number of requests under way decides. */
const FLOOR_MS = 1

/** What is expected of one that was never asked. */
export const expected = (ms: number, now: number): Latency => ({ ms, at: now })

/** What is left of the estimate by now: with `decayMs` as time constant it falls while nothing is measured. */
export const estimated = ({ ms, at }: Latency, now: number, decayMs: number): number =>
  now <= at ? ms : ms * Math.exp((at - now) / decayMs)

/** One more measurement. */
export const measured = (latency: Latency, sampleMs: number, now: number, decayMs: number): void => {
  const kept = now <= latency.at ? 1 : Math.exp((latency.at - now) / decayMs)
  const estimate = latency.ms * kept
  latency.ms = sampleMs >= estimate ? sampleMs : estimate + sampleMs * (1 - kept)
  latency.at = now
}

/** What a further request would have to expect: the latency, times the requests it would share the endpoint with. */
export const cost = (latency: Latency, inFlight: number, now: number, decayMs: number): number =>
  Math.max(estimated(latency, now, decayMs), FLOOR_MS) * (inFlight + 1)
