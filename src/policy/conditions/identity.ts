import { globCovers, globPattern, nameCovers, namePattern } from '../glob.ts'
import { oneOrMany, text } from '../shape.ts'
import { condition, eachCovered } from './condition.ts'

const isUri = (pattern: string): boolean => pattern.includes('://')

/** A pattern of identities, ready. `**` alone takes whoever has an identity, of either kind. */
export const identityPattern = (pattern: string) =>
  isUri(pattern) || pattern === '**' ? globPattern(pattern, '/') : namePattern(pattern)

const takes = (wide: string, narrow: string): boolean =>
  // Nobody verified is not anyone verified.
  wide === narrow ||
  (narrow !== 'none' && wide === '**') ||
  (isUri(wide) ? globCovers(wide, narrow, '/') : !isUri(narrow) && narrow !== '**' && nameCovers(wide, narrow))

export const identity = condition({
  shape: oneOrMany(text('a name or URI, such as spiffe://cluster.local/ns/shop/**')),
  from: 'secured',
  says: 'the verified name of the peer: a URI where `*` is one segment and `**` any number, or a DNS name; `**` is anyone verified, `none` is nobody verified',
  example: 'spiffe://cluster.local/ns/shop/**',
  fact: (facts) => facts.identity,
  matcher: (value) => {
    const tests = value.filter((it) => it !== 'none').map(identityPattern)
    return (fact: string) => tests.some((it) => it(fact))
  },
  absent: (value) => () => value.includes('none'),
  covers: (wide, narrow) => eachCovered(wide, narrow, takes),
  show: (fact) => fact,
})
