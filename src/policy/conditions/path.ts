import type { RequestFacts } from '../facts.ts'
import { globCovers, globPattern } from '../glob.ts'
import { normalPath } from '../normalPath.ts'
import { mistake, oneOrMany, readText } from '../shape.ts'
import { condition, eachCovered } from './condition.ts'

const pattern = readText('a path, such as /orders/**', (text) => {
  if (text !== '*' && text !== '**' && !text.startsWith('/')) return mistake(`"${text}": a path begins with /`)
  if (/[?#]/.test(text)) return mistake(`"${text}": the query is not part of the path; leave it out`)
  if (text.split('/').some((segment) => segment.includes('**') && segment !== '**'))
    return mistake(`"${text}": ** stands for whole segments, as in /orders/**`)
  return normalPath(text.replace(/[^\x20-\x7e]/g, encodeURIComponent))
})

// One request is asked about by many rules: its path is normalised once.
let last: RequestFacts | undefined
let lastPath = ''

export const path = condition({
  shape: oneOrMany(pattern),
  from: 'request',
  says: 'the path of an HTTP request, without the query, escapes and dot segments resolved: `*` is within one segment, `**` any number of segments',
  example: '[/orders/**, "/users/*/photo"]',
  fact: (facts) => {
    if (facts.request == null) return facts.request
    if (facts.request !== last) {
      last = facts.request
      lastPath = normalPath(last.path)
    }
    return lastPath
  },
  matcher: (value) => {
    const tests = value.map((it) => globPattern(it, '/'))
    const [only] = tests
    return tests.length === 1 ? only! : (fact: string) => tests.some((test) => test(fact))
  },
  covers: (wide, narrow) => eachCovered(wide, narrow, (a, b) => globCovers(a, b, '/')),
  show: (fact) => fact,
})
