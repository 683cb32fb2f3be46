import type { Clock } from '../net/clock.ts'

const MISSES_MAX = 2

/** One end of a connection that must be heard of. */
export interface Heart {
  readonly clock: Clock
  readonly periodMs: number
  /** Sends an HTTP/2 PING. */
  readonly beat: () => void
  /** Grows with everything that comes, the answers to PINGs too: a peer that sends is alive, however late it answers. */
  readonly heard: () => number
  /** Called once, when two PINGs in a row brought nothing. */
  readonly dead: () => void
}

/** Beats until the returned function is called, or the other end is dead: the third beat after it was last heard. */
export const heartbeat = ({ clock, periodMs, beat, heard, dead }: Heart): (() => void) => {
  let last = heard()
  let unanswered = -1 // the first beat asks, and only the second can miss its answer
  const tick = () => {
    const now = heard()
    unanswered = now === last ? unanswered + 1 : 0
    last = now
    if (unanswered >= MISSES_MAX) return dead()
    beat()
    cancel = clock.after(periodMs, tick)
  }
  let cancel = clock.after(periodMs, tick)
  return () => cancel()
}
