import type { Clock } from '../net/clock.ts'

/** A clock that goes on only when it is told to, and says when the next timer is due. */
export interface VirtualClock extends Clock {
  readonly next: () => number | undefined
  /** Goes on to a time, never back, and runs the timers that are due by then. */
  readonly moveTo: (time: number) => void
}

/** Starts at a time of day, in milliseconds since 1970. */
export const virtualClock = (start: number): VirtualClock => {
  let now = start
  const timers = new Set<{ readonly due: number; readonly run: () => void }>()
  const earliest = () => {
    let first: { due: number; run: () => void } | undefined
    for (const timer of timers) if (first === undefined || timer.due < first.due) first = timer
    return first
  }
  return {
    now: () => now,
    time: () => now,
    after: (ms, run) => {
      const timer = { due: now + ms, run }
      timers.add(timer)
      return () => timers.delete(timer)
    },
    next: () => earliest()?.due,
    moveTo(time) {
      for (let timer = earliest(); timer !== undefined && timer.due <= time; timer = earliest()) {
        timers.delete(timer)
        now = Math.max(now, timer.due)
        timer.run()
      }
      now = Math.max(now, time)
    },
  }
}
