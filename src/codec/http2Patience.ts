import { connectionError } from './http2Codes.ts'

/**
 * What a peer may do that costs us and brings nothing. Two purses, refilled by time and by useful work; whoever empties
 * one is told to calm down (RFC 9113 10.5). A proper client stays far from the bottom of either.
 */
export interface Patience {
  /** For frames that carry nothing: PING, SETTINGS, empty DATA, CONTINUATION, WINDOW_UPDATE, PRIORITY, unknown ones. */
  chatter: number
  /** For streams that are given up before they are answered, and for those we have to reset (CVE-2023-44487, -2025-8671). */
  resets: number
  refilledAt: number
}

const CHATTER_MAX = 1000
const CHATTER_PER_SECOND = 100
const RESETS_MAX = 500 // a client with 100 streams may give up all of them five times at once
const RESETS_PER_SECOND = 50

export const newPatience = (): Patience => ({ chatter: CHATTER_MAX, resets: RESETS_MAX, refilledAt: 0 })

/** Time has passed; called once per read, in milliseconds. */
export const refill = (patience: Patience, now: number): void => {
  const seconds = (now - patience.refilledAt) / 1000
  if (seconds < 0.05) return
  patience.refilledAt = now
  patience.chatter = Math.min(CHATTER_MAX, patience.chatter + seconds * CHATTER_PER_SECOND)
  patience.resets = Math.min(RESETS_MAX, patience.resets + seconds * RESETS_PER_SECOND)
}

export const spendChatter = (patience: Patience, cost: number, what: string): void => {
  patience.chatter -= cost
  if (patience.chatter < 0) throw connectionError('ENHANCE_YOUR_CALM', `too many ${what}`)
}

export const spendReset = (patience: Patience, what: string): void => {
  patience.resets -= 1
  if (patience.resets < 0) throw connectionError('ENHANCE_YOUR_CALM', `too many ${what}`)
}

/** Something useful passed: a request, bytes of a body. */
export const earnChatter = (patience: Patience): void => {
  if (patience.chatter < CHATTER_MAX) patience.chatter += 1
}

/** A request was answered. */
export const earnReset = (patience: Patience): void => {
  if (patience.resets < RESETS_MAX) patience.resets += 1
}
