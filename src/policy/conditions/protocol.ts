import type { Protocol } from '../facts.ts'
import { oneOf, oneOrMany } from '../shape.ts'
import { condition, eachCovered, same } from './condition.ts'

export const protocol = condition({
  shape: oneOrMany(oneOf(['tls', 'http1', 'http2', 'opaque'])),
  from: 'detected',
  says: 'what is spoken, as detected or fixed by a rule; inside terminated TLS, what is spoken inside',
  example: '[http1, http2]',
  fact: (facts) => facts.protocol,
  matcher: (value) => (fact: Protocol) => value.includes(fact),
  index: { keys: (value) => value, first: (fact) => fact },
  covers: (wide, narrow) => eachCovered<Protocol>(wide, narrow, same),
  show: (fact) => fact,
})
