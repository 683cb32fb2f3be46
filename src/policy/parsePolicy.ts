import { type Diagnostic, inOrder, withoutSecrets } from './diagnostic.ts'
import { readDocuments } from './document.ts'
import { lint } from './lint.ts'
import { compilePolicy, type Policy } from './policy.ts'
import { runTests } from './runTests.ts'
import type { SourceFile } from './source.ts'

/** Documents that are a policy, perhaps with doubts, or the mistakes that keep them from being one. */
export type Parsed =
  | { readonly is: 'policy'; readonly policy: Policy; readonly warnings: readonly Diagnostic[] }
  | { readonly is: 'mistaken'; readonly diagnostics: readonly Diagnostic[] }

/** Reads files, in this order, as one policy: rules follow each other, sections come from whichever file has them. */
export const parsePolicy = (files: readonly SourceFile[]): Parsed => {
  const { text, diagnostics } = readDocuments(files)
  const ordered = (found: readonly Diagnostic[]) =>
    inOrder(
      found,
      files.map((file) => file.path),
    ).map(withoutSecrets)
  const warnings = lint(text.rules, text.sections)
  if (diagnostics.some(isError)) return { is: 'mistaken', diagnostics: ordered([...diagnostics, ...warnings]) }
  const policy = compilePolicy(text)
  // A policy that does not do what it says of itself is not one.
  const all = ordered([...diagnostics, ...warnings, ...runTests(policy, text.tests)])
  return all.some(isError) ? { is: 'mistaken', diagnostics: all } : { is: 'policy', policy, warnings: all }
}

const isError = ({ severity }: Diagnostic): boolean => severity === 'error'

/** The policy of no document at all: everything built in. */
export const builtInPolicy = (): Policy => {
  const parsed = parsePolicy([])
  if (parsed.is === 'policy') return parsed.policy
  throw new Error('the built-in policy does not parse')
}
