import { nameCovers, nameKey, namePattern, namePatternMistake, wildcardKey } from '../glob.ts'
import { parseNetwork } from '../ip.ts'
import { type Mistake, mistake, oneOrMany, readText } from '../shape.ts'
import { condition, eachCovered } from './condition.ts'

/** A name pattern, and the port where one is written. */
interface AuthorityPattern {
  readonly name: string
  readonly port?: string
}

const split = (authority: string): { host: string; port: string } => {
  const found = /^(\[[^\]]*\]|[^:]*)(?::(\d*))?$/.exec(authority)
  return { host: found?.[1] ?? authority, port: found?.[2] ?? '' }
}

const hostOf = (authority: string): string => {
  const end = authority.lastIndexOf(':')
  return end < 0 || authority.endsWith(']') ? authority : authority.slice(0, end)
}

const pattern = readText('an authority, such as orders or "*.shop.example"', (text): AuthorityPattern | Mistake => {
  if (text.includes('/')) return mistake(`"${text}" is not an authority: leave scheme and path out`)
  const { host, port } = split(text)
  const isAddress = parseNetwork(host.replace(/^\[(.*)\]$/, '$1')) !== undefined
  const wrong = isAddress ? undefined : namePatternMistake(host)
  if (wrong !== undefined) return mistake(wrong)
  return port === '' ? { name: host } : { name: host, port }
})

// A pattern with an address has no labels, and an exact comparison is all it needs.
const matcherOf = ({ name, port }: AuthorityPattern) => {
  const test = name.startsWith('[') ? (host: string) => host === name.toLowerCase() : namePattern(name)
  const exact = name.toLowerCase()
  if (port !== undefined) return (fact: string) => fact.endsWith(`:${port}`) && test(split(fact).host)
  return (fact: string) => fact === exact || test(split(fact).host)
}

const takes = (wide: AuthorityPattern, narrow: AuthorityPattern): boolean =>
  nameCovers(wide.name, narrow.name) && (wide.port === undefined || wide.port === narrow.port)

export const authority = condition({
  shape: oneOrMany(pattern),
  from: 'request',
  says: 'the Host or :authority of an HTTP request: exact, or `*.x` for one label more; without a port, any port',
  example: '[orders, "*.shop.example:8080"]',
  fact: (facts) => (facts.request == null ? facts.request : facts.request.authority),
  matcher: (value) => {
    const tests = value.map(matcherOf)
    const [only] = tests
    return tests.length === 1 ? only! : (fact: string) => tests.some((test) => test(fact))
  },
  index: {
    recurs: true,
    keys: (value) => value.map(({ name }) => nameKey(name)),
    first: (fact) => nameKey(hostOf(fact)),
    second: (fact) => wildcardKey(hostOf(fact)),
  },
  covers: (wide, narrow) => eachCovered<AuthorityPattern>(wide, narrow, takes),
  show: (fact) => fact,
})
