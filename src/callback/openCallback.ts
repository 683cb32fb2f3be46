import type { Duplex } from 'node:stream'
import type { Channels, ChannelView } from '../forward/channels.ts'
import { type TlsWorld, trustName } from '../forward/tlsWorld.ts'
import { formatAddress, isLoopback } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import type { Connection } from '../net/connection.ts'
import { readSecret, type SecretPlace } from '../net/secret.ts'
import type { Policy } from '../policy/policy.ts'
import type { World } from '../proxy.ts'
import type { Log } from '../telemetry/log.ts'
import type { Outcome } from '../telemetry/outcome.ts'
import type { Channel } from './channel.ts'
import { connectText, createDoor, type Door, type DoorEvents } from './door.ts'
import { createEndpoint } from './endpoint.ts'
import { createRegistry, type Registry } from './registry.ts'

/** What the callback channels of a process are made of. */
export interface CallbackOptions {
  readonly section: Policy['sections']['callback']
  readonly env: Readonly<Record<string, string | undefined>>
  readonly clock: Clock
  readonly tls: TlsWorld | undefined
  readonly log: Pick<Log, 'info' | 'warn'>
  /** Told beside the log. */
  readonly events?: Partial<DoorEvents>
}

/** The callback channels of a process. */
export interface Callback {
  readonly channels: Channels
  readonly registry: Registry
  readonly door: Door
  /** Serves a connection to the API. */
  readonly serve: (connection: Connection, world: World) => Promise<Outcome>
  readonly close: () => void
}

/** Messages of the largest size that the API may hold at once; of the usual size they are many more. */
const BODIES_MAX = 16

const DAPR_TOKEN = 'DAPR_API_TOKEN'
const APP_TOKEN = 'APP_API_TOKEN'

/** Makes them ready; nothing listens before `serve` is given connections. Rejects with an Error that names the mistake. */
export const openCallback = async ({ section, env, clock, tls, log, events }: CallbackOptions): Promise<Callback> => {
  if (env.APP_PORT !== undefined && env.APP_PORT !== '' && env.APP_PORT !== '0')
    throw new Error(
      `callback.enable and the app port exclude each other: APP_PORT is ${env.APP_PORT}, so the app listens and can be called there`,
    )
  const token = await secretOf(section.token, DAPR_TOKEN, env)
  const appToken = await secretOf(section.appToken, APP_TOKEN, env)
  const away = section.address.filter(({ host }) => !isLoopback(host))
  if (away.length > 0 && token === undefined)
    log.warn(
      `callback: whoever reaches ${away.map(formatAddress).join(', ')} may be called as any app: set callback.token or ${DAPR_TOKEN}`,
    )
  if (away.length > 0 && section.tls === undefined)
    log.warn(`callback: what goes through ${away.map(formatAddress).join(', ')} is in the clear: set callback.tls`)

  const { pick, wait: waitMs, pending: pendingMax, connect: connectMs } = section
  const registry = createRegistry({ clock, pick, waitMs, pendingMax })
  const secure = secured(section.tls, tls)
  const door = createDoor({
    clock,
    registry,
    channel: {
      clock,
      pingMs: section.ping,
      firstPingMs: section.firstPing,
      settingsMs: connectMs,
      streamsMax: section.streams,
      messageBytesMax: section.maxMessage,
      appToken,
    },
    port: section.port,
    connectMs,
    nonce: section.nonce,
    channelsMax: section.channels,
    secure: async (stream) => (secure === undefined ? { stream, identity: null } : await secure(stream, 'h2')),
    events: {
      connected: (app, result, from) => {
        const says = connectText(app, result, from, connectMs)
        if (result === 'opened') log.info(says)
        else log.warn(says)
        events?.connected?.(app, result, from)
      },
      ended: (channel, why, error) => {
        const { name, peer } = channel.channel
        const because = error === undefined ? '' : ` (${error.message})`
        log.info(`callback channel ${name} from ${formatAddress(peer)} ended: ${ENDS[why]}${because}`)
        events?.ended?.(channel, why, error)
      },
      pingMissed: (channel) => events?.pingMissed?.(channel),
    },
  })
  const unauthenticated = (app: string, from: Parameters<DoorEvents['connected']>[2]) => {
    log.warn(connectText(app, 'unauthenticated', from, connectMs))
    events?.connected?.(app, 'unauthenticated', from)
  }
  const { appId, maxMessage: messageBytesMax } = section
  const budget = { bytes: 0, bytesMax: BODIES_MAX * messageBytesMax }
  const serve = createEndpoint({ door, token, appId, messageBytesMax, budget, unauthenticated }, secure)
  const channels = { ...registry, views: () => door.channels().map((channel) => viewOf(channel, registry)) }
  return { channels, registry, door, serve, close: door.close }
}

const viewOf = (channel: Channel, registry: Registry): ChannelView => ({
  ...channel.channel,
  app: channel.peer.app,
  state: channel.state,
  isNext: registry.next(channel.peer.app) === channel,
  isOurs: channel.peer.isOurs,
  identity: channel.peer.identity ?? null,
  inFlight: channel.load,
  calls: channel.calls,
  pingsMissed: channel.missed,
  openedAt: channel.openedAt,
})

const ENDS = {
  left: 'the app left it',
  lost: 'the connection was lost',
  silent: 'two pings in a row were not answered',
  noFirstPing: 'the app did not ping',
  pingRefused: 'the app does not take Ping',
  brokeProtocol: 'the app broke HTTP/2',
  closed: 'we closed it',
}

const secretOf = async (
  place: SecretPlace | undefined,
  variable: string,
  env: CallbackOptions['env'],
): Promise<string | undefined> => {
  if (place !== undefined) return await readSecret(place, env)
  return env[variable] ? env[variable] : undefined
}

/** Ends TLS as the section says, with the certificate of now. */
const secured = (
  settings: CallbackOptions['section']['tls'],
  tls: TlsWorld | undefined,
):
  | ((
      stream: Duplex,
      alpn: 'h2' | 'http/1.1',
    ) => Promise<{ readonly stream: Duplex; readonly identity: string | null } | undefined>)
  | undefined => {
  if (settings === undefined) return undefined
  return async (stream, alpn) => {
    const certificate = tls?.certificates.certificate(settings.certificate)
    const trust = settings.clients === undefined ? undefined : tls?.certificates.trust(trustName(settings.clients))
    if (tls === undefined || certificate === undefined) return undefined
    if (settings.clients !== undefined && trust === undefined) return undefined
    const result = await tls.terminator.terminate(stream, {
      certificates: [certificate],
      minVersion: 'TLSv1.2',
      alpn,
      ...(trust && { clients: { trust, required: true } }),
    })
    return result.failed ? undefined : { stream: result.stream, identity: result.identity }
  }
}
