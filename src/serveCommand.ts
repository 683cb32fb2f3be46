import { EventEmitter, once } from 'node:events'
import { resolve } from 'node:path'
import manifest from '../package.json' with { type: 'json' }
import { type ListenerOptions, type Listening, listen } from './accept/listen.ts'
import { ownAddresses } from './accept/ownAddresses.ts'
import { type OwnDials, ownDials } from './accept/ownDials.ts'
import { pumpListener } from './accept/pumpListen.ts'
import { tunedOpener } from './accept/socketOptions.ts'
import { configPaths } from './admin/configPaths.ts'
import { keepPolicy, loadPolicy, problemsOf, type Reload } from './admin/livePolicy.ts'
import { certificateWarnings, countTls, keepTls, missingCertificates } from './admin/liveTls.ts'
import { pageRoutes } from './admin/page.ts'
import { adminRoutes } from './admin/routes.ts'
import { startAdmin } from './admin/server.ts'
import { tapRoutes } from './admin/tap.ts'
import type { Connector } from './command/connector.ts'
import { type Otlp, readEnvironment } from './command/environment.ts'
import { openConnector } from './command/openConnector.ts'
import { listenersOf } from './config.ts'
import { createHttpState } from './forward/httpState.ts'
import type { TlsWorld } from './forward/tlsWorld.ts'
import { loadPump, type Pump } from './native/pump.ts'
import { loadShim, type Shim } from './native/shim.ts'
import { formatAddress } from './net/address.ts'
import { systemClock } from './net/clock.ts'
import type { Arguments, Command, Io } from './net/commandLine.ts'
import { tcpDialer } from './net/dial.ts'
import { relay } from './net/relay.ts'
import { readSecret } from './net/secret.ts'
import { formatDiagnostic } from './policy/diagnostic.ts'
import type { Sections } from './policy/sections.ts'
import type { World } from './proxy.ts'
import { createLedger, type Ledger } from './telemetry/ledger.ts'
import { createLog, type Log } from './telemetry/log.ts'
import { countConnections, countRequests, createMetrics, type Metrics } from './telemetry/metrics.ts'
import { createPulse } from './telemetry/pulse.ts'
import { openTraces, type Traces } from './telemetry/traces.ts'

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
  const { mistakes, warnings, ...connecting } = readEnvironment(io.env)
  if (mistakes.length > 0) {
    io.err(mistakes.map((mistake) => `sluice serve: ${mistake}\n`).join(''))
    return 1
  }
  const paths = configPaths(args, io)
  const loaded = await loadPolicy(paths)
  if (loaded.is === 'mistaken') {
    io.err(`${problemsOf(loaded).join('\n')}\n`)
    return 1
  }
  const log = createLog(loaded.policy.sections.log)
  for (const warning of [...warnings, ...loaded.warnings.map(formatDiagnostic)]) log.warn(warning)
  const ledger = createLedger(systemClock)
  ledger.subscribe(log.outcome)
  ledger.subscribeRequests((request, life) => log.request(request, life, systemClock.time()))
  const tls = await keepTls(loaded.policy.sections, systemClock, log)
  const shim = shimOrWarning(log)
  const pump = shim && pumpOrWarning(log)
  const live = keepPolicy(paths, loaded, systemClock, (reload) => {
    pump?.forgetRoutes()
    reloaded(reload, log, ledger, tls)
  })
  io.onReload(() => void live.reload())

  const traces = await tracesOf(loaded.policy.sections.traces, connecting.environment.otlp)
  const dials = ownDials(systemClock.now)
  const listening: Listening[] = []
  const admin: Listening[] = []
  const world: World = {
    policy: live.policy,
    dial: tcpDialer(tunedOpener(loaded.policy.sections.sockets, shim, dials)),
    relay: pump?.relay ?? relay,
    clock: systemClock,
    random: Math.random,
    http: createHttpState(systemClock, Math.random, traces),
    ledger,
    isOwn: ownAddresses(() => [...listening, ...admin].map(({ address }) => address), systemClock.now),
    tls,
  }
  const metrics = createMetrics(manifest.version)
  countConnections(metrics, ledger)
  countTls(metrics, tls)
  countRequests(metrics, ledger)
  const stop = new EventEmitter()
  let connector: Connector | undefined
  try {
    await listenAll(world, listening, shim, pump, dials, log)
    admin.push(...(await openAdmin(world, metrics, io, log, () => stop.emit('stop', 'POST /shutdown'))))
    const { version } = manifest
    const about = {
      ...world,
      ...connecting,
      metrics: metrics.registry,
      env: io.env,
      config: resolve(io.cwd, paths[0] ?? '.'),
    }
    connector = await openConnector({ ...about, version, log, ...(traces && { trace: traces.inside }) })
    if (listening.length === 0 && connector === undefined) throw new Error('no listener is configured')
  } catch (error) {
    log.error((error as Error).message)
    for (const each of listening) each.close()
    live.close()
    tls.close()
    log.flush()
    return 1
  }
  const commands = connector === undefined ? '' : `; commands on ${formatAddress(connector.address)}`
  log.info(`sluice is ready: listening on ${listed(listening)}; admin on ${listed(admin)}${commands}`)

  const signal = await Promise.race([io.stopped, once(stop, 'stop')])
  log.info(`${signal}: no new connections; ${ledger.open.size} open ones may end by themselves`)
  for (const each of listening) each.close()
  live.close()
  const { drain } = world.policy().sections.limits
  await Promise.all([connector?.close(drain), ledger.drain(drain)])
  await traces?.close(FLUSH_MS_MAX)
  for (const each of admin) each.close()
  tls.close()
  log.info('sluice has stopped')
  log.flush()
  return 0
}

const FLUSH_MS_MAX = 2_000 // the last spans are worth a moment, and a collector that is down no more than that

/** What the environment says of traces, over what the document says: pods are configured by variables. */
const tracesOf = async (section: Sections['traces'], otlp: Otlp | undefined): Promise<Traces | undefined> => {
  const endpoint = otlp?.endpoint ?? section.endpoint
  if (endpoint === undefined) return undefined
  return openTraces({ ...section, ...otlp, endpoint, version: manifest.version })
}

const listed = (listening: readonly Listening[]): string =>
  listening.length === 0 ? 'nothing' : listening.map(({ address }) => formatAddress(address)).join(', ')

const reloaded = (reload: Reload, log: Log, ledger: Ledger, tls: TlsWorld): void => {
  if (reload.is === 'kept')
    log.error(`the policy was not replaced; the last good one stays\n${reload.problems.join('\n')}`)
  if (reload.is !== 'replaced') return
  for (const warning of reload.warnings) log.warn(formatDiagnostic(warning))
  log.info('the policy was replaced')
  tls.use(reload.policy.sections).catch((error: Error) => log.error(`certificates: ${error.message}`))
  ledger.recheck()
}

/** Opaque bytes never pass through Node where the pump runs. */
const pumpOrWarning = (log: Log): Pump | undefined => {
  const loaded = loadPump(relay)
  if (loaded.is === 'ready') return loaded.value
  log.warn(`${loaded.reason}\nWithout the pump opaque connections cost more CPU.`)
  return undefined
}

const shimOrWarning = (log: Log): Shim | undefined => {
  const loaded = loadShim()
  if (loaded.is === 'ready') return loaded.value
  log.warn(`${loaded.reason}\nWithout it only listeners with a fixed destination can work.`)
  return undefined
}

/** Opens every listener. Throws an Error that says what is in the way. */
const listenAll = async (
  world: World,
  listening: Listening[],
  shim: Shim | undefined,
  pump: Pump | undefined,
  dials: OwnDials,
  log: Log,
): Promise<void> => {
  const open =
    shim && pump ? pumpListener(pump, world, shim) : (options: ListenerOptions) => listen(options, world, shim)
  const wanted = listenersOf(world.policy().sections)
  for (const options of wanted) {
    try {
      listening.push(await open({ ...options, ownDials: dials }))
    } catch (error) {
      // A kernel without IPv6 is no reason to leave IPv4 unserved.
      const { code, message } = error as NodeJS.ErrnoException
      const isMissingFamily =
        code === 'EAFNOSUPPORT' || (code === 'EADDRNOTAVAIL' && options.address.host.includes(':'))
      if (!isMissingFamily) throw error
      log.warn(message)
    }
  }
}

/** Opens the admin server at each of its addresses. */
const openAdmin = async (
  world: World,
  metrics: Metrics,
  io: Io,
  log: Log,
  shutdown: () => void,
): Promise<Listening[]> => {
  const { admin } = world.policy().sections
  const token = admin.token && (await readSecret(admin.token, io.env))
  const { ledger, policy, clock } = world
  const { tls } = world
  const soonMs = policy().sections.tls.warnBeforeExpiry
  const pulse = createPulse(ledger, clock, () => (tls ? certificateWarnings(tls, clock.time(), soonMs) : []))
  const state = adminRoutes({
    ledger,
    policy,
    registry: metrics.registry,
    log,
    now: clock.now,
    notReady: () => [...(ledger.draining ? ['it is draining'] : []), ...(tls ? missingCertificates(tls) : [])],
    shutdown: admin.shutdown ? shutdown : undefined,
  })
  const page = pageRoutes({ ledger, policy, pulse, version: manifest.version })
  const routes = { ...state, ...page, ...tapRoutes(ledger) }
  return Promise.all(admin.address.map((address) => startAdmin({ address, routes, token })))
}
