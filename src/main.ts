import { enableCompileCache } from 'node:module'
import { type Command, helpOf, type Io, parseCommand, UsageError } from './net/commandLine.ts'

// Each command is loaded only when it is called: `sluice check` needs no proxy, and start-up time is part of the contract.
const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  serve: async () => (await import('./serveCommand.ts')).serveCommand,
  check: async () => (await import('./admin/checkCommand.ts')).checkCommand,
  explain: async () => (await import('./admin/explainCommand.ts')).explainCommand,
  replay: async () => (await import('./replayCommand.ts')).replayCommand,
  redirect: async () => (await import('./admin/redirectCommand.ts')).redirectCommand,
  tap: async () => (await import('./admin/tapCommand.ts')).tapCommand,
  demo: async () => (await import('./admin/demoCommand.ts')).demoCommand,
  diff: async () => (await import('./diffCommand.ts')).diffCommand,
  learn: async () => (await import('./learnCommand.ts')).learnCommand,
  fmt: async () => (await import('./admin/fmtCommand.ts')).fmtCommand,
  certs: async () => (await import('./admin/certsCommand.ts')).certsCommand,
  labels: async () => (await import('./gateway/labelsCommand.ts')).labelsCommand,
  token: async () => (await import('./tokenCommand.ts')).tokenCommand,
  callback: async () => (await import('./sdk/callbackCommand.ts')).callbackCommand,
  completion: async () => (await import('./admin/shellCommands.ts')).completionCommand(everyCommand),
  man: async () => (await import('./admin/shellCommands.ts')).manCommand(everyCommand, version),
}

const everyCommand = (): Promise<Command[]> => Promise.all(Object.values(COMMANDS).map((load) => load()))

const version = async (): Promise<string> => {
  const { default: manifest } = await import('../package.json', { with: { type: 'json' } })
  return manifest.version
}

const main = async (argv: readonly string[], io: Io): Promise<number> => {
  const [name = '--help', ...rest] = argv
  if (name === '--help' || name === '-h' || name === 'help') return help(rest[0], io)
  if (name === '--version') {
    io.out(`sluice ${await version()}\n`)
    return 0
  }
  const load = COMMANDS[name]
  if (load === undefined) {
    io.err(`sluice: unknown command '${name}'. The commands are: ${Object.keys(COMMANDS).join(', ')}\n`)
    return 2
  }
  // Loading takes a moment, and process 1 of a container would never hear a signal that came in it.
  if (name === 'serve' || name === 'callback') void io.stopped
  const command = await load()
  try {
    const args = parseCommand(command, rest)
    if (args.values.help === true) {
      io.out(helpOf(command))
      return 0
    }
    return await command.run(args, io)
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    io.err(`sluice ${name}: ${error.message}\nusage: sluice ${name} ${command.usage}\nTry: sluice ${name} --help\n`)
    return 2
  }
}

const help = async (name: string | undefined, io: Io): Promise<number> => {
  const load = name === undefined ? undefined : COMMANDS[name]
  if (load !== undefined) {
    io.out(helpOf(await load()))
    return 0
  }
  const commands = await everyCommand()
  const width = Math.max(...commands.map((command) => command.name.length))
  io.out('sluice: a transparent proxy beside one workload, that says what it does and why\n\n')
  io.out('usage: sluice COMMAND [options]\n\n')
  for (const command of commands) io.out(`  ${command.name.padEnd(width)}  ${command.summary}\n`)
  io.out('\nsluice COMMAND --help says more of each. sluice --version\n')
  return 0
}

let stop: Promise<string> | undefined
const stopped = (): Promise<string> => {
  stop ??= new Promise<string>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => resolve(signal))
  })
  return stop
}

const realIo = (): Io => ({
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
  env: process.env,
  cwd: process.cwd(),
  // Asked for only by commands that end in an orderly way; the others keep the default, to die at once.
  get stopped() {
    return stopped()
  },
  onReload: (run) => process.on('SIGHUP', run),
})

enableCompileCache()
// A reader that goes away (`sluice replay … | head`) is no error of ours.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1))
process.exitCode = await main(process.argv.slice(2), realIo()).catch((error: Error) => {
  process.stderr.write(`sluice: ${error.stack}\nThis is a bug in sluice.\n`)
  return 70
})
