import { ASPECT_TABLE, type AspectName } from './aspects.ts'
import { CONDITION_TABLE, type ConditionName } from './conditions.ts'
import type { Facts } from './facts.ts'
import { builtInOf } from './leaves.ts'
import type { Clause, PolicyText, RuleText, Saying } from './policyText.ts'
import { allOf, indexRules, type RuleIndex, type RuleSet } from './ruleIndex.ts'
import type { Sections } from './sections.ts'
import type { Decision, RuleRef, Verdict } from './verdict.ts'

/** One condition of a rule, ready: true, false, or undefined while its fact is not known. */
export interface Test {
  readonly condition: ConditionName
  readonly written: unknown
  readonly value: unknown
  readonly holds: (facts: Facts) => boolean | undefined
}

/** A rule, ready. */
export interface Rule {
  readonly ref: RuleRef
  readonly tests: readonly Test[]
  readonly aspects: readonly AspectName[]
  /** What it decides, by aspect. Each object is this rule's own: `decide` compares by identity. */
  readonly decisions: Readonly<Record<string, Decision<unknown>>>
  readonly waits: Decision<never>
  readonly says: readonly Saying[]
  readonly isDry: boolean
}

/** A policy, ready to be asked. `narrow` gives one with fewer candidates that answers the same. */
export interface Policy {
  /** All rules in order, for explanations. */
  readonly rules: readonly Rule[]
  /** What `defaults` says. */
  readonly defaults: readonly Saying[]
  readonly sections: Sections
  /** The answer of what no open rule decides. */
  readonly base: Verdict
  /** The rules that facts can select, in order; each has at least one test. */
  readonly open: readonly Rule[]
  /** How many different aspects the open rules decide. */
  readonly openAspects: number
  /** Which of the open rules are left, when facts have excluded others. */
  readonly candidates: RuleSet
  /** What excludes more of them, as soon as its fact is known. */
  readonly indexes: readonly RuleIndex[]
  /** The same policy with the rules of `dryRun: true` in force; undefined when there are none. */
  readonly trial: Policy | undefined
}

/** The name and place of what no document says. */
export const BUILT_IN: RuleRef = { name: 'built-in', file: '', line: 0 }

/** Prepares documents for use. */
export const compilePolicy = (text: PolicyText): Policy => {
  const base: Record<string, Decision<unknown>> = { ...BUILT_IN_DECISIONS }
  for (const { aspect, value, ref } of text.defaults) base[aspect] = { is: 'decided', value, by: ref }
  const rules = text.rules.map(compileRule)
  const inForce = (live: readonly Rule[], trial?: Policy): Policy => {
    const settled = settle(base as unknown as Verdict, live)
    const candidates = allOf(settled.open)
    const indexes = indexRules(settled.open)
    return { rules, defaults: text.defaults, sections: text.sections, ...settled, candidates, indexes, trial }
  }
  const live = rules.filter((rule) => !rule.isDry)
  return inForce(live, live.length === rules.length ? undefined : inForce(rules))
}

const BUILT_IN_DECISIONS: Record<string, Decision<unknown>> = Object.fromEntries(
  (Object.keys(ASPECT_TABLE) as AspectName[]).map((name) => [
    name,
    { is: 'decided', value: builtInOf(name), by: BUILT_IN },
  ]),
)

const compileRule = (rule: RuleText): Rule => ({
  ref: rule.ref,
  tests: rule.when.map(compileTest),
  aspects: rule.says.map(({ aspect }) => aspect),
  decisions: Object.fromEntries(rule.says.map(({ aspect, value }) => [aspect, { is: 'decided', value, by: rule.ref }])),
  waits: { is: 'waits', for: rule.ref },
  says: rule.says,
  isDry: rule.isDry,
})

const compileTest = ({ condition, written, value }: Clause): Test => {
  const { fact, matcher, absent } = CONDITION_TABLE[condition]!
  const matches = matcher(value)
  const isAbsent = absent?.(value) ?? never
  const holds = (facts: Facts): boolean | undefined => {
    const known = fact(facts)
    return known === undefined ? undefined : known === null ? isAbsent(facts) : matches(known)
  }
  return { condition, written, value, holds }
}

const never = (): boolean => false

/**
 * A rule without conditions is the answer for whatever no rule before it decides: it joins the base, and hides what
 * later rules say of the same.
 */
const settle = (before: Verdict, rules: readonly Rule[]): Pick<Policy, 'base' | 'open' | 'openAspects'> => {
  const base = { ...before } as Record<string, Decision<unknown>>
  const settled = new Set<AspectName>()
  const touched = new Set<AspectName>()
  const open: Rule[] = []
  for (const rule of rules) {
    const aspects = rule.aspects.filter((aspect) => !settled.has(aspect))
    for (const aspect of aspects) {
      if (rule.tests.length > 0) touched.add(aspect)
      else {
        base[aspect] = rule.decisions[aspect]!
        settled.add(aspect)
      }
    }
    if (rule.tests.length > 0 && aspects.length > 0) open.push({ ...rule, aspects })
  }
  return { base: base as unknown as Verdict, open, openAspects: touched.size }
}
