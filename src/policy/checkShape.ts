import * as v from 'valibot'
import type { Diagnostic } from './diagnostic.ts'
import type { Shape } from './shape.ts'
import type { Path, Source } from './source.ts'

/** What a shape makes of a value at a path of a document, and what it finds wrong, each at its own place. */
export const checkShape = (
  shape: Shape,
  value: unknown,
  source: Source,
  at: Path,
): { readonly value: unknown; readonly diagnostics: readonly Diagnostic[] } => {
  const result = v.safeParse(shape, value)
  if (result.success) return { value: result.output, diagnostics: [] }
  const diagnostics = result.issues.map((issue): Diagnostic => {
    const path = [...at, ...(issue.path ?? []).map((item) => item.key as string | number)]
    const isUnknown = issue.type === 'strict_object' && issue.expected === 'never'
    const isMissing = issue.type === 'strict_object' && issue.input === undefined
    return {
      severity: 'error',
      code: isUnknown ? 'unknown-key' : isMissing ? 'missing-key' : 'bad-value',
      place: source.place(path, isUnknown ? 'key' : 'value'),
      message: isMissing ? `${issue.expected} is missing` : issue.message,
    }
  })
  return { value: undefined, diagnostics }
}
