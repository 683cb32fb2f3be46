import type { Member } from './member.ts'
import type { OutlierSettings } from './settings.ts'

/** It answered well. Only a whole window of good answers makes the next ejection a short one again. */
export const judgedGood = (member: Member, now: number, settings: OutlierSettings): void => {
  turnWindow(member, now, settings)
  member.good += 1
  member.failuresInRow = 0
}

/** It answered badly, or not at all. Returns why that is too much now, if it is. */
export const judgedBad = (
  member: Member,
  now: number,
  settings: OutlierSettings,
): 'failures' | 'successRate' | undefined => {
  turnWindow(member, now, settings)
  member.bad += 1
  member.failed += 1
  member.failuresInRow += 1
  if (settings.failuresInRow > 0 && member.failuresInRow >= settings.failuresInRow) return 'failures'
  const all = member.good + member.bad
  const isTooFew = all >= settings.requestsMin && member.good * 100 < settings.successPercent * all
  return isTooFew ? 'successRate' : undefined
}

/** A pause that doubles with each one before it, spread by chance so that proxies do not all return at once. */
export const pauseMs = (before: number, firstMs: number, longestMs: number, jitter: number, dice: number): number =>
  Math.min(longestMs, firstMs * 2 ** Math.min(before, 30)) * (1 - jitter * dice)

const turnWindow = (member: Member, now: number, { windowMs }: OutlierSettings): void => {
  if (now - member.windowFrom < windowMs) return
  if (member.bad === 0 && member.good > 0) member.ejections = 0
  member.windowFrom = now
  member.good = 0
  member.bad = 0
}
