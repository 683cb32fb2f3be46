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

/** The first segments of a path, or all of it when it has no more. */
const begin = (path: string, segments: number): string => {
  let end = 0
  for (let i = 0; i < segments && end >= 0; i++) end = path.indexOf('/', end + 1)
  return end < 0 ? path : path.slice(0, end)
}

// By two segments where a pattern begins with two in plain text, by one where it begins with one.
const pathKeys = (patterns: readonly string[]): string[] | undefined => {
  const keys = patterns.map((it) => {
    if (!it.startsWith('/')) return undefined
    const plain = it.includes('*') ? it.slice(0, it.lastIndexOf('/', it.indexOf('*'))) : it
    if (plain === '') return undefined
    return begin(plain, 2)
  })
  return keys.every((key) => key !== undefined) ? keys : undefined
}

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
  index: { keys: pathKeys, first: (fact) => begin(fact, 1), second: (fact) => begin(fact, 2) },
  covers: (wide, narrow) => eachCovered(wide, narrow, (a, b) => globCovers(a, b, '/')),
  show: (fact) => fact,
})
