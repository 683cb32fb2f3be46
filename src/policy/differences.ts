import { isDeepStrictEqual } from 'node:util'
import { answersOf } from './answers.ts'
import type { AspectName } from './aspects.ts'
import { decide } from './decide.ts'
import type { Facts } from './facts.ts'
import type { Policy } from './policy.ts'
import type { RuleRef, Verdict } from './verdict.ts'

/** What a policy answers for one aspect, in the words of the document. */
export interface Told {
  /** The dotted key and its value; undefined while it waits. */
  readonly key: string
  readonly written: unknown
  readonly is: 'decided' | 'waits'
  readonly by: RuleRef
}

/** One aspect that two policies decide differently for the same facts. */
export interface Difference {
  readonly aspect: AspectName
  readonly before: Told
  readonly after: Told
}

/** What changes for these facts when one policy takes the place of another. */
export const differences = (before: Policy, after: Policy, facts: Facts): Difference[] => {
  const [was, is] = [decide(before, facts), decide(after, facts)]
  const changed: Difference[] = []
  for (const aspect of Object.keys(was) as AspectName[]) {
    if (was[aspect] === is[aspect]) continue
    const difference = differenceOf(aspect, { policy: before, verdict: was }, { policy: after, verdict: is })
    if (difference !== undefined) changed.push(difference)
  }
  return changed
}

interface Asked {
  readonly policy: Policy
  readonly verdict: Verdict
}

/** What two decisions come to: each rule makes its own once, so that whoever asks with every request compares but once. */
const known = new WeakMap<object, WeakMap<object, Map<AspectName, Difference | undefined>>>()

const differenceOf = (aspect: AspectName, before: Asked, after: Asked): Difference | undefined => {
  const [a, b] = [before.verdict[aspect], after.verdict[aspect]]
  let of = known.get(a)
  if (of === undefined) known.set(a, (of = new WeakMap()))
  let found = of.get(b)
  if (found === undefined) of.set(b, (found = new Map()))
  if (found.has(aspect)) return found.get(aspect)
  const isSame = a.is === 'decided' && b.is === 'decided' ? isDeepStrictEqual(a.value, b.value) : a.is === b.is
  const told = ({ policy, verdict }: Asked) => answersOf(policy, verdict).find((it) => it.aspect === aspect)!
  const difference = isSame ? undefined : { aspect, before: told(before), after: told(after) }
  found.set(aspect, difference)
  return difference
}

/** What the rules with `dryRun: true` would change for these facts, if they counted. */
export const dryRun = (policy: Policy, facts: Facts): Difference[] =>
  policy.trial === undefined ? [] : differences(policy, policy.trial, facts)
