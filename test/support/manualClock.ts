import type { Clock } from '../../src/net/clock.ts'

/** A clock that stands still until it is told to go on; timers that fall due run in order. */
export interface ManualClock extends Clock {
  advance(ms: number): void
  /** How many timers wait. */
  pending(): number
}

export const manualClock = (): ManualClock => {
  let now = 0
  const timers = new Set<{ at: number; run: () => void }>()
  return {
    now: () => now,
    time: () => Date.UTC(2026, 0, 1) + now,
    after: (ms, run) => {
      const timer = { at: now + ms, run }
      timers.add(timer)
      return () => timers.delete(timer)
    },
    advance(ms) {
      const end = now + ms
      for (;;) {
        const due = [...timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0]
        if (due === undefined) break
        timers.delete(due)
        now = Math.max(now, due.at)
        due.run()
      }
      now = end
    },
    pending: () => timers.size,
  }
}
