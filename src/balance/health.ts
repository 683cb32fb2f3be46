/** When an endpoint is left alone, and for how long. Times in milliseconds, ratios from 0 to 1. */
export interface HealthSettings {
  /** So many failures in a row eject. */
  readonly consecutiveFailures: number
  /** A success rate below this over the window ejects; 0 turns it off. */
  readonly minSuccessRate: number
  /** Fewer requests than this in the window say nothing. */
  readonly minRequests: number
  readonly windowMs: number
  /** First ejection; each further one doubles it, up to the maximum. */
  readonly ejectionMs: number
  readonly maxEjectionMs: number
  /** Pause after a failed connect, likewise doubled. */
  readonly backoffMs: number
  readonly maxBackoffMs: number
  /** Spread of every pause, as a part of it, so that proxies do not return all at once. */
  readonly jitter: number
}

export const DEFAULT_HEALTH: HealthSettings = {
  consecutiveFailures: 7, // linkerd's breaker: enough to not be chance, few enough to not be an outage
  minSuccessRate: 0.5,
  minRequests: 20,
  windowMs: 10_000,
  ejectionMs: 1_000,
  maxEjectionMs: 60_000,
  backoffMs: 100,
  maxBackoffMs: 60_000,
  jitter: 0.5,
}

/** Why an endpoint rests. */
export type RestReason = 'connectFailed' | 'consecutiveFailures' | 'successRate' | 'healthCheck'

/** What is remembered of an endpoint's behaviour. */
export interface Health {
  readonly failuresInRow: number
  readonly windowFrom: number
  readonly successes: number
  readonly failures: number
  /** How often in a row it was sent to rest: the exponent of the next pause. */
  readonly rests: number
  readonly restingUntil: number
  readonly because?: RestReason
}

/** Nothing is held against it. */
export const healthy = (now: number): Health => ({
  failuresInRow: 0,
  windowFrom: now,
  successes: 0,
  failures: 0,
  rests: 0,
  restingUntil: 0,
})

/** Whether it is being left alone. */
export const isResting = (health: Health, now: number): boolean => now < health.restingUntil

/** A request was answered well. It takes a whole window of good behaviour to forget that it was ejected before. */
export const succeeded = (health: Health, now: number, settings: HealthSettings): Health => {
  const window = currentWindow(health, now, settings)
  const forgiven = window.windowFrom === now && health.failures === 0
  const { because: _, ...kept } = window
  return { ...kept, failuresInRow: 0, successes: window.successes + 1, rests: forgiven ? 0 : window.rests }
}

/** A request failed in a way that speaks against the endpoint. `dice` is a random number from 0 to 1. */
export const failed = (health: Health, now: number, settings: HealthSettings, dice: number): Health => {
  const window = currentWindow(health, now, settings)
  const next = { ...window, failuresInRow: health.failuresInRow + 1, failures: window.failures + 1 }
  if (next.failuresInRow >= settings.consecutiveFailures) return rested(next, now, 'consecutiveFailures', settings, dice)
  const requests = next.successes + next.failures
  if (requests >= settings.minRequests && next.successes / requests < settings.minSuccessRate) {
    return rested(next, now, 'successRate', settings, dice)
  }
  return next
}

/** A connect failed: the endpoint gets a pause that doubles with each further failure. */
export const unreachable = (health: Health, now: number, settings: HealthSettings, dice: number): Health =>
  rested(health, now, 'connectFailed', settings, dice)

/** A connect came through: the next pause begins small again. */
export const reached = (health: Health): Health =>
  health.because === 'connectFailed' ? { ...health, rests: 0, restingUntil: 0 } : health

const rested = (
  health: Health,
  now: number,
  because: RestReason,
  settings: HealthSettings,
  dice: number,
): Health => {
  const connect = because === 'connectFailed'
  const first = connect ? settings.backoffMs : settings.ejectionMs
  const longest = connect ? settings.maxBackoffMs : settings.maxEjectionMs
  const pause = Math.min(longest, first * 2 ** Math.min(health.rests, 30))
  const spread = 1 - settings.jitter / 2 + settings.jitter * dice
  return {
    failuresInRow: 0,
    windowFrom: now,
    successes: 0,
    failures: 0,
    rests: health.rests + 1,
    restingUntil: now + Math.min(longest, pause * spread),
    because,
  }
}

const currentWindow = (health: Health, now: number, { windowMs }: HealthSettings): Health =>
  now - health.windowFrom < windowMs ? health : { ...health, windowFrom: now, successes: 0, failures: 0 }
