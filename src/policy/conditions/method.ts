import { mistake, oneOrMany, readText } from '../shape.ts'
import { condition, eachCovered, same } from './condition.ts'

const token = readText('a method, such as GET', (text) => {
  if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(text)) return mistake(`"${text}" is not an HTTP method`)
  // RFC 9110 section 9.1: methods are case-sensitive, so `get` is a method that nobody sends.
  return text === text.toUpperCase() ? text : mistake(`methods are case-sensitive: write ${text.toUpperCase()}`)
})

export const method = condition({
  shape: oneOrMany(token),
  from: 'request',
  says: 'the method of an HTTP request',
  example: '[GET, HEAD]',
  fact: (facts) => (facts.request == null ? facts.request : facts.request.method),
  matcher: (value) => (fact: string) => value.includes(fact),
  index: { keys: (value) => value, first: (fact) => fact },
  covers: (wide, narrow) => eachCovered(wide, narrow, same),
  show: (fact) => fact,
})
