/** Sixteen digits in a row may be more than a double can hold; an exponent of three digits may be too large for it. */
const MAY_LOSE = /\d{16}|[eE]\+?\d{3}/

/** Python, which reads most of our answers, stops at a thousand; a megabyte of brackets takes us a second. */
const DEPTH_MAX = 500

/**
 * JSON to values, with integers beyond 2^53 kept digit for digit (they are written back as they were read).
 * Throws a SyntaxError, or a RangeError where it is nested too deeply.
 */
export const parseJson = (text: string): unknown => {
  if (isTooDeep(text)) throw new RangeError(`nested deeper than ${DEPTH_MAX}`)
  return MAY_LOSE.test(text) ? JSON.parse(text, exact) : JSON.parse(text)
}

const isTooDeep = (text: string): boolean => {
  let depth = 0
  let isString = false
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code === 0x22) isString = !isString
    else if (code === 0x5c) at++
    else if (isString) continue
    else if (code === 0x5b || code === 0x7b) {
      if (++depth > DEPTH_MAX) return true
    } else if (code === 0x5d || code === 0x7d) depth--
  }
  return false
}

const exact = (_key: string, value: unknown, context?: { source?: string }): unknown => {
  const source = context?.source
  if (typeof value !== 'number' || source === undefined) return value
  if (Number.isFinite(value) && (Number.isSafeInteger(value) || !/^-?\d+$/.test(source))) return value
  return rawJson(source)
}

/** In the language since ES2026, in TypeScript's library not yet. */
const { rawJSON: rawJson } = JSON as unknown as { rawJSON: (text: string) => unknown }

/** An object that is neither an array nor null: what a request body must be. */
export const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
