import { oneOrMany, text } from '../shape.ts'
import { condition, eachCovered, same } from './condition.ts'
import { helloWithout } from './sni.ts'

export const alpn = condition({
  shape: oneOrMany(text('an ALPN protocol id, such as h2')),
  from: 'detected',
  says: 'a protocol id that the ClientHello offers in ALPN, or `none` for TLS without ALPN',
  example: '[h2, http/1.1]',
  fact: (facts) => facts.alpn,
  matcher: (value) => (fact: readonly string[]) => fact.some((id) => value.includes(id)),
  absent: (value) => (facts) => value.includes('none') && helloWithout(facts),
  covers: (wide, narrow) => eachCovered(wide, narrow, same),
  show: (fact) => fact.join(', '),
})
