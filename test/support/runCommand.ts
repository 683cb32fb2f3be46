import { type Command, type Io, parseCommand } from '../../src/net/commandLine.ts'

/** What a command printed, and its exit code. */
export interface Ran {
  readonly code: number
  readonly out: string
  readonly err: string
}

/** Runs a command in this process, as main.ts would. */
export const runCommand = async (command: Command, argv: readonly string[], given: Partial<Io> = {}): Promise<Ran> => {
  let out = ''
  let err = ''
  const io: Io = {
    out: (text) => {
      out += text
    },
    err: (text) => {
      err += text
    },
    env: {},
    cwd: '.',
    stopped: new Promise(() => {}),
    onReload: () => {},
    ...given,
  }
  const code = await command.run(parseCommand(command, argv), io)
  return { code, out, err }
}
