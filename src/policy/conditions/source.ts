import { oneOf } from '../shape.ts'
import { condition } from './condition.ts'

export const source = condition({
  shape: oneOf(['listener', 'command']),
  from: 'connection',
  says: 'listener: a connection that came in at a listener; command: one that a command of the connector opens',
  example: 'command',
  fact: (facts) => facts.source ?? 'listener',
  matcher: (value) => (fact: string) => fact === value,
  index: { keys: (value) => [value], first: (fact) => fact },
  covers: (wide, narrow) => wide === narrow,
  show: (fact) => fact,
})
