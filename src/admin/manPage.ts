import type { Command } from '../net/commandLine.ts'

/** The manual page sluice(1), in the language of man(7), made from the table of commands. */
export const manPage = (commands: readonly Command[], version: string): string =>
  [
    `.TH SLUICE 1 "" "sluice ${version}" "Sluice"`,
    '.SH NAME',
    'sluice \\- a transparent proxy beside one workload, that says what it does and why',
    '.SH SYNOPSIS',
    '.B sluice',
    '.I COMMAND',
    '[options]',
    '.SH DESCRIPTION',
    roff(
      'Sluice takes the connections that iptables redirects to it, finds out what is spoken, asks a policy, and terminates, rewrites, balances, forwards, refuses or passes them on. Each connection leaves one record that names the rules that decided.',
    ),
    '.SH COMMANDS',
    ...commands.flatMap(commandText),
    '.SH EXIT STATUS',
    roff('0: yes. 1: a finding, such as a mistake in a policy. 2: wrong usage.'),
    '.SH FILES',
    '.TP',
    roff('/etc/connector'),
    roff('The policy, when no other is named; otherwise the directory that HASURA_CONFIGURATION_DIRECTORY names.'),
    '',
  ].join('\n')

const commandText = ({ name, summary, usage, options, examples }: Command): string[] => [
  `.SS sluice ${roff(`${name} ${usage}`.trim())}`,
  roff(`${summary[0]?.toUpperCase()}${summary.slice(1)}.`),
  ...Object.entries(options).flatMap(([flag, { short, value, help }]) => [
    '.TP',
    `.B ${roff(`${short === undefined ? '' : `-${short}, `}--${flag}${value === undefined ? '' : ` ${value}`}`)}`,
    roff(help),
  ]),
  ...(examples.length === 0
    ? []
    : [
        '.PP',
        examples.length === 1 ? 'Example:' : 'Examples:',
        '.PP',
        '.nf',
        '.RS',
        ...examples.map(roff),
        '.RE',
        '.fi',
      ]),
]

/** Text in which nothing is a request to the formatter. */
const roff = (text: string): string =>
  text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll('…', '...')
    .replace(/^([.'])/, '\\&$1')
