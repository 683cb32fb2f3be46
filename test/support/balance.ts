import type { BalanceSettings } from '../../src/balance/settings.ts'
import type { Endpoint } from '../../src/net/endpoint.ts'

/** The settings as built in, but for what is given. */
export const balanceSettings = (
  changes: Partial<Omit<BalanceSettings, 'outlier'>> & { readonly outlier?: Partial<BalanceSettings['outlier']> } = {},
): BalanceSettings => ({
  algorithm: 'p2c',
  zone: undefined,
  zoneMinPercent: 50,
  rttMs: 30,
  decayMs: 10_000,
  inFlightMax: 1000,
  queueMax: 10,
  failfastMs: 3_000,
  backoffMs: 100,
  backoffMsMax: 60_000,
  ...changes,
  outlier: {
    failuresInRow: 7,
    successPercent: 50,
    requestsMin: 20,
    windowMs: 10_000,
    ejectionMs: 1_000,
    ejectionMsMax: 60_000,
    ejectedPercentMax: 50,
    ...changes.outlier,
  },
})

/** An endpoint at 10.0.0.N. */
export const endpoint = (n: number, about: Partial<Endpoint> = {}): Endpoint => ({
  address: { host: `10.0.${n >> 8}.${n & 255}`, port: 80 },
  weight: 1,
  labels: {},
  ...about,
})

/** Dice that fall the same way each time (mulberry32): what a test says of a distribution is then true for ever. */
export const dice = (seed: number): (() => number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** How far a count of `n` tries with chance `p` may be from `n × p`, so that it is further less than once in 10^9. */
export const slack = (n: number, p: number): number => 6.2 * Math.sqrt(n * p * (1 - p)) + 10
