import { hiddenValues, REDACTED } from '../net/secretNames.ts'

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
  // Of a long line, such as a file that is no text at all, only what is around the place.
  const start = place.text.length <= LINE_LETTERS_MAX ? 0 : Math.max(0, place.column - 1 - LINE_LETTERS_MAX / 2)
  const text = place.text.slice(start, start + LINE_LETTERS_MAX).replace(CONTROL, '\u{fffd}')
  const before = place.column - 1 - start
  // Tabs stay tabs, so that the caret stands under its letter in any terminal.
  const indent = text.slice(0, before).replace(/[^\t]/g, ' ')
  const length = Math.max(1, Math.min(place.length, text.length - before))
  return `${at}\n  ${text}\n  ${indent}${'^'.repeat(length)}`
}

const LINE_LETTERS_MAX = 200 // longer than any line an operator writes, shorter than what floods a terminal
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f]/g

/** The same without what looks like a secret in its line: it is copied into logs and the output of CI runs. */
export const withoutSecrets = (diagnostic: Diagnostic): Diagnostic => {
  const { place, message } = diagnostic
  const text = hiddenValues(place.text)
  if (text === place.text) return diagnostic
  const at = (line: string) => line.slice(place.column - 1, place.column - 1 + place.length)
  // What was not expected is named in the message, too.
  const told = at(text) === at(place.text) ? message : message.replace(/(, not |^)".*"/s, `$1${REDACTED}`)
  return { ...diagnostic, place: { ...place, text }, message: told }
}

/** In the order a reader meets them. */
export const inOrder = (diagnostics: readonly Diagnostic[], files: readonly string[]): Diagnostic[] =>
  [...diagnostics].sort(
    (a, b) =>
      files.indexOf(a.place.file) - files.indexOf(b.place.file) ||
      a.place.line - b.place.line ||
      a.place.column - b.place.column,
  )
