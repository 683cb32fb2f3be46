import type { Facts } from './facts.ts'
import type { Policy, Rule } from './policy.ts'
import { narrowSet, visitPossible } from './ruleIndex.ts'
import type { Decision, Verdict } from './verdict.ts'

/**
 * What the policy says of these facts. For each aspect the first rule in order that matches and says something about
 * it decides; a rule that may yet match, once more is known, makes the aspect wait. What no rule decides comes from
 * `defaults`, then from what is built in.
 */
export const decide = (policy: Policy, facts: Facts): Verdict => {
  const base = policy.base as Readonly<Record<string, Decision<unknown>>>
  let verdict: Record<string, Decision<unknown>> | undefined
  let open = policy.openAspects
  visitPossible(policy.open, policy.candidates, policy.indexes, facts, (rule) => {
    const matches = ruleMatches(rule, facts)
    if (matches === false) return false
    verdict ??= { ...base }
    for (const aspect of rule.aspects) {
      if (verdict[aspect] !== base[aspect]) continue
      verdict[aspect] = matches ? rule.decisions[aspect]! : rule.waits
      open--
    }
    return open === 0
  })
  return (verdict ?? base) as unknown as Verdict
}

/** Whether all conditions hold; undefined when none fails but some look at facts not yet known. */
export const ruleMatches = (rule: Rule, facts: Facts): boolean | undefined => {
  let matches: boolean | undefined = true
  for (const test of rule.tests) {
    const holds = test.holds(facts)
    if (holds === false) return false
    if (holds === undefined) matches = undefined
  }
  return matches
}

/**
 * The same policy for connections of which at least these facts are true, without the rules that these exclude. It
 * answers as the whole policy does for the same facts and more, as long as none of them changes: narrow again, from the
 * whole policy, where one does (what is spoken inside TLS).
 */
export const narrow = (policy: Policy, facts: Facts): Policy =>
  policy.open.length === 0 && policy.trial === undefined
    ? policy
    : {
        ...policy,
        candidates: narrowSet(policy.candidates, policy.indexes, facts),
        indexes: policy.indexes.filter((index) => index.find(facts) === undefined),
        trial: policy.trial && narrow(policy.trial, facts),
      }
