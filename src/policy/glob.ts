/** What a pattern comes down to: text without wildcards compares faster than any expression. */
export type TextTest = (text: string) => boolean

/**
 * Names as in certificates: `orders.example` exactly, `*.shop.example` for one label more, case-insensitive, a final
 * dot ignored (RFC 6125 section 6.4.3, without partial wildcards).
 */
export const namePattern = (pattern: string): TextTest => {
  const wanted = plainName(pattern)
  if (!wanted.startsWith('*.')) return (name) => name === wanted || plainName(name) === wanted
  const tail = wanted.slice(1)
  return (name) => {
    const plain = plainName(name)
    return plain.endsWith(tail) && plain.length > tail.length && plain.indexOf('.') === plain.length - tail.length
  }
}

const plainName = (name: string): string => {
  const lower = name.toLowerCase()
  return lower.endsWith('.') ? lower.slice(0, -1) : lower
}

/** For an index: the name itself, and the pattern of one label that would accept it. */
export const nameKey = (name: string): string => plainName(name)
export const wildcardKey = (name: string): string => {
  const plain = plainName(name)
  const dot = plain.indexOf('.')
  return dot < 0 ? '*' : `*${plain.slice(dot)}`
}

/** What is wrong with a name pattern; undefined when nothing is. */
export const namePatternMistake = (pattern: string): string | undefined => {
  const rest = pattern.startsWith('*.') ? pattern.slice(2) : pattern
  if (rest.includes('*')) return `"${pattern}": a * stands only for a whole first label, as in "*.shop.example"`
  if (rest === '' || !/^[A-Za-z0-9_]([A-Za-z0-9_-]*)(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*\.?$/.test(rest))
    return `"${pattern}" is not a host name or "*." and a host name`
  return undefined
}

/** Whether the name pattern `wide` accepts all that `narrow` accepts. */
export const nameCovers = (wide: string, narrow: string): boolean =>
  plainName(wide) === plainName(narrow) || (!narrow.startsWith('*.') && namePattern(wide)(narrow))

/**
 * Segments between `separator`: `*` is any one segment or part of one, `**` any number of segments, also none, so
 * that `/admin/**` takes `/admin` as well: a rule that guards a tree guards its root.
 */
export const globPattern = (pattern: string, separator: string): TextTest => {
  if (!pattern.includes('*')) return (text) => text === pattern
  if (pattern.endsWith(`${separator}**`) && pattern.indexOf('*') === pattern.length - 2) {
    const root = pattern.slice(0, -3)
    const inside = pattern.slice(0, -2)
    return (text) => text.startsWith(inside) || text === root
  }
  const wanted = pattern.split(separator)
  return (text) => segmentsMatch(wanted, text.split(separator))
}

// Every `**` is tried greedily from the last one seen, so the work is the product of the lengths at worst.
const segmentsMatch = (wanted: readonly string[], found: readonly string[]): boolean => {
  let w = 0
  let f = 0
  let star = -1
  let retry = 0
  while (f < found.length) {
    if (w < wanted.length && wanted[w] === '**') {
      star = w++
      retry = f
    } else if (w < wanted.length && wildcardMatch(wanted[w]!, found[f]!)) {
      w++
      f++
    } else if (star >= 0) {
      w = star + 1
      f = ++retry
    } else return false
  }
  while (w < wanted.length && wanted[w] === '**') w++
  return w === wanted.length
}

/** `*` is any run of characters. Linear in practice, never exponential: this is given what strangers send. */
export const wildcardMatch = (pattern: string, text: string): boolean => {
  let p = 0
  let t = 0
  let star = -1
  let retry = 0
  while (t < text.length) {
    if (p < pattern.length && pattern[p] === '*') {
      star = p++
      retry = t
    } else if (p < pattern.length && pattern[p] === text[t]) {
      p++
      t++
    } else if (star >= 0) {
      p = star + 1
      t = ++retry
    } else return false
  }
  while (p < pattern.length && pattern[p] === '*') p++
  return p === pattern.length
}

/** Whether the glob `wide` surely accepts all that `narrow` accepts; false when that is not easy to see. */
export const globCovers = (wide: string, narrow: string, separator: string): boolean => {
  if (wide === narrow) return true
  if (!narrow.includes('*')) return globPattern(wide, separator)(narrow)
  if (wide === '**' || wide === `${separator}**`) return true
  const root = wide.endsWith(`${separator}**`) ? wide.slice(0, -2) : undefined
  return root !== undefined && !root.includes('*') && narrow.startsWith(root)
}
