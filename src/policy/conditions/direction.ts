import { oneOf } from '../shape.ts'
import { condition } from './condition.ts'

export const direction = condition({
  shape: oneOf(['inbound', 'outbound']),
  from: 'connection',
  says: 'outbound: the workload calls out; inbound: the world calls in',
  example: 'outbound',
  fact: (facts) => facts.direction,
  matcher: (value) => (fact: string) => fact === value,
  index: { keys: (value) => [value], first: (fact) => fact },
  covers: (wide, narrow) => wide === narrow,
  show: (fact) => fact,
})
