import { type ParseArgsOptionsConfig, parseArgs } from 'node:util'

/** Where a command talks: handed in by main.ts, caught by tests. */
export interface Io {
  readonly out: (text: string) => void
  readonly err: (text: string) => void
  readonly env: Readonly<Record<string, string | undefined>>
  readonly cwd: string
  /** Resolves when the process is asked to stop (SIGTERM, SIGINT). */
  readonly stopped: Promise<string>
  /** Called on each SIGHUP. */
  readonly onReload: (run: () => void) => void
}

/** One flag, for parsing, `--help`, completions and the man page alike. */
export interface Option {
  readonly help: string
  /** What the value is called in the help; absent for a flag that is on or off. */
  readonly value?: string
  readonly short?: string
  readonly multiple?: boolean
}

/** What was given. A flag that may be repeated is a list. */
export interface Arguments {
  readonly values: Readonly<Record<string, string | boolean | readonly string[] | undefined>>
  readonly positionals: readonly string[]
}

/** One subcommand. The exit code is 0 for yes, 1 for a finding, 2 for wrong usage. */
export interface Command {
  readonly name: string
  readonly summary: string
  /** What follows the name, for example `FILE… [--json]`. */
  readonly usage: string
  readonly options: Readonly<Record<string, Option>>
  /** Nothing but flags may follow the name. */
  readonly flagsOnly?: true
  readonly examples: readonly string[]
  readonly run: (args: Arguments, io: Io) => Promise<number>
}

/** A wrong flag or argument: main.ts prints the message and the usage, and exits with 2. */
export class UsageError extends Error {}

/** The value of an option that is given at most once. */
export const single = ({ values }: Arguments, name: string): string | undefined => {
  const value = values[name]
  return typeof value === 'string' ? value : undefined
}

/** The values of an option that may be repeated; empty when it is absent. */
export const repeated = ({ values }: Arguments, name: string): readonly string[] => {
  const value = values[name]
  return Array.isArray(value) ? value : typeof value === 'string' ? [value] : []
}

/** Parses what follows a command's name. Throws UsageError that names the flag. */
export const parseCommand = (command: Command, argv: readonly string[]): Arguments => {
  const options = Object.fromEntries(
    Object.entries({ ...command.options, help: { help: '', short: 'h' } as Option }).map(([name, option]) => [
      name,
      {
        type: option.value === undefined ? ('boolean' as const) : ('string' as const),
        ...(option.short && { short: option.short }),
        ...(option.multiple && { multiple: true }),
      },
    ]),
  )
  const { values, positionals } = parsed(argv, options)
  if (command.flagsOnly && positionals.length > 0)
    throw new UsageError(`'${positionals[0]}' is one argument too many: only flags may follow`)
  return { values: values as Arguments['values'], positionals }
}

const parsed = (argv: readonly string[], options: ParseArgsOptionsConfig) => {
  try {
    return parseArgs({ args: [...argv], options, allowPositionals: true, strict: true })
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

/** The text of `sluice NAME --help`. */
export const helpOf = (command: Command): string => {
  const flags = Object.entries(command.options).map(([name, { value, short, help }]) => [
    `${short ? `-${short}, ` : ''}--${name}${value === undefined ? '' : ` ${value}`}`,
    help,
  ])
  const width = Math.max(0, ...flags.map(([flag]) => flag?.length ?? 0))
  return [
    `sluice ${command.name}: ${command.summary}`,
    '',
    `usage: sluice ${command.name} ${command.usage}`.trimEnd(),
    ...(flags.length === 0 ? [] : ['', ...flags.map(([flag, help]) => `  ${flag?.padEnd(width)}  ${help}`)]),
    '',
    ...(command.examples.length === 1 ? ['example:'] : ['examples:']),
    ...command.examples.map((example) => `  ${example}`),
    '',
  ].join('\n')
}
