import type { Endpoints } from './conditions/network.ts'
import type { ConditionName } from './conditions.ts'
import type { Facts } from './facts.ts'
import { factsFrom, type GivenFacts } from './givenFacts.ts'
import { type Network, wordsText } from './ip.ts'
import type { Rule } from './policy.ts'
import type { Clause } from './policyText.ts'

/** Facts that meet conditions of rules: cases to try two policies with. */

/** What a condition needs to be met: part of a case, of which the port and the address of a destination are two. */
type Piece = Omit<Partial<GivenFacts>, 'destination'> & { readonly host?: string; readonly port?: number }

// One value of a list stands for the others; the more of a long list are tried, the fewer pairs of rules can be.
const VALUES_MAX = 4

/** A value that the condition accepts, of each of the first values written. */
const MEETS: Readonly<Record<ConditionName, (value: never) => readonly Piece[]>> = {
  direction: (value: GivenFacts['direction']) => [{ direction: value }],
  source: (value: GivenFacts['source']) => [{ source: value }],
  port: (value: readonly { readonly first: number }[]) => value.map(({ first }) => ({ port: first })),
  protocol: (value: readonly NonNullable<GivenFacts['protocol']>[]) => value.map((protocol) => ({ protocol })),
  destination: (value: readonly Endpoints[]) =>
    value.map((it) => ({ host: wordsText(it.words), ...(it.port !== undefined && { port: it.port }) })),
  peer: (value: readonly Network[]) => value.map(({ words }) => ({ peer: { host: wordsText(words), port: 40_000 } })),
  sni: (value: readonly string[]) => value.map((it) => ({ protocol: 'tls', sni: it === 'none' ? null : named(it) })),
  alpn: (value: readonly string[]) => value.map((it) => ({ protocol: 'tls', alpn: it === 'none' ? null : [it] })),
  extension: (value: readonly number[]) => value.map((it) => ({ protocol: 'tls', extension: [it] })),
  identity: (value: readonly string[]) => value.map((it) => ({ identity: it === 'none' ? null : named(it) })),
  method: (value: readonly string[]) => value.map((method) => ({ method })),
  authority: (value: readonly { readonly name: string; readonly port?: string }[]) =>
    value.map(({ name, port }) => ({ authority: named(name) + (port === undefined ? '' : `:${port}`) })),
  path: (value: readonly string[]) => value.map((it) => ({ path: named(it) })),
  header: (value: readonly { readonly name: string; readonly test: HeaderTest }[]) => [
    { header: Object.fromEntries(value.flatMap(({ name, test }) => fieldOf(name, test))) },
  ],
}

interface HeaderTest {
  readonly present?: boolean
  readonly equals?: readonly string[]
  readonly matches?: readonly string[]
}

const fieldOf = (name: string, { present, equals, matches }: HeaderTest): [string, string[]][] =>
  present === false ? [] : [[name, [equals?.[0] ?? named(matches?.[0] ?? 'any')]]]

const named = (pattern: string): string => pattern.replace(/\*+/g, 'any')

/** Cases that meet all conditions of a rule, one for each of its values, in turn. */
const casesOf = (rule: Rule): Piece[] => {
  let cases: Piece[] = [{}]
  for (const { condition, value } of rule.tests as readonly Clause[]) {
    const pieces = MEETS[condition](value as never).slice(0, VALUES_MAX)
    if (pieces.length === 0) return []
    // Every value is seen once, not every combination of values.
    const width = Math.max(cases.length, pieces.length)
    cases = Array.from({ length: width }, (_, i) => merged(cases[i % cases.length]!, pieces[i % pieces.length]!))
  }
  return cases
}

const merged = (a: Piece, b: Piece): Piece => ({
  ...a,
  ...b,
  ...(a.header && b.header && { header: { ...a.header, ...b.header } }),
})

const factsOf = ({ host = '203.0.113.1', port = 80, ...given }: Piece): Facts => {
  const isRequest = ['authority', 'method', 'path', 'header'].some((key) => Object.hasOwn(given, key))
  const protocol =
    isRequest && given.protocol === 'tls' ? 'http1' : (given.protocol ?? (isRequest ? 'http1' : 'opaque'))
  const isTls = given.sni !== undefined || given.alpn !== undefined || given.extension !== undefined
  const hello = isTls ? { sni: given.sni ?? null, alpn: given.alpn ?? null, extension: given.extension ?? [] } : {}
  const facts = factsFrom({ identity: null, ...given, ...hello, protocol, destination: { host, port } })
  return facts.request === undefined ? { ...facts, request: null } : facts
}

// Two hundred rules make twenty thousand pairs; a second of work is what a comparison is worth.
const PAIRS_MAX = 50_000

/**
 * Cases to compare policies by: nothing special in both directions, what each rule asks for, and what each two rules
 * ask for together, since there the order of rules decides. They try much, and prove nothing.
 */
export const witnesses = (rules: readonly Rule[]): Facts[] => {
  const singles = rules.flatMap(casesOf)
  const cases: Piece[] = [{ direction: 'outbound' }, { direction: 'inbound' }]
  for (const one of singles)
    cases.push(one, ...(one.direction === undefined ? [{ ...one, direction: 'inbound' as const }] : []))
  const step = Math.max(1, Math.ceil(singles.length ** 2 / 2 / PAIRS_MAX))
  let pair = 0
  for (let i = 0; i < singles.length; i++)
    for (let j = i + 1; j < singles.length; j++) if (pair++ % step === 0) cases.push(merged(singles[i]!, singles[j]!))
  return cases.map(factsOf)
}
