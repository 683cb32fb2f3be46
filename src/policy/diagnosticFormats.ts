import { type Diagnostic, formatDiagnostic, type MistakeCode } from './diagnostic.ts'

/** How diagnostics may be printed: for people, for programs, for code scanning, and as annotations of a CI run. */
export const FORMATS = {
  text: (diagnostics) => diagnostics.map((it) => `${formatDiagnostic(it)}\n`).join(''),
  json: (diagnostics) => `${JSON.stringify({ ok: !diagnostics.some(isError), diagnostics: diagnostics.map(flat) })}\n`,
  sarif: (diagnostics) => `${JSON.stringify(sarif(diagnostics), null, 2)}\n`,
  github: (diagnostics) => diagnostics.map((it) => `${workflowCommand(it)}\n`).join(''),
} satisfies Record<string, (diagnostics: readonly Diagnostic[]) => string>

export type Format = keyof typeof FORMATS

/** What each code means, for tools that list rules. */
const CODES: Readonly<Record<MistakeCode, string>> = {
  syntax: 'The document is not valid YAML.',
  'unknown-key': 'A key that this place does not have.',
  'missing-key': 'A key that this place must have.',
  'bad-value': 'A value that this key does not take.',
  'dangling-reference': 'A name that no section defines.',
  duplicate: 'Something is defined twice.',
  'too-late': 'A condition on a fact that is known only after the decision.',
  'never-matches': 'A rule whose conditions contradict each other.',
  'hidden-rule': 'A rule that earlier rules leave nothing to decide.',
  doubtful: 'Something that is allowed and probably not meant.',
  'failed-test': 'A test of the policy that the policy does not pass.',
}

const isError = ({ severity }: Diagnostic): boolean => severity === 'error'

const flat = ({ severity, code, place, message }: Diagnostic) => ({
  severity,
  code,
  file: place.file,
  line: place.line,
  column: place.column,
  endColumn: place.column + caretLength(place),
  message,
})

const caretLength = ({ column, length, text }: Diagnostic['place']): number =>
  Math.max(1, Math.min(length, text.length - column + 1))

// SARIF 2.1.0, as code scanning services read it.
const sarif = (diagnostics: readonly Diagnostic[]) => ({
  $schema: 'https://json.schemastore.org/sarif-2.1.0.json',
  version: '2.1.0',
  runs: [
    {
      tool: {
        driver: {
          name: 'sluice check',
          rules: Object.entries(CODES).map(([id, text]) => ({ id, shortDescription: { text } })),
        },
      },
      columnKind: 'utf16CodeUnits',
      results: diagnostics.map(({ severity, code, place, message }) => ({
        ruleId: code,
        level: severity,
        message: { text: message },
        locations: [
          {
            physicalLocation: {
              artifactLocation: { uri: place.file.split('/').map(encodeURIComponent).join('/') },
              region: {
                startLine: place.line,
                startColumn: place.column,
                endColumn: place.column + caretLength(place),
              },
            },
          },
        ],
      })),
    },
  ],
})

// Workflow commands: properties escape more than the message does.
const workflowCommand = ({ severity, place, message }: Diagnostic): string => {
  const text = message.replace(/%/g, '%25').replace(/\r/g, '%0D').replace(/\n/g, '%0A')
  const file = place.file.replace(/%/g, '%25').replace(/:/g, '%3A').replace(/,/g, '%2C')
  const endColumn = place.column + caretLength(place)
  return `::${severity} file=${file},line=${place.line},col=${place.column},endColumn=${endColumn},title=sluice check::${text}`
}
