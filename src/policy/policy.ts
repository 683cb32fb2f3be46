import { ASPECT_TABLE, type AspectName } from './aspects.ts'
import { CONDITION_TABLE, type ConditionName } from './conditions.ts'
import type { Clause, PolicyText, RuleText, Saying } from './document.ts'
import type { Facts } from './facts.ts'
import { builtInOf } from './leaves.ts'
import type { Sections } from './sections.ts'
import type { Decision, RuleRef, Verdict } from './verdict.ts'

/** One condition of a rule, ready: true, false, or undefined while its fact is not known. */
export interface Test {
  readonly condition: ConditionName
  readonly written: unknown
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

/** A policy, ready to be asked. `narrow` gives one with fewer open rules that answers the same. */
export interface Policy {
  /** All rules in order, for explanations. */
  readonly rules: readonly Rule[]
  /** What `defaults` says. */
  readonly defaults: readonly Saying[]
  readonly sections: Sections
  /** The answer of what no open rule decides. */
  readonly base: Verdict
  /** The rules that facts can still select, in order; each has at least one test. */
  readonly open: readonly Rule[]
  /** How many different aspects the open rules decide. */
  readonly openAspects: number
}

/** The name and place of what no document says. */
export const BUILT_IN: RuleRef = { name: 'built-in', file: '', line: 0 }

/** Prepares documents for use. */
export const compilePolicy = (text: PolicyText): Policy => {
  const base: Record<string, Decision<unknown>> = { ...BUILT_IN_DECISIONS }
  for (const { aspect, value, ref } of text.defaults) base[aspect] = { is: 'decided', value, by: ref }
  const rules = text.rules.map(compileRule)
  const live = rules.filter((rule) => !rule.isDry)
  return {
    rules,
    defaults: text.defaults,
    sections: text.sections,
    ...settle(base as unknown as Verdict, live, (rule) => rule.tests),
  }
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
  return { condition, written, holds }
}

const never = (): boolean => false

/**
 * The open rules, given the tests that remain of each (undefined: it is excluded). A rule of which none remain is the
 * answer for whatever no open rule before it decides: it joins the base, and hides what later rules say of the same.
 */
export const settle = (
  before: Verdict,
  rules: readonly Rule[],
  remaining: (rule: Rule) => readonly Test[] | undefined,
): Pick<Policy, 'base' | 'open' | 'openAspects'> => {
  const base = { ...before } as Record<string, Decision<unknown>>
  const settled = new Set<AspectName>()
  const touched = new Set<AspectName>()
  const open: Rule[] = []
  for (const rule of rules) {
    const tests = remaining(rule)
    if (tests === undefined) continue
    const aspects = settled.size === 0 ? rule.aspects : rule.aspects.filter((aspect) => !settled.has(aspect))
    if (aspects.length === 0) continue
    for (const aspect of aspects) {
      if (tests.length > 0) touched.add(aspect)
      else {
        base[aspect] = rule.decisions[aspect]!
        settled.add(aspect)
      }
    }
    if (tests.length > 0)
      open.push(tests === rule.tests && aspects === rule.aspects ? rule : { ...rule, tests, aspects })
  }
  return { base: base as unknown as Verdict, open, openAspects: touched.size }
}
