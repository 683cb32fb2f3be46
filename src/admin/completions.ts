import type { Command } from '../net/commandLine.ts'

/** The script that completes commands and flags, for each shell. Made from the table of commands, so never behind it. */
export const COMPLETIONS = {
  bash: (commands) => `# bash completion for sluice: source <(sluice completion bash)
_sluice() {
  local word=\${COMP_WORDS[COMP_CWORD]} command=\${COMP_WORDS[1]} flags=
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '${names(commands)}' -- "$word"))
    return
  fi
  case "$command" in
${commands
  .map(
    (command) =>
      `    ${command.name}) flags='${flagsOf(command)
        .map(({ flag }) => flag)
        .join(' ')}' ;;`,
  )
  .join('\n')}
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$flags" -- "$word")) ;;
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}
complete -o filenames -F _sluice sluice
`,
  zsh: (commands) => `#compdef sluice
# zsh completion for sluice: source <(sluice completion zsh)
_sluice() {
  local -a commands=(
${commands.map(({ name, summary }) => `    ${quoted(`${name}:${summary}`)}`).join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  case \${words[2]} in
${commands.map((command) => `    ${command.name}) _arguments ${flagsOf(command).map(zshArgument).join(' ')} '*:file:_files' ;;`).join('\n')}
  esac
}
compdef _sluice sluice
`,
  fish: (commands) => `# fish completion for sluice: sluice completion fish | source
complete -c sluice -n __fish_use_subcommand -f
${commands
  .flatMap((command) => [
    `complete -c sluice -n __fish_use_subcommand -a ${command.name} -d ${fishQuoted(command.summary)}`,
    ...flagsOf(command).map(
      ({ name, short, value, help }) =>
        `complete -c sluice -n '__fish_seen_subcommand_from ${command.name}' -l ${name}${short === undefined ? '' : ` -s ${short}`}${value === undefined ? '' : ' -r'} -d ${fishQuoted(help)}`,
    ),
  ])
  .join('\n')}
`,
} satisfies Record<string, (commands: readonly Command[]) => string>

interface Flag {
  readonly name: string
  readonly flag: string
  readonly short: string | undefined
  readonly value: string | undefined
  readonly multiple: boolean
  readonly help: string
}

const flagsOf = ({ options }: Command): Flag[] => [
  ...Object.entries(options).map(([name, { short, value, multiple = false, help }]) => ({
    name,
    flag: `--${name}`,
    short,
    value,
    multiple,
    help,
  })),
  { name: 'help', flag: '--help', short: 'h', value: undefined, multiple: false, help: 'say more of this command' },
]

const names = (commands: readonly Command[]): string => [...commands.map(({ name }) => name), 'help'].join(' ')

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`

const fishQuoted = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`

// In a specification of _arguments, brackets and colons are its own.
const zshArgument = ({ flag, value, multiple, help }: Flag): string => {
  const plain = help.replace(/[[\]:\\]/g, (found) => `\\${found}`)
  const argument = value === undefined ? '' : `:${value.replace(/[:\\]/g, (found) => `\\${found}`)}:_files`
  return quoted(`${multiple ? '*' : ''}${flag}[${plain}]${argument}`)
}
