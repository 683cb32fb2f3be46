import { isDeepStrictEqual } from 'node:util'
import { answersOf } from './answers.ts'
import type { AspectName } from './aspects.ts'
import { decide } from './decide.ts'
import type { Facts } from './facts.ts'
import type { Policy } from './policy.ts'
import type { RuleRef } from './verdict.ts'

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
  const changed = (Object.keys(was) as AspectName[]).filter((aspect) => {
    const [a, b] = [was[aspect], is[aspect]]
    return a.is === 'decided' && b.is === 'decided' ? !isDeepStrictEqual(a.value, b.value) : a.is !== b.is
  })
  if (changed.length === 0) return []
  const [old, now] = [answersOf(before, was), answersOf(after, is)]
  return changed.map((aspect) => ({
    aspect,
    before: old.find((it) => it.aspect === aspect)!,
    after: now.find((it) => it.aspect === aspect)!,
  }))
}

/** What the rules with `dryRun: true` would change for these facts, if they counted. */
export const dryRun = (policy: Policy, facts: Facts): Difference[] =>
  policy.trial === undefined ? [] : differences(policy, policy.trial, facts)
