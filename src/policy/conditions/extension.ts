import { count, oneOrMany } from '../shape.ts'
import { condition, eachCovered, same } from './condition.ts'

export const extension = condition({
  shape: oneOrMany(count(0, 65_535)),
  from: 'detected',
  says: 'an extension type, as a number, that the ClientHello carries (RFC 8446 section 4.2)',
  example: '65281',
  fact: (facts) => facts.extensions,
  matcher: (value) => (fact: readonly number[]) => fact.some((type) => value.includes(type)),
  covers: (wide, narrow) => eachCovered(wide, narrow, same),
  show: (fact) => fact.join(', '),
})
