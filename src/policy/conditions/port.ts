import * as v from 'valibot'
import { count, either, mistake, oneOrMany, readText, shown } from '../shape.ts'
import { condition, eachCovered } from './condition.ts'

/** Ports from the first to the last. */
export interface PortRange {
  readonly first: number
  readonly last: number
}

const WHAT = 'a port from 1 to 65535, or a range such as 8000-8999'

const range = readText(WHAT, (text): PortRange | ReturnType<typeof mistake> => {
  const found = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text)
  const [first, last] = [Number(found?.[1]), Number(found?.[2] ?? found?.[1])]
  if (found === null || first < 1 || last > 65_535) return mistake(`expected ${WHAT}, not ${shown(text)}`)
  return first > last ? mistake(`"${text}" ends before it begins; write ${last}-${first}`) : { first, last }
})

const single = v.pipe(
  count(1, 65_535),
  v.transform((port): PortRange => ({ first: port, last: port })),
)
const portRange = either([single, range], (input) => (typeof input === 'number' ? single : range))

// Beyond this a rule is cheaper to ask than to list under each of its ports.
const PORTS_LISTED_MAX = 64

const eachPort = (ranges: readonly PortRange[]): number[] | undefined => {
  const total = ranges.reduce((sum, { first, last }) => sum + last - first + 1, 0)
  if (total > PORTS_LISTED_MAX) return undefined
  return ranges.flatMap(({ first, last }) => Array.from({ length: last - first + 1 }, (_, i) => first + i))
}

const takes = (wide: PortRange, narrow: PortRange): boolean => wide.first <= narrow.first && narrow.last <= wide.last

export const port = condition({
  shape: oneOrMany(portRange),
  from: 'connection',
  says: 'the destination port: numbers and ranges',
  example: '[443, 8000-8999]',
  fact: (facts) => facts.destination.port,
  matcher: (value) => {
    const [only] = value
    if (value.length === 1 && only?.first === only?.last) return (fact: number) => fact === only?.first
    return (fact: number) => value.some(({ first, last }) => first <= fact && fact <= last)
  },
  index: { keys: eachPort, first: (fact) => fact },
  covers: (wide, narrow) => eachCovered<PortRange>(wide, narrow, takes),
  show: String,
})
