/** Time as an argument: the replay and the tests bring a clock of their own. */
export interface Clock {
  /** Milliseconds that only ever grow; not the time of day. */
  readonly now: () => number
  /** Milliseconds since 1970, for logs. */
  readonly time: () => number
  /** Runs once, `ms` from now, unless the returned function is called first. Never keeps the process alive. */
  readonly after: (ms: number, run: () => void) => () => void
}

/** The real clock. */
export const systemClock: Clock = {
  now: () => performance.now(),
  time: () => Date.now(),
  after: (ms, run) => {
    const timer = setTimeout(run, ms)
    timer.unref()
    return () => clearTimeout(timer)
  },
}
