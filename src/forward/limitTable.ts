import type { RuleRef } from '../policy/verdict.ts'
import type { Budgets, Rates } from './httpState.ts'

const SLOTS = 16_384 // a power of two; a rule, or a rule and client, each
const PROBES = 8 // then the one not seen for longest is forgotten
const CELLS = 4 // numbers of a slot: when it was seen, and three of its own
const KEY_WORDS = 2

/** Memory for what several threads count together. */
export const limitTable = (): SharedArrayBuffer => new SharedArrayBuffer(4 + 4 + SLOTS * (KEY_WORDS * 4 + CELLS * 8))

/**
 * Rate limits and retry budgets over memory that threads share, so that a limit is that of the process whichever thread
 * a connection came to. Two keys with the same 64-bit hash would be one.
 */
export const limitsIn = (
  memory: SharedArrayBuffer,
  now: () => number,
): { readonly rates: Pick<Rates, 'take'>; readonly budgets: Pick<Budgets, 'requested' | 'spend'> } => {
  const words = new Int32Array(memory, 0, 2)
  const cells = new Float64Array(memory, 8, SLOTS * CELLS)
  const keys = new Int32Array(memory, 8 + SLOTS * CELLS * 8, SLOTS * KEY_WORDS)

  /** One thread at a time, for less than a microsecond. */
  const locked = <T>(run: () => T): T => {
    while (Atomics.compareExchange(words, 0, 0, 1) !== 0) Atomics.wait(words, 0, 1, 1)
    try {
      return run()
    } finally {
      Atomics.store(words, 0, 0)
      Atomics.notify(words, 0, 1)
    }
  }
  /** Where the numbers of a key begin; `fresh` writes them for one that is new. */
  const slotOf = (key: string, fresh: (at: number) => void): number => {
    const [low, high] = hashOf(key)
    let oldest = -1
    for (let probe = 0; probe < PROBES; probe += 1) {
      const slot = (low + probe) & (SLOTS - 1)
      const at = slot * CELLS
      if (keys[slot * 2] === low && keys[slot * 2 + 1] === high && cells[at]! > 0) return at
      if (oldest < 0 || cells[at]! < cells[oldest]!) oldest = at
    }
    const slot = oldest / CELLS
    keys[slot * 2] = low
    keys[slot * 2 + 1] = high
    fresh(oldest)
    return oldest
  }

  const take = (rule: RuleRef, client: string, requests: number, perMs: number): number =>
    locked(() => {
      const at = slotOf(`rate ${rule.file}:${rule.line} ${client}`, (fresh) => {
        cells[fresh + 1] = requests
        cells[fresh] = now()
      })
      const tokens = Math.min(requests, cells[at + 1]! + ((now() - cells[at]!) * requests) / perMs)
      cells[at] = now()
      cells[at + 1] = tokens < 1 ? tokens : tokens - 1
      return tokens < 1 ? ((1 - tokens) * perMs) / requests : 0
    })

  /** seen, requests, retries, since. */
  const spent = (rule: RuleRef, destination: string): number => {
    const at = slotOf(`retry ${rule.file}:${rule.line} ${destination}`, (fresh) => {
      cells[fresh + 1] = cells[fresh + 2] = 0
      cells[fresh + 3] = now()
    })
    cells[at] = now()
    const age = now() - cells[at + 3]!
    if (age > BUDGET_MS) {
      // Half of the last window goes on counting, so that a burst at its border is not free.
      const kept = age > 2 * BUDGET_MS ? 0 : 0.5
      cells[at + 1]! *= kept
      cells[at + 2]! *= kept
      cells[at + 3] = now()
    }
    return at
  }
  return {
    rates: { take },
    budgets: {
      requested: (rule, destination) =>
        locked(() => {
          cells[spent(rule, destination) + 1]! += 1
        }),
      spend: (rule, destination, percent, minPerSecond) =>
        locked(() => {
          const at = spent(rule, destination)
          const allowed = (cells[at + 1]! * percent) / 100 + (minPerSecond * BUDGET_MS) / 1000
          if (cells[at + 2]! + 1 > allowed) return false
          cells[at + 2]! += 1
          return true
        }),
    },
  }
}

const BUDGET_MS = 10_000

/** FNV-1a, twice, with different beginnings. */
const hashOf = (key: string): readonly [number, number] => {
  let low = 0x811c9dc5
  let high = 0x01000193
  for (let i = 0; i < key.length; i += 1) {
    const code = key.charCodeAt(i)
    low = Math.imul(low ^ code, 0x01000193)
    high = Math.imul(high ^ code, 0x85ebca6b)
  }
  return [low | 0, high | 0]
}
