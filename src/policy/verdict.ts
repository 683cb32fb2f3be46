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
