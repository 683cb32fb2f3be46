import { DIAL_MS, FIRST_PING_MS, PING_PERIOD_MS } from '../callback/wire.ts'
import type { Clock } from '../net/clock.ts'

/** Every wait of the app's side, in milliseconds. */
export interface Timing {
  /** Between two attempts to reach a proxy that is away. An attempt is one TCP SYN. */
  readonly probeMs: number
  /** How long one attempt may take; younger ones run beside it. */
  readonly reachMs: number
  /** For the answer to ConnectAppCallback, and then again for the connection to the port it named. */
  readonly dialMs: number
  /** For the proxy to open Ping on a new channel. */
  readonly firstPingMs: number
  /** Between two messages on Ping, and between two HTTP/2 PINGs. */
  readonly pingMs: number
  /** What a channel lived that counts as a success: the next failure is the first again. */
  readonly stableMs: number
  readonly backoffFirstMs: number
  readonly backoffMaxMs: number
  /** For calls in flight on a channel that is left. */
  readonly drainMs: number
}

/** Numbers of the reference where it has them; the others are explained in docs/apps-behind-a-firewall.md. */
export const TIMING: Timing = {
  probeMs: 400, // with the handshakes, back within a second of the proxy's start
  reachMs: 2_000, // a SYN, its first repetition after one second, and a long way
  dialMs: DIAL_MS,
  firstPingMs: FIRST_PING_MS,
  pingMs: PING_PERIOD_MS,
  stableMs: 5_000,
  backoffFirstMs: 100,
  backoffMaxMs: 30_000,
  drainMs: 30_000, // what Kubernetes grants from SIGTERM on
}

/** The real clock, whose timers keep the process alive: an app without a port has nothing else that would. */
export const livingClock: Clock = {
  now: () => performance.now(),
  time: () => Date.now(),
  after: (ms, run) => {
    const timer = setTimeout(run, ms)
    return () => clearTimeout(timer)
  },
}

/** Resolves after so many milliseconds, or when the signal fires. */
export const pause = (clock: Clock, ms: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    const done = () => {
      cancel()
      signal.removeEventListener('abort', done)
      resolve()
    }
    const cancel = clock.after(ms, done)
    if (signal.aborted) done()
    else signal.addEventListener('abort', done)
  })

/** Full jitter: anything between nothing and a limit that doubles with each failure in a row. None after none. */
export const backoffMs = (failures: number, timing: Timing, random: () => number): number =>
  failures === 0 ? 0 : random() * Math.min(timing.backoffMaxMs, timing.backoffFirstMs * 2 ** (failures - 1))
