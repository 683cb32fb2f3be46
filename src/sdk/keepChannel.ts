import type { Clock } from '../net/clock.ts'
import { backoffMs, pause, type Timing } from './timing.ts'

/** What the app's side is doing. Each is told once, when it begins. */
export type ChannelState =
  /** Reaching for the proxy. */
  | { readonly is: 'connecting' }
  /** The proxy answers, but the last try failed: the next comes in so many milliseconds. */
  | { readonly is: 'waiting'; readonly ms: number; readonly because: string }
  /** The proxy calls the app over this channel; they are counted from 1. */
  | { readonly is: 'up'; readonly channel: number }
  /** The channel still serves, and a new one is being opened that shall take its place. */
  | { readonly is: 'replacing'; readonly channel: number; readonly because: string }
  | { readonly is: 'lost'; readonly channel: number; readonly because: string }
  /** Nothing new is taken; calls in flight are finished. */
  | { readonly is: 'draining' }
  | { readonly is: 'closed' }

/** A TCP connection to the proxy's API, not yet used. */
export interface Reached {
  /** The proxy could not be reached at first: what failed before is forgotten. */
  readonly wasAway: boolean
  readonly gone: Promise<unknown>
  discard(): void
}

/** An open channel. */
export interface Channel {
  /** Why the proxy wants to leave it, while it still serves. */
  readonly leaving: Promise<string>
  /** Why it ended. */
  readonly ended: Promise<string>
  /** Takes nothing new, finishes what is in flight, and ends, within a limit. */
  leave(): void
}

/** `isSilent`: nothing was heard, which is waiting enough; the next try needs no backoff. */
export type Opened =
  | { readonly is: 'channel'; readonly channel: Channel }
  | { readonly is: 'failed'; readonly because: string; readonly isSilent: boolean }

/** The parts with sockets. Both end soon after the signal fires. */
export interface Steps<R extends Reached> {
  /** Waits for the proxy for ever; undefined once the signal has fired. */
  reach(signal: AbortSignal): Promise<R | undefined>
  open(reached: R, signal: AbortSignal): Promise<Opened>
}

/** What the loop is run with. */
export interface Keeping {
  readonly clock: Clock
  readonly random: () => number
  readonly timing: Timing
  readonly tell: (state: ChannelState) => void
  /** Ends the loop. */
  readonly signal: AbortSignal
  /** Is given a function that replaces the channel which is up. */
  readonly onReplacer?: (replace: (because: string) => void) => void
}

/**
 * Keeps a channel open until the signal fires; then leaves it and resolves when its last call has ended.
 *
 * Two kinds of failure are told apart. A proxy that is *away* is tried every `probeMs`, which costs a SYN, so that the
 * channel is back within a second of the proxy. One that is there and *fails* us is tried with backoff. The connection
 * that is tried after the wait is opened before it: if the proxy goes while we wait, it was restarted, and the backoff
 * begins anew.
 */
export const keepChannel = async <R extends Reached>(steps: Steps<R>, keeping: Keeping): Promise<void> => {
  const { clock, random, timing, tell, signal } = keeping
  const live = new Set<Channel>()
  let current: Channel | undefined
  let count = 0
  let failures = 0
  let notBefore = 0
  let because = ''
  let replaceAsked = (_: string): void => {}
  keeping.onReplacer?.((why) => replaceAsked(why))
  const stopped = new Promise<Stopped>((resolve) => {
    if (signal.aborted) resolve({ is: 'stopped' })
    else signal.addEventListener('abort', () => resolve({ is: 'stopped' }), { once: true })
  })

  const failed = (why: string, isBackoff: boolean) => {
    because = why
    failures = isBackoff ? failures + 1 : 0
    notBefore = clock.now() + backoffMs(failures, timing, random)
  }

  /** Whether the connection is still good when its time has come. */
  const waited = async (reached: R): Promise<boolean> => {
    const ms = notBefore - clock.now()
    if (ms <= 0) return true
    tell({ is: 'waiting', ms: Math.round(ms), because })
    const over = new AbortController()
    const isGood = await Promise.race([
      pause(clock, ms, over.signal).then(() => true),
      reached.gone.then(() => false),
      stopped.then(() => false),
    ])
    over.abort()
    return isGood
  }

  const cameUp = (channel: Channel): void => {
    live.add(channel)
    void channel.ended.then(() => live.delete(channel))
    current?.leave()
    current = channel
    tell({ is: 'up', channel: ++count })
  }

  /** The channel ended before its replacement was up. */
  const lostEarly = (why: string): void => {
    current = undefined
    tell({ is: 'lost', channel: count, because: why })
  }

  while (!signal.aborted) {
    if (current === undefined) tell({ is: 'connecting' })
    const reached = await steps.reach(signal)
    if (reached === undefined) break
    if (reached.wasAway) {
      failures = 0
      notBefore = 0
    }
    if (!(await waited(reached))) {
      reached.discard()
      await pause(clock, timing.probeMs, signal) // something may accept and close at once, for ever
      continue
    }
    const opened = await steps.open(reached, signal)
    if (opened.is === 'failed') {
      failed(opened.because, !opened.isSilent)
      continue
    }
    const { channel } = opened
    const upAt = clock.now()
    cameUp(channel)
    const over = await Promise.race([
      channel.ended.then((why): Over => ({ is: 'lost', why })),
      channel.leaving.then((why): Over => ({ is: 'replacing', why })),
      new Promise<Over>((resolve) => (replaceAsked = (why) => resolve({ is: 'replacing', why }))),
      stopped,
    ])
    if (over.is === 'stopped') break
    failures = clock.now() - upAt >= timing.stableMs ? 0 : failures
    failed(over.why, true)
    tell({ is: over.is, channel: count, because: over.why })
    if (over.is === 'lost') current = undefined
    else void channel.ended.then((why) => current === channel && lostEarly(why))
  }

  tell({ is: 'draining' })
  for (const channel of live) channel.leave()
  await Promise.all([...live].map((channel) => channel.ended))
  tell({ is: 'closed' })
}

type Stopped = { readonly is: 'stopped' }
type Over = { readonly is: 'lost' | 'replacing'; readonly why: string }
