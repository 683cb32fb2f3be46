import type { PortRange } from './conditions/port.ts'
import type { Clause, RuleText } from './policyText.ts'

const PIECES_MAX = 512 // a rule with more values than that is not looked at piece by piece

const PROTOCOLS = ['tls', 'http1', 'http2', 'opaque'] as const
const DIRECTIONS = ['inbound', 'outbound'] as const

/**
 * A rule, cut into rules that match as much together: one for each value of its lists, each range of ports at the ends
 * of the ranges before it, each direction and protocol where earlier rules ask for one. What several rules hide of it
 * together, single ones hide of its pieces. Undefined where there would be too many.
 */
export const piecesOf = (rule: RuleText, before: readonly RuleText[]): RuleText[] | undefined => {
  const asked = new Set(before.flatMap(({ when }) => when.map(({ condition }) => condition)))
  const has = (condition: string) => rule.when.some((it) => it.condition === condition)
  const extra: Clause[][] = []
  if (asked.has('direction') && !has('direction')) extra.push(DIRECTIONS.map((it) => clause('direction', it)))
  if (asked.has('protocol') && !has('protocol')) extra.push(PROTOCOLS.map((it) => clause('protocol', [it])))
  if (asked.has('port') && !has('port')) extra.push(ranges(before, [{ first: 1, last: 65_535 }]))
  const own = rule.when.map((it): Clause[] => {
    if (it.condition === 'port') return ranges(before, it.value as readonly PortRange[])
    if (!Array.isArray(it.value) || it.value.length < 2) return [it]
    return it.value.map((one) => ({ ...it, value: [one] }))
  })
  let pieces: Clause[][] = [[]]
  for (const choices of [...own, ...extra]) {
    if (choices.length === 0 || pieces.length * choices.length > PIECES_MAX) return undefined
    pieces = pieces.flatMap((piece) => choices.map((choice) => [...piece, choice]))
  }
  return pieces.map((when) => ({ ...rule, when }))
}

const clause = (condition: Clause['condition'], value: unknown): Clause => ({ condition, written: value, value })

/** The ranges, cut wherever one of an earlier rule begins or ends. */
const ranges = (before: readonly RuleText[], own: readonly PortRange[]): Clause[] => {
  const theirs = before.flatMap(({ when }) => when.filter(({ condition }) => condition === 'port'))
  const bounds = theirs.flatMap(({ value }) =>
    (value as readonly PortRange[]).flatMap(({ first, last }) => [first, last + 1]),
  )
  return own.flatMap(({ first, last }) => {
    const starts = [...new Set([first, ...bounds.filter((it) => it > first && it <= last)])].sort((a, b) => a - b)
    return starts.map((start, i) => clause('port', [{ first: start, last: (starts[i + 1] ?? last + 1) - 1 }]))
  })
}
