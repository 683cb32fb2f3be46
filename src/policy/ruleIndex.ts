import type { Condition } from './conditions/condition.ts'
import { CONDITION_TABLE } from './conditions.ts'
import type { Facts } from './facts.ts'
import type { Rule } from './policy.ts'
import type { Shape } from './shape.ts'

/** Rules by number, a bit each. */
export type RuleSet = Uint32Array

/** Which rules one condition leaves possible: never too few, perhaps too many, found without asking each. */
export interface RuleIndex {
  /** The sets that together hold every rule which these facts may select; undefined while the fact is not known. */
  readonly find: (facts: Facts) => Pair | undefined
}

type Pair = readonly [RuleSet, RuleSet]

/** A set of all rules. */
export const allOf = (rules: readonly Rule[]): RuleSet => setOf(rules, () => true)

/** An index for each condition that has one and that some of the rules use. */
export const indexRules = (rules: readonly Rule[]): RuleIndex[] =>
  Object.entries(CONDITION_TABLE).flatMap(([name, it]) =>
    it.index !== undefined && rules.some((rule) => clauseOf(rule, name) !== undefined)
      ? [indexBy(name, it, rules)]
      : [],
  )

const clauseOf = (rule: Rule, name: string) => rule.tests.find(({ condition }) => condition === name)

const setOf = (rules: readonly Rule[], has: (rule: Rule) => boolean): RuleSet => {
  const set = new Uint32Array(Math.ceil(rules.length / 32))
  rules.forEach((rule, i) => {
    if (has(rule)) set[i >>> 5]! |= 1 << (i & 31)
  })
  return set
}

const indexBy = (
  name: string,
  { fact, index, absent }: Condition<Shape, unknown>,
  rules: readonly Rule[],
): RuleIndex => {
  const { keys, first, second, recurs } = index!
  const keysOf = new Map<Rule, readonly (string | number)[] | undefined>()
  for (const rule of rules) {
    const clause = clauseOf(rule, name)
    keysOf.set(rule, clause && keys(clause.value))
  }
  // Rules without the condition, or with a value that no key stands for, are in every set.
  const always = setOf(rules, (rule) => keysOf.get(rule) === undefined)
  const whenAbsent = setOf(rules, (rule) => clauseOf(rule, name) === undefined || absent !== undefined)
  const sets = new Map<string | number, RuleSet>()
  for (const key of new Set([...keysOf.values()].flatMap((it) => it ?? [])))
    sets.set(
      key,
      setOf(rules, (rule) => keysOf.get(rule)?.includes(key) ?? true),
    )
  const lookUp = (known: unknown): Pair => {
    const one = sets.get(first(known)) ?? always
    return [one, second === undefined ? one : (sets.get(second(known)) ?? always)]
  }
  const absentPair: Pair = [whenAbsent, whenAbsent]
  const kept = new Map<unknown, Pair>()
  return {
    find: (facts) => {
      const known = fact(facts)
      if (known === undefined) return undefined
      if (known === null) return absentPair
      const before = recurs === true ? kept.get(known) : undefined
      if (before !== undefined) return before
      const found = lookUp(known)
      if (recurs === true) {
        if (kept.size === KEPT_MAX) kept.clear()
        kept.set(known, found)
      }
      return found
    },
  }
}

// Names that one workload talks to in a while; whoever sends a new one each time only pays for the look-up.
const KEPT_MAX = 1024

/**
 * Calls `visit` with each rule that facts may select, in order, until it says to stop. The rules are those of
 * `candidates` that every index leaves possible.
 */
export const visitPossible = (
  rules: readonly Rule[],
  candidates: RuleSet,
  indexes: readonly RuleIndex[],
  facts: Facts,
  visit: (rule: Rule) => boolean,
): void => {
  const found: Pair[] = []
  for (const index of indexes) {
    const sets = index.find(facts)
    if (sets !== undefined) found.push(sets)
  }
  for (let word = 0; word < candidates.length; word++) {
    let bits = possible(candidates, found, word)
    while (bits !== 0) {
      const bit = 31 - Math.clz32(bits & -bits)
      if (visit(rules[word * 32 + bit]!)) return
      bits &= bits - 1
    }
  }
}

/** The candidates that every index leaves possible, as a set of their own. */
export const narrowSet = (candidates: RuleSet, indexes: readonly RuleIndex[], facts: Facts): RuleSet => {
  const found = indexes.map((index) => index.find(facts)).filter((sets) => sets !== undefined)
  const narrowed = new Uint32Array(candidates.length)
  for (let word = 0; word < narrowed.length; word++) narrowed[word] = possible(candidates, found, word)
  return narrowed
}

const possible = (candidates: RuleSet, found: readonly Pair[], word: number): number => {
  let bits = candidates[word]!
  for (let i = 0; i < found.length && bits !== 0; i++) bits &= found[i]![0][word]! | found[i]![1][word]!
  return bits
}
