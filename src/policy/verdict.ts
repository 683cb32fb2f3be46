import type { AspectName, AspectValue } from './aspects.ts'

/** Where a rule stands. Built-in defaults have no file and line 0. */
export interface RuleRef {
  readonly name: string
  readonly file: string
  readonly line: number
}

/** One aspect's answer: decided, with the rule that did, or waiting for facts that this rule still needs. */
export type Decision<T> =
  | { readonly is: 'decided'; readonly value: T; readonly by: RuleRef }
  | { readonly is: 'waits'; readonly for: RuleRef }

/** The answer for every aspect. */
export type Verdict = { readonly [K in AspectName]: Decision<AspectValue<K>> }

/**
 * The value of a decision that cannot wait any more, because the last moment at which its aspect may be decided has
 * come. `check` refuses rules that would make it wait longer, so a decision that does is our mistake.
 */
export const settled = <T>(decision: Decision<T>): T => {
  if (decision.is === 'decided') return decision.value
  throw new Error(`the rule "${decision.for.name}" still waits for facts when it is too late`)
}

/** The value of a decision, or `otherwise` while it waits. */
export const valueOr = <T, D>(decision: Decision<T>, otherwise: D): T | D =>
  decision.is === 'decided' ? decision.value : otherwise
