/** Between which times to wait, in milliseconds. */
export interface Pause {
  readonly minMs: number
  readonly maxMs: number
}

/**
 * How long to wait before the attempt after `failures` failures in a row: twice as long each time, up to the maximum,
 * and of that a random part between a half and the whole, so that those who failed together do not come back together.
 */
export const backoffMs = (failures: number, { minMs, maxMs }: Pause, random: () => number): number => {
  const whole = Math.min(maxMs, minMs * 2 ** Math.min(30, Math.max(0, failures - 1)))
  return Math.round(whole / 2 + (whole / 2) * random())
}
