import { type Command, UsageError } from '../net/commandLine.ts'
import { COMPLETIONS } from './completions.ts'
import { manPage } from './manPage.ts'

/** All commands; loaded only when one of these asks. */
type Table = () => Promise<readonly Command[]>

/** `sluice completion`: the script that completes commands and flags in a shell. */
export const completionCommand = (table: Table): Command => ({
  name: 'completion',
  summary: 'print the script that completes sluice in a shell',
  usage: Object.keys(COMPLETIONS).join('|'),
  options: {},
  examples: ['source <(sluice completion bash)', 'sluice completion fish > ~/.config/fish/completions/sluice.fish'],
  run: async ({ positionals }, io) => {
    const [shell = '', ...more] = positionals
    if (!Object.hasOwn(COMPLETIONS, shell) || more.length > 0)
      throw new UsageError(`name one shell: ${Object.keys(COMPLETIONS).join(', ')}`)
    io.out(COMPLETIONS[shell as keyof typeof COMPLETIONS](await table()))
    return 0
  },
})

/** `sluice man`: the manual page. */
export const manCommand = (table: Table, version: () => Promise<string>): Command => ({
  name: 'man',
  summary: 'print the manual page',
  usage: '',
  flagsOnly: true,
  options: {},
  examples: ['sluice man > sluice.1 && man ./sluice.1'],
  run: async (_, io) => {
    io.out(manPage(await table(), await version()))
    return 0
  },
})
