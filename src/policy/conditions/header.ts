import * as v from 'valibot'
import type { RequestFacts } from '../facts.ts'
import { wildcardMatch } from '../glob.ts'
import { flag, named, object, oneOrMany, text } from '../shape.ts'
import { condition } from './condition.ts'

/** What one header must be. */
interface HeaderTest {
  readonly present?: boolean | undefined
  readonly equals?: readonly string[] | undefined
  readonly matches?: readonly string[] | undefined
}

const one = v.pipe(
  object({
    present: v.optional(flag),
    equals: v.optional(oneOrMany(text('a header value'))),
    matches: v.optional(oneOrMany(text('a header value with * for any characters'))),
  }),
  v.check((it) => Object.keys(it).length === 1, 'expected exactly one of present, equals, matches'),
)

const names = v.pipe(
  named(one),
  v.rawCheck(({ dataset, addIssue }) => {
    for (const name of dataset.typed ? Object.keys(dataset.value) : [])
      if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name)) addIssue({ message: `"${name}" is not a header name` })
  }),
  v.transform((it) =>
    Object.entries(it).map(([name, test]) => ({ name: name.toLowerCase(), test: test as HeaderTest })),
  ),
)

const holds = ({ present, equals, matches }: HeaderTest, values: readonly string[]): boolean => {
  if (present !== undefined) return present === values.length > 0
  if (equals !== undefined) return values.some((value) => equals.includes(value))
  return values.some((value) => matches?.some((pattern) => wildcardMatch(pattern, value)))
}

export const header = condition({
  shape: names,
  from: 'request',
  says: 'fields of an HTTP request, all of them: `present` (true or false), `equals` (one of these values), `matches` (`*` is any characters); of a repeated field, any value',
  example: '{ x-canary: { present: true }, x-tier: { equals: [gold, silver] } }',
  fact: (facts) => facts.request,
  matcher: (value) => (request: RequestFacts) => value.every(({ name, test }) => holds(test, request.header(name))),
  covers: (wide, narrow) =>
    wide.every(({ name, test }) =>
      narrow.some((it) => it.name === name && JSON.stringify(it.test) === JSON.stringify(test)),
    ),
  show: () => 'the request',
})
