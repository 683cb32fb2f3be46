import { listen, type Listening } from './accept/listen.ts'
import { ownAddresses } from './accept/ownAddresses.ts'
import { listenersOf } from './config.ts'
import { loadShim } from './native/shim.ts'
import { formatAddress } from './net/address.ts'
import { systemClock } from './net/clock.ts'
import { type Arguments, type Command, type Io, repeated } from './net/commandLine.ts'
import { tcpDialer } from './net/dial.ts'
import type { Policy } from './policy/policy.ts'
import type { World } from './proxy.ts'
import { createLedger } from './telemetry/ledger.ts'
import { createLog, type Log } from './telemetry/log.ts'

/** `sluice serve`. */
export const serveCommand: Command = {
  name: 'serve',
  summary: 'run the proxy until SIGTERM or SIGINT',
  usage: '[--config PATH…]',
  options: {
    config: {
      value: 'PATH',
      multiple: true,
      help: 'a policy file, or a directory of them; by default $HASURA_CONFIGURATION_DIRECTORY or /etc/connector',
    },
  },
  examples: ['sluice serve --config policy/default.yaml'],
  run: (args, io) => run(args, io),
}

const run = async (args: Arguments, io: Io): Promise<number> => {
  const source = openPolicy(repeated(args, 'config'), io)
  if (source === undefined) return 1
  const log = createLog(source.policy().sections.log)
  const ledger = createLedger(systemClock)
  ledger.subscribe(log.outcome)
  source.onChange(() => ledger.recheck(), log)

  const listening: Listening[] = []
  const world: World = {
    policy: source.policy,
    dial: tcpDialer(),
    clock: systemClock,
    random: Math.random,
    ledger,
    isOwn: ownAddresses(() => listening.map(({ address }) => address), systemClock.now),
  }
  const problem = await listenAll(world, listening, log)
  if (problem !== undefined) {
    log.error(problem)
    for (const each of listening) each.close()
    log.flush()
    return 1
  }
  log.info(`sluice is ready: listening on ${listening.map(({ address }) => formatAddress(address)).join(', ')}`)

  const signal = await io.stopped
  log.info(`${signal}: no new connections; ${ledger.open.size} open ones may end by themselves`)
  for (const each of listening) each.close()
  await ledger.drain(world.policy().sections.limits.drain)
  log.info('sluice has stopped')
  log.flush()
  return 0
}

/** Opens every listener, or says what is in the way. */
const listenAll = async (world: World, listening: Listening[], log: Log): Promise<string | undefined> => {
  const loaded = loadShim()
  const shim = loaded.is === 'ready' ? loaded.value : undefined
  const wanted = listenersOf(world.policy().sections)
  if (loaded.is === 'missing') {
    log.warn(`${loaded.reason}\nWithout it only listeners with a fixed destination can work.`)
  }
  for (const options of wanted) {
    try {
      listening.push(await listen(options, world, shim))
    } catch (error) {
      // A kernel without IPv6 is no reason to leave IPv4 unserved.
      const { code, message } = error as NodeJS.ErrnoException
      if (code === 'EAFNOSUPPORT' || (code === 'EADDRNOTAVAIL' && options.address.host.includes(':'))) log.warn(message)
      else return message
    }
  }
  return listening.length > 0 ? undefined : 'no listener is configured'
}
