import { type Command, single, UsageError } from '../net/commandLine.ts'
import { defaultsText, defaultsValue } from '../policy/defaultsText.ts'
import type { Diagnostic } from '../policy/diagnostic.ts'
import { FORMATS, type Format } from '../policy/diagnosticFormats.ts'
import { counted } from './counted.ts'
import { lintCertificates } from './lintCertificates.ts'
import { loadPolicy } from './livePolicy.ts'

/** `sluice check`: whether documents are a policy, and what is wrong with them. */
export const checkCommand: Command = {
  name: 'check',
  summary: 'say what is wrong with policy documents, all of it, with file, line and column',
  usage: 'PATH… [--format text|json|sarif|github] | --defaults',
  options: {
    defaults: { help: 'print everything that is built in, as a document, with what it does and why' },
    format: {
      value: 'FORMAT',
      help: 'how to print: text (the default), json, sarif, or github (annotations of a workflow)',
    },
    json: { help: 'the same as --format json' },
    strict: { help: 'a warning is a finding, too' },
  },
  examples: [
    'sluice check policy/default.yaml',
    'sluice check /etc/sluice --json',
    'sluice check --defaults > policy.yaml',
  ],
  run: async (args, io) => {
    const json = args.values.json === true
    if (args.values.defaults === true) {
      io.out(json ? `${JSON.stringify(defaultsValue())}\n` : defaultsText())
      return 0
    }
    const format = formatOf(json ? 'json' : (single(args, 'format') ?? 'text'))
    if (args.positionals.length === 0) throw new UsageError('name at least one file or directory to check')
    const loaded = await loadPolicy(args.positionals)
    const diagnostics =
      loaded.is === 'policy' ? [...loaded.warnings, ...(await lintCertificates(loaded.policy))] : loaded.diagnostics
    const unreadable = loaded.is === 'mistaken' ? loaded.unreadable : []
    for (const problem of unreadable) io.err(`sluice check: ${problem}\n`)
    const print = format === 'text' ? io.err : io.out
    print(FORMATS[format](diagnostics))
    const isGood = loaded.is === 'policy' && !(args.values.strict === true && diagnostics.length > 0)
    if (format === 'text')
      (isGood ? io.out : io.err)(
        summary(
          args.positionals,
          loaded.is === 'policy' ? loaded.policy.rules.length : 0,
          diagnostics,
          unreadable.length,
        ),
      )
    return isGood ? 0 : 1
  },
}

const formatOf = (name: string): Format => {
  if (Object.hasOwn(FORMATS, name)) return name as Format
  throw new UsageError(`--format is one of ${Object.keys(FORMATS).join(', ')}, not '${name}'`)
}

const summary = (
  paths: readonly string[],
  rules: number,
  diagnostics: readonly Diagnostic[],
  unreadable: number,
): string => {
  const errors = diagnostics.filter(({ severity }) => severity === 'error').length + unreadable
  const warnings = diagnostics.length + unreadable - errors
  const found = `${counted(errors, 'error')}, ${counted(warnings, 'warning')}`
  return errors > 0 ? `${found}\n` : `${paths.join(' ')}: good, ${counted(rules, 'rule')}, ${found}\n`
}
