import { lookup } from 'node:dns/promises'
import { isAbsolute, join } from 'node:path'
import { type Address, formatAddress } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import type { Dial } from '../net/connection.ts'
import { readSecret } from '../net/secret.ts'
import type { Policy } from '../policy/policy.ts'
import type { Ledger } from '../telemetry/ledger.ts'
import type { Log } from '../telemetry/log.ts'
import { MetricsRegistry } from '../telemetry/registry.ts'
import type { Command } from './command.ts'
import { createBudget } from './decode.ts'
import { createEgress } from './egress.ts'
import { CONNECTOR_PORT, type ConnectorEnvironment } from './environment.ts'
import { FAILURES } from './failure.ts'
import { HTTP_COMMANDS } from './httpCommands.ts'
import { createJudge } from './judge.ts'
import { loadModules } from './modules.ts'
import { createRegistry, type Registry } from './registry.ts'
import { createRoutes } from './routes.ts'
import { type CommandRecord, createRunner } from './run.ts'
import { createConnectorServer } from './server.ts'
import { SEND_EMAIL } from './smtpCommand.ts'
import { type Trace, untraced } from './trace.ts'

/** The `commands` section of the configuration. */
export type Settings = Policy['sections']['commands']

/** What the connector is made of. */
export interface ConnectorOptions {
  readonly settings: Settings
  readonly environment: ConnectorEnvironment
  /** For the secrets that modules declare. */
  readonly env: Readonly<Record<string, string | undefined>>
  readonly configurationDirectory: string
  readonly policy: () => Policy
  readonly ledger: Pick<Ledger, 'begin' | 'end'>
  readonly dial: Dial
  readonly clock: Clock
  readonly log: Pick<Log, 'info' | 'error'>
  readonly version: string
  readonly trace?: Trace
  /** The registry to count in; without it one of our own, which `/metrics` shows. */
  readonly metrics?: MetricsRegistry
  /** For tests: names to addresses, and certificates to trust. */
  readonly resolve?: (host: string) => Promise<readonly string[]>
  readonly ca?: string
}

/** A connector that listens. */
export interface Connector {
  readonly address: Address
  readonly registry: Registry
  /** Takes no more requests; those in flight finish, or are cancelled after so long. */
  readonly close: (drainMs: number) => Promise<void>
}

/** Loads the commands and listens. Rejects with an Error that says what keeps it from starting. */
export const startConnector = async (options: ConnectorOptions): Promise<Connector> => {
  const { settings, environment, clock, log } = options
  const registry = await loadRegistry(settings, options.configurationDirectory)
  const metrics = options.metrics ?? new MetricsRegistry()
  let count: (record: CommandRecord) => void = () => {}
  const runner = createRunner({
    egress: createEgress({
      judge: createJudge(options.policy),
      resolve: options.resolve ?? systemLookup,
      dial: options.dial,
      clock,
      ledger: options.ledger,
      connectTimeoutMs: settings.connectTimeout,
      ca: options.ca,
    }),
    sending: { budget: createBudget(settings.maxMemory), responseBytesMax: settings.maxResponse },
    clock,
    timeoutMs: settings.timeout,
    inFlightMax: settings.maxInFlight,
    env: options.env,
    commandEnded: (record) => {
      count(record)
      log.info(recordText(record), { command: record })
    },
  })
  const { countCommands } = await import('./metrics.ts')
  count = countCommands(metrics, runner.inFlight, (outcome) => Object.hasOwn(FAILURES, outcome))
  const server = createConnectorServer({
    routes: createRoutes({
      registry,
      runner,
      metrics: async () => ({ type: metrics.contentType, text: await metrics.metrics() }),
      version: options.version,
    }),
    locks: {
      token: environment.serviceToken,
      apiKey: settings.apiKey === undefined ? environment.apiKey : await readSecret(settings.apiKey, options.env),
    },
    cors: settings.cors,
    requestBytesMax: settings.maxRequest,
    connectionsMax: settings.maxConnections,
    clock,
    trace: options.trace ?? untraced,
    broke: (error) => log.error(`a defect in the connector: ${error.stack ?? error.message}`),
  })
  const asked = { host: environment.host ?? '::', port: environment.port ?? CONNECTOR_PORT }
  try {
    return { address: await server.listen(asked), registry, close: server.close }
  } catch (thrown) {
    throw new Error(`the connector cannot listen on ${formatAddress(asked)}: ${(thrown as Error).message}`)
  }
}

/** The commands of the configuration: those that come with Sluice, then the modules. */
export const loadRegistry = async (settings: Settings, configurationDirectory: string): Promise<Registry> => {
  const builtIn: Readonly<Record<'http' | 'smtp', readonly Command[]>> = { http: HTTP_COMMANDS, smtp: [SEND_EMAIL] }
  const folder = isAbsolute(settings.modules) ? settings.modules : join(configurationDirectory, settings.modules)
  return createRegistry([...settings.builtIn.flatMap((name) => builtIn[name]), ...(await loadModules(folder))])
}

const systemLookup = async (host: string): Promise<readonly string[]> =>
  (await lookup(host, { all: true, order: 'verbatim' })).map(({ address }) => address)

/** One line for a person: what was run for whom, how it ended, and each request it made. No query, header or body. */
const recordText = ({ command, caller, status, outcome, hops, ms }: CommandRecord): string => {
  const made = hops.map(({ method, url, address, status: answered, failure }) => {
    return `${method} ${url}${address === undefined ? '' : ` (${address})`}: ${answered ?? failure ?? 'cancelled'}`
  })
  const calls = made.length === 0 ? '' : `; ${made.join(', then ')}`
  return `command ${command} from ${formatAddress(caller)}: ${outcome} ${status} in ${Math.round(ms)} ms${calls}`
}
