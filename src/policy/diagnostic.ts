/** What kind of mistake it is; stable, for tools. */
export type MistakeCode =
  | 'syntax'
  | 'unknown-key'
  | 'missing-key'
  | 'bad-value'
  | 'dangling-reference'
  | 'duplicate'
  | 'too-late'
  | 'never-matches'
  | 'hidden-rule'
  | 'doubtful'
  | 'failed-test'

/** A place in a document: line and column count from 1; `length` is what the caret underlines. */
export interface Place {
  readonly file: string
  readonly line: number
  readonly column: number
  readonly length: number
  /** The text of that line. */
  readonly text: string
}

/** One mistake, or one doubt, in a document. */
export interface Diagnostic {
  readonly severity: 'error' | 'warning'
  readonly code: MistakeCode
  readonly place: Place
  readonly message: string
}

/** `file:line:column: error: message`, then the line, then carets under the place. */
export const formatDiagnostic = ({ severity, place, message }: Diagnostic): string => {
  const at = `${place.file}:${place.line}:${place.column}: ${severity}: ${message}`
  if (place.text.trim() === '') return at
  // Tabs stay tabs, so that the caret stands under its letter in any terminal.
  const indent = place.text.slice(0, place.column - 1).replace(/[^\t]/g, ' ')
  const length = Math.max(1, Math.min(place.length, place.text.length - place.column + 1))
  return `${at}\n  ${place.text}\n  ${indent}${'^'.repeat(length)}`
}

/** In the order a reader meets them. */
export const inOrder = (diagnostics: readonly Diagnostic[], files: readonly string[]): Diagnostic[] =>
  [...diagnostics].sort(
    (a, b) =>
      files.indexOf(a.place.file) - files.indexOf(b.place.file) ||
      a.place.line - b.place.line ||
      a.place.column - b.place.column,
  )
