import type { AspectName } from './aspects.ts'
import { CONDITION_TABLE, type ConditionName } from './conditions.ts'
import { decide, ruleMatches } from './decide.ts'
import { type Difference, dryRun } from './differences.ts'
import type { Facts } from './facts.ts'
import type { Policy, Rule, Test } from './policy.ts'
import type { RuleRef, Verdict } from './verdict.ts'

/** Whether something matched: not known while it depends on facts that are not. */
export type Answer = 'yes' | 'no' | 'unknown'

/** One condition of a rule, held against the facts. */
export interface ConditionExplained {
  readonly condition: ConditionName
  readonly written: unknown
  readonly holds: Answer
  /** The fact for a reader; null when it is known to be absent, undefined while it is not known. */
  readonly fact: string | null | undefined
}

/** One thing a rule says, and what became of it. */
export interface SayingExplained {
  readonly aspect: AspectName
  /** The dotted key in the document. */
  readonly key: string
  readonly written: unknown
  /** decides: this is the answer; waits: it will be, if the rule matches; outranked: an earlier rule answers; unused: the rule does not match. */
  readonly is: 'decides' | 'waits' | 'outranked' | 'unused' | 'dryRun'
  /** The rule that outranks it. */
  readonly by?: RuleRef
}

/** One rule, held against the facts. */
export interface RuleExplained {
  readonly rule: RuleRef
  readonly isDry: boolean
  readonly matches: Answer
  readonly conditions: readonly ConditionExplained[]
  readonly says: readonly SayingExplained[]
}

/** Every rule in order, and the verdict they come to. */
export interface Explanation {
  readonly rules: readonly RuleExplained[]
  readonly verdict: Verdict
  /** What the dry-run rules would change. */
  readonly dryRun: readonly Difference[]
}

/** How the policy comes to its verdict. */
export const explain = (policy: Policy, facts: Facts): Explanation => {
  const verdict = decide(policy, facts)
  return {
    rules: policy.rules.map((rule) => explainRule(rule, facts, verdict)),
    verdict,
    dryRun: dryRun(policy, facts),
  }
}

const answer = (holds: boolean | undefined): Answer => (holds === undefined ? 'unknown' : holds ? 'yes' : 'no')

const explainRule = (rule: Rule, facts: Facts, verdict: Verdict): RuleExplained => {
  const matches = answer(ruleMatches(rule, facts))
  const conditions = rule.tests.map((test) => explainTest(test, facts))
  const says = rule.says.map(({ aspect, key, written }): SayingExplained => {
    const decision = verdict[aspect]
    const decider = decision.is === 'decided' ? decision.by : decision.for
    if (rule.isDry && matches !== 'no') return { aspect, key, written, is: 'dryRun' }
    if (matches === 'no') return { aspect, key, written, is: 'unused' }
    if (decider === rule.ref) return { aspect, key, written, is: decision.is === 'decided' ? 'decides' : 'waits' }
    return { aspect, key, written, is: 'outranked', by: decider }
  })
  return { rule: rule.ref, isDry: rule.isDry, matches, conditions, says }
}

const explainTest = ({ condition, written, holds }: Test, facts: Facts): ConditionExplained => {
  const { fact, show } = CONDITION_TABLE[condition]!
  const known = fact(facts)
  return { condition, written, holds: answer(holds(facts)), fact: known == null ? known : show(known) }
}
