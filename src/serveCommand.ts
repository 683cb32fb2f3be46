import { EventEmitter, once } from 'node:events'
import { resolve } from 'node:path'
import manifest from '../package.json' with { type: 'json' }
import type { Listening } from './accept/listen.ts'
import { keepCandidate } from './admin/candidate.ts'
import { configPaths } from './admin/configPaths.ts'
import { tellBalance } from './admin/liveBalance.ts'
import { keepDiscovery } from './admin/liveDiscovery.ts'
import type { CountReload } from './admin/liveMetrics.ts'
import { keepPolicy, type Loaded, loadPolicy, problemsOf } from './admin/livePolicy.ts'
import { keepTls } from './admin/liveTls.ts'
import { openAdmin } from './admin/openAdmin.ts'
import type { Callback } from './callback/openCallback.ts'
import type { Connector } from './command/connector.ts'
import { type EnvironmentRead, readEnvironment } from './command/environment.ts'
import { openConnector } from './command/openConnector.ts'
import { callbackOf, listenersOf } from './config.ts'
import { createHttpState } from './forward/httpState.ts'
import type { TlsWorld } from './forward/tlsWorld.ts'
import { type Address, formatAddress } from './net/address.ts'
import { systemClock } from './net/clock.ts'
import { type Arguments, type Command, type Io, repeated } from './net/commandLine.ts'
import { tellFaults } from './net/fault.ts'
import { giveBackWhenQuiet } from './net/giveBack.ts'
import { formatDiagnostic } from './policy/diagnostic.ts'
import type { Sections } from './policy/sections.ts'
import { countAll } from './serveMetrics.ts'
import { followReloads } from './serveReload.ts'
import { FLUSH_MS_MAX, gatewayFor, openNative, openServing, tracesOf } from './serving.ts'
import { createLedger } from './telemetry/ledger.ts'
import { createLog, type Log, type LogOptions } from './telemetry/log.ts'
import type { Metrics } from './telemetry/metrics.ts'
import { createRecorder } from './telemetry/recording.ts'
import { countTrials } from './telemetry/trialCounts.ts'
import { openWorkers, threadsOf, type Workers } from './workers.ts'

/** `sluice serve`. */
export const serveCommand: Command = {
  name: 'serve',
  summary: 'run the proxy until SIGTERM or SIGINT',
  usage: '[--config PATH…] [--candidate PATH…] [--json]',
  flagsOnly: true,
  options: {
    config: {
      value: 'PATH',
      multiple: true,
      help: 'a policy file, or a directory of them; by default $HASURA_CONFIGURATION_DIRECTORY or /etc/connector',
    },
    candidate: {
      value: 'PATH',
      multiple: true,
      help: 'a policy beside the one in force: it decides nothing, and /candidate and the page show what it would change',
    },
    json: { help: 'the log as JSON lines, whatever log.format of the policy says' },
  },
  examples: ['sluice serve --config policy/default.yaml'],
  run: (args, io) => run(args, io),
}

const run = async (args: Arguments, io: Io): Promise<number> => {
  const read = readEnvironment(io.env)
  if (read.mistakes.length > 0) {
    io.err(read.mistakes.map((mistake) => `sluice serve: ${mistake}\n`).join(''))
    return 1
  }
  const paths = configPaths(args, io)
  const loaded = await loadPolicy(paths)
  if (loaded.is === 'mistaken') {
    io.err(`${problemsOf(loaded).join('\n')}\n`)
    return 1
  }
  const beside = repeated(args, 'candidate')
  const candidate = beside.length === 0 ? undefined : await loadPolicy(beside)
  if (candidate?.is === 'mistaken') {
    io.err(`${problemsOf(candidate).join('\n')}\n`)
    return 1
  }
  const trial = candidate && { paths: beside, loaded: candidate }
  return await serve(read, { paths, loaded, trial }, args.values.json === true, io)
}

interface Documents {
  readonly paths: readonly string[]
  readonly loaded: Loaded & { readonly is: 'policy' }
  /** The candidate. */
  readonly trial: Parameters<typeof keepCandidate>[0]
}

const serve = async (
  { environment, warnings }: EnvironmentRead,
  { paths, loaded, trial }: Documents,
  asJson: boolean,
  io: Io,
): Promise<number> => {
  const { sections } = loaded.policy
  const { version } = manifest
  const logOf = ({ log }: Sections): LogOptions => (asJson ? { ...log, format: 'json' } : log)
  const log = createLog(logOf(sections))
  for (const warning of [...warnings, ...loaded.warnings.map(formatDiagnostic)]) log.warn(warning)
  tellFaults(log.error)
  const ledger = createLedger(systemClock)
  ledger.subscribe(log.outcome, log.writesOutcomes)
  ledger.subscribeRequests((request, life) => log.request(request, life, systemClock.time()))
  const tls = await keepTls(sections, systemClock, log)
  const discovery = await keepDiscovery(sections, systemClock, Math.random, log)
  const threads = threadsOf(sections, trial !== undefined, log.warn)
  const native = openNative(log.warn, threads === 1)
  const { pump } = native
  let workers: Workers | undefined
  const follow = followReloads(sections, log, logOf, ledger)
  let countReload: CountReload = () => {}
  const live = keepPolicy(paths, loaded, systemClock, {
    prepare: async ({ sections }, { files }) => {
      const useTls = await tls.prepare(sections)
      const useDiscovery = await discovery.prepare(sections)
      const useInWorkers = await workers?.prepare(files)
      return () => {
        useTls()
        useDiscovery()
        useInWorkers?.()
      }
    },
    reloaded: (reload) => {
      pump?.forgetRoutes()
      follow(reload)
      if (reload.is !== 'unchanged') countReload(reload.is)
    },
  })
  const recorder = createRecorder(ledger, systemClock, () => pump?.forgetRoutes(), tls.secrets)
  const counts = countTrials(ledger)
  const candidate = keepCandidate(trial, {
    clock: systemClock,
    warn: (message) => log.warn(message),
    changed: () => {
      pump?.forgetRoutes()
      counts.reset()
    },
  })
  io.onReload(() => {
    void live.reload()
    candidate.reload()
  })

  const traces = await tracesOf(sections.traces, environment.otlp)
  const admin: Listening[] = []
  let connector: Connector | undefined
  let callback: Callback | undefined
  const http = createHttpState(systemClock, Math.random, traces)
  http.balancers.subscribe(tellBalance(log))
  const given = {
    policy: live.policy,
    candidate: candidate.policy,
    recorder,
    clock: systemClock,
    http,
    ledger,
    tls,
    get channels() {
      return callback?.channels
    },
    get discovery() {
      return discovery.current()
    },
  }
  const elsewhere = () => [...admin.map(({ address }) => address), ...(workers?.addresses() ?? [])]
  const serving = openServing(given, native, log.warn, elsewhere)
  const { world } = serving
  const exposed = await gatewayFor(world, io.env, log)
  /** Closes what accepts, then what is under way, then what others look at until the end. */
  const end = async (drainMs: number): Promise<void> => {
    serving.close()
    live.close()
    candidate.close()
    await Promise.all([connector?.close(drainMs), ledger.drain(drainMs), workers?.stop(drainMs)])
    callback?.close()
    await traces?.close(FLUSH_MS_MAX)
    for (const each of admin) each.close()
    tls.close()
    http.balancers.close()
    http.pool.close() // an upstream may keep an idle connection for minutes, and the process would wait for it
    discovery.close()
    exposed.close()
  }

  const listening = () => [...serving.listening.map(({ address }) => address), ...(workers?.addresses() ?? [])]
  const stop = new EventEmitter()
  try {
    const [metrics, count] = countAll({ world, tls, discovery, recorder, seen: () => workers?.seen() ?? [] })
    countReload = count
    const { registry } = metrics
    if (threads > 1) {
      const { env } = io
      const { files } = loaded.documents
      const lost = () => void stop.emit('stop', 'a worker that dies')
      workers = await openWorkers({
        threads,
        files,
        env,
        otlp: environment.otlp,
        clock: systemClock,
        ledger,
        log,
        lost,
      })
    } else {
      callback = await callbackFor(sections, tls, io, log, metrics)
      const asked = callbackOf(sections).map((options) => ({ ...options, ...(callback && { serve: callback.serve }) }))
      await serving.listen([...listenersOf(sections), ...exposed.listeners, ...asked])
    }
    const shutdown = () => stop.emit('stop', 'POST /shutdown')
    const shown = { world, registry, log, env: io.env, version, candidate, counts, recorder }
    await openAdmin({ ...shown, opened: (it) => void admin.push(it), shutdown })
    workers?.own(admin.map(({ address }) => address))
    const config = resolve(io.cwd, paths[0] ?? '.')
    const about = { ...world, environment, metrics: registry, env: io.env, config, version, log }
    connector = await openConnector({ ...about, ...(traces && { trace: traces.inside }) })
    if (listening().length === 0 && connector === undefined) throw new Error('no listener is configured')
  } catch (error) {
    log.error((error as Error).message)
    await end(0)
    log.flush()
    return 1
  }
  const commands = connector === undefined ? '' : `; commands on ${formatAddress(connector.address)}`
  log.info(
    `sluice is ready: listening on ${listed(listening())}; admin on ${listed(admin.map(({ address }) => address))}${commands}`,
  )

  giveBackWhenQuiet(systemClock.after, native.shim?.trimHeap)
  const signal = await Promise.race([io.stopped, once(stop, 'stop')])
  await ledger.look()
  log.info(`${signal}: no new connections; ${ledger.open.size} open ones may end by themselves`)
  await end(world.policy().sections.limits.drain)
  log.info('sluice has stopped')
  log.flush()
  return 0
}

/** Channels that apps open towards us, where they may. Loaded only there. */
const callbackFor = async (
  { callback: section }: Sections,
  tls: TlsWorld,
  { env }: Io,
  log: Log,
  metrics: Metrics,
): Promise<Callback | undefined> => {
  if (!section.enable) return undefined
  const { openCallback } = await import('./callback/openCallback.ts')
  const { countCallback } = await import('./callback/metrics.ts')
  const { events, watch } = countCallback(metrics)
  const callback = await openCallback({ section, env, clock: systemClock, tls, log, events })
  watch(callback)
  return callback
}

const listed = (addresses: readonly Address[]): string =>
  addresses.length === 0 ? 'nothing' : addresses.map(formatAddress).join(', ')
