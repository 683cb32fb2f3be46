import { type Diagnostic, inOrder } from './diagnostic.ts'
import { readDocuments } from './document.ts'
import { compilePolicy, type Policy } from './policy.ts'
import type { SourceFile } from './source.ts'

/** Documents that are a policy, perhaps with doubts, or the mistakes that keep them from being one. */
export type Parsed =
  | { readonly is: 'policy'; readonly policy: Policy; readonly warnings: readonly Diagnostic[] }
  | { readonly is: 'mistaken'; readonly diagnostics: readonly Diagnostic[] }

/** Reads files, in this order, as one policy: rules follow each other, sections come from whichever file has them. */
export const parsePolicy = (files: readonly SourceFile[]): Parsed => {
  const { text, diagnostics } = readDocuments(files)
  const ordered = inOrder(
    diagnostics,
    files.map((file) => file.path),
  )
  if (ordered.some(({ severity }) => severity === 'error')) return { is: 'mistaken', diagnostics: ordered }
  return { is: 'policy', policy: compilePolicy(text), warnings: ordered }
}

/** The policy of no document at all: everything built in. */
export const builtInPolicy = (): Policy => {
  const parsed = parsePolicy([])
  if (parsed.is === 'policy') return parsed.policy
  throw new Error('the built-in policy does not parse')
}
