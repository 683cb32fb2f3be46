import * as v from 'valibot'
import { CONDITION_TABLE } from './conditions.ts'
import { aspectsShape } from './leaves.ts'
import { fixedAddress, peerAddress } from './sections/listenAddress.ts'
import { SECTION_TABLE } from './sections.ts'
import { count, expected, flag, listOf, named, object, oneOf, oneOrMany, type Shape, text } from './shape.ts'

/** The one version there is. */
export const apiVersion = oneOf(['sluice/v1'])

const described = <T extends Shape>(shape: T, says: string) => v.pipe(v.optional(shape), v.description(says))

const orNone = (shape: Shape) =>
  v.pipe(
    shape as v.GenericSchema<string>,
    v.transform((word) => (word === 'none' ? null : word)),
  )

/** The mapping under `when`. */
export const whenShape = object(
  Object.fromEntries(Object.entries(CONDITION_TABLE).map(([name, it]) => [name, described(it.shape, it.says)])),
)

/** The mapping under `then`, and under `defaults`. */
export const thenShape = aspectsShape()

/** One entry of `rules`. */
export const ruleShape = object({
  name: v.pipe(text('a name for the rule'), v.description('what logs and explanations call it')),
  when: described(whenShape, 'the conditions, all of which must hold; without any the rule always matches'),
  // biome-ignore lint/suspicious/noThenProperty: the document's word; nobody awaits a shape.
  then: v.pipe(thenShape, v.description('what the rule decides')),
  dryRun: described(flag, 'true: the rule decides nothing; what it would change is shown'),
})

/** What a test may say of a connection or request: the same words as `when`, but facts and not patterns. */
const givenShape = object({
  direction: v.optional(oneOf(['inbound', 'outbound'])),
  source: v.optional(oneOf(['listener', 'command'])),
  destination: fixedAddress,
  peer: v.optional(peerAddress),
  protocol: v.optional(oneOf(['tls', 'http1', 'http2', 'opaque'])),
  sni: v.optional(orNone(text('a server name, or none'))),
  alpn: v.optional(
    v.pipe(
      oneOrMany(text('an ALPN protocol id, or none')),
      v.transform((ids) => (ids.includes('none') ? null : ids)),
    ),
  ),
  extension: v.optional(oneOrMany(count(0, 65_535))),
  identity: v.optional(orNone(text('a name or URI, or none'))),
  authority: v.optional(text('an authority')),
  method: v.optional(text('a method')),
  path: v.optional(text('a path')),
  header: v.optional(named(oneOrMany(v.string(expected('a header value'))))),
})

/** One entry of `tests`. */
export const testShape = object({
  name: described(text('a name for the test'), 'what a failure calls it'),
  given: v.pipe(givenShape, v.description('what is known of a connection or request')),
  expect: v.pipe(thenShape, v.description('what must be decided, in the words of `then`')),
  by: described(text('the name of a rule'), 'the rule that must decide it; `defaults` and `built-in` are names, too'),
})

/** The keys of a document that are not sections. */
export const OWN_KEYS = {
  apiVersion: v.pipe(apiVersion, v.description('the version of this format')),
  defaults: described(thenShape, 'what is decided where no rule decides'),
  rules: described(
    listOf(ruleShape),
    'rules in order: for each aspect the first that matches and says something about it decides',
  ),
  tests: described(listOf(testShape), 'tests that the policy must pass to be used'),
}

/** A whole document, for editors. */
export const documentShape = object({
  ...OWN_KEYS,
  ...Object.fromEntries(Object.entries(SECTION_TABLE).map(([name, it]) => [name, described(it.shape, it.says)])),
})
