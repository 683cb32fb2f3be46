import * as v from 'valibot'
import { CONDITION_TABLE } from './conditions.ts'
import { aspectsShape } from './leaves.ts'
import { SECTION_TABLE } from './sections.ts'
import { flag, listOf, object, oneOf, type Shape, text } from './shape.ts'

/** The one version there is. */
export const apiVersion = oneOf(['sluice/v1'])

const described = (shape: Shape, says: string) => v.pipe(v.optional(shape), v.description(says))

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
  dryRun: described(flag, 'true: the rule decides nothing; what it would have decided is counted and shown'),
})

/** The keys of a document that are not sections. */
export const OWN_KEYS = {
  apiVersion: v.pipe(apiVersion, v.description('the version of this format')),
  defaults: described(thenShape, 'what is decided where no rule decides'),
  rules: described(
    listOf(ruleShape),
    'rules in order: for each aspect the first that matches and says something about it decides',
  ),
}

/** A whole document, for editors. */
export const documentShape = object({
  ...OWN_KEYS,
  ...Object.fromEntries(Object.entries(SECTION_TABLE).map(([name, it]) => [name, described(it.shape, it.says)])),
})
