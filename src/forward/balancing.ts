import type { BalanceSettings } from '../balance/settings.ts'
import type { AspectName, AspectValue } from '../policy/aspects.ts'
import { settled, type Verdict } from '../policy/verdict.ts'

/** A verdict about the choice of an endpoint, in the words of those who carry it out. */
export interface Balancing {
  /** The same number for the same settings: who shares a balancer agrees in all of them. */
  readonly id: number
  readonly settings: BalanceSettings
  readonly hash: AspectValue<'balance.hash'>
  readonly otherwise: AspectValue<'balance.otherwise'>
  readonly health: HealthSettings | undefined
}

/** How endpoints are asked whether they are well. */
export interface HealthSettings {
  /** Undefined: only a connect. */
  readonly path: string | undefined
  readonly intervalMs: number
  readonly timeoutMs: number
  readonly failuresMax: number
}

const known = new WeakMap<Verdict, Balancing>()
/** Verdicts are many, settings are few. */
const ids = new Map<string, number>()

/** The balancing of a verdict, read once. */
export const balancingOf = (verdict: Verdict): Balancing => {
  const found = known.get(verdict)
  if (found !== undefined) return found
  const made = read(verdict)
  known.set(verdict, made)
  return made
}

const read = (verdict: Verdict): Balancing => {
  const value = <K extends AspectName>(name: K) => settled(verdict[name]) as AspectValue<K>
  const zone = value('balance.zone')
  const latency = value('balance.latency')
  const backoff = value('balance.backoff')
  const outlier = value('balance.outlier')
  const { check, interval, timeout, failures } = value('balance.health')
  const settings: BalanceSettings = {
    algorithm: value('balance.algorithm'),
    zone: zone.name === 'none' ? undefined : zone.name,
    zoneMinPercent: zone.minPercent,
    rttMs: latency.default,
    decayMs: latency.decay,
    inFlightMax: value('balance.inFlight'),
    queueMax: value('balance.queue'),
    failfastMs: value('balance.failfast'),
    backoffMs: backoff.min,
    backoffMsMax: backoff.max,
    outlier: {
      failuresInRow: outlier.failures,
      successPercent: outlier.successPercent,
      requestsMin: outlier.minRequests,
      windowMs: outlier.window,
      ejectionMs: outlier.ejection,
      ejectionMsMax: outlier.maxEjection,
      ejectedPercentMax: outlier.maxPercent,
    },
  }
  const path = check === 'tcp' ? undefined : check
  const health =
    check === 'none' ? undefined : { path, intervalMs: interval, timeoutMs: timeout, failuresMax: failures }
  const all = { settings, health, hash: value('balance.hash'), otherwise: value('balance.otherwise') }
  const text = JSON.stringify(all)
  const id = ids.get(text) ?? ids.size
  ids.set(text, id)
  return { ...all, id }
}
