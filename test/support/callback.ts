import { once } from 'node:events'
import {
  type ClientHttp2Session,
  connect as connectHttp2,
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  performServerHandshake,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2'
import { connect, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Test } from 'tap'
import { listen } from '../../src/accept/listen.ts'
import type { ChannelEnd } from '../../src/callback/channel.ts'
import type { DoorEvents } from '../../src/callback/door.ts'
import { type Callback, type CallbackOptions, openCallback } from '../../src/callback/openCallback.ts'
import { CHANNEL_MAGIC, PING_PATH } from '../../src/callback/wire.ts'
import { callbackOf } from '../../src/config.ts'
import { type Address, formatAddress } from '../../src/net/address.ts'
import { systemClock } from '../../src/net/clock.ts'
import { type Front, front } from './front.ts'
import { fetchHttp2, type Reply } from './http2Proxy.ts'
import { policyOf } from './world.ts'

/** Sluice with callback channels: everything inbound goes to the app `orders`, and the API listens. */
export interface Host extends Front {
  readonly api: Address
  readonly callback: Callback
  /** What became of each who asked or connected: `orders opened`. */
  readonly connects: string[]
  readonly ends: ChannelEnd[]
  readonly logged: string[]
  /** Resolves once this many channels of the app take calls. */
  readonly up: (channels: number, app?: string) => Promise<void>
  /** Resolves once the condition holds; looked at whenever something happens on the loop. */
  readonly until: (holds: () => boolean) => Promise<void>
}

export interface HostOptions {
  /** Keys of the section, beside `enable`. */
  readonly section?: string
  /** An address of loopback to listen on. */
  readonly host?: string
  readonly policy?: string
  readonly env?: CallbackOptions['env']
  readonly clock?: CallbackOptions['clock']
  readonly tls?: CallbackOptions['tls']
  readonly events?: DoorEvents
}

/** Everything goes to the app. */
export const TO_ORDERS = 'defaults: { upstream: { channel: orders } }'

/** Starts one. */
export const callbackHost = async (t: Test, options: HostOptions = {}): Promise<Host> => {
  const { clock = systemClock, env = {}, tls, events } = options
  const section = `callback: { enable: true, address: "${options.host ?? '127.0.0.1'}:0", appId: orders${options.section ? `, ${options.section}` : ''} }`
  const text = `${section}\n${options.policy ?? TO_ORDERS}`
  const { sections } = policyOf(text)
  const connects: string[] = []
  const ends: ChannelEnd[] = []
  const logged: string[] = []
  const callback = await openCallback({
    section: sections.callback,
    env,
    clock,
    tls,
    log: { info: (line) => void logged.push(line), warn: (line) => void logged.push(line) },
    events: {
      connected: (app, result, from) => {
        connects.push(`${app} ${result}`)
        events?.connected(app, result, from)
      },
      ended: (channel, why, error) => {
        ends.push(why)
        events?.ended(channel, why, error)
      },
      pingMissed: (channel) => events?.pingMissed(channel),
    },
  })
  const sluice = await front({ host: '192.0.2.1', port: 80 }, text, {
    clock,
    channels: callback.channels,
    dial: () => Promise.reject(new Error('nothing may be dialled')),
    ...(tls && { tls }),
  })
  const listening = await listen({ ...callbackOf(sections)[0]!, serve: callback.serve }, sluice.world, undefined)
  const close = (): void => {
    listening.close()
    callback.close()
    sluice.close()
    for (const channel of callback.door.channels()) channel.destroy('closed')
  }
  t.teardown(close)
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise<void>((resolve) => setTimeout(resolve, 2))
  }
  const up = (count: number, app = 'orders') =>
    until(() => callback.registry.list(app).filter(({ state }) => state === 'up').length === count)
  return { ...sluice, api: listening.address, callback, connects, ends, logged, until, up, close }
}

/** A session to the API by node:http2. */
export const apiSession = (t: Test, { host, port }: Address): ClientHttp2Session => {
  const session = connectHttp2(`http://${formatAddress({ host, port })}`)
  session.on('error', () => {})
  t.teardown(() => session.destroy())
  return session
}

/** What ConnectAppCallback answered. */
export interface Asked {
  readonly reply: Reply
  readonly status: number
  readonly says: string
  /** The message, without its prefix. */
  readonly message: Buffer
  readonly port: number
  readonly nonce: Buffer | undefined
}

export const CONNECT_PATH = '/dapr.proto.runtime.v1.DaprAppChannel/ConnectAppCallback'

/** Asks for a channel, as a client of the proof of concept does, or as ours with `sluice-callback`. */
export const ask = async (
  session: ClientHttp2Session,
  headers: Record<string, string> = {},
  path = CONNECT_PATH,
  body: Buffer = Buffer.alloc(5),
): Promise<Asked> => {
  const reply = await fetchHttp2(
    session,
    // Node would leave the brackets of an IPv6 address out.
    {
      ':authority': 'proxy',
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
      ...headers,
    },
    body,
  )
  const said = { ...reply.headers, ...reply.trailers }
  const message = reply.body.subarray(5)
  let port = 0
  for (let at = 1; message[0] === 8; at += 1) {
    port += (message[at]! & 127) * 128 ** (at - 1)
    if (message[at]! < 128) break
  }
  const nonce = message.length > 34 ? message.subarray(-32) : undefined
  const status = Number(said['grpc-status'] ?? -1)
  return { reply, status, says: decodeURIComponent(`${said['grpc-message'] ?? ''}`), message, port, nonce }
}

/** An app at its end of a channel. */
export interface TestApp {
  readonly socket: Socket
  readonly session: ServerHttp2Session
  /** Ping streams that the proxy opened. */
  readonly pings: ServerHttp2Stream[]
  close(): void
}

export type AppHandler = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void

export interface AppOptions {
  /** Sent before anything else. */
  readonly nonce?: Buffer | undefined
  readonly settings?: Parameters<typeof createServer>[0]
  /** Where to dial. */
  readonly host?: string
  /** False never pings. */
  readonly pings?: boolean
  /** Puts TLS around the connection. */
  readonly wrap?: (socket: Socket) => Promise<Duplex>
}

/** Dials the port that was answered and serves there by node:http2. */
export const serveApp = async (
  t: Test,
  port: number,
  handler: AppHandler,
  { nonce, settings, host = '127.0.0.1', pings: isPinging = true, wrap }: AppOptions = {},
): Promise<TestApp> => {
  const socket = connect({ port, host, noDelay: true })
  socket.on('error', () => {})
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  const stream = wrap === undefined ? socket : await wrap(socket)
  // Node 26 aborts when http2 takes over a TLS socket that is still writing.
  if (nonce !== undefined) await new Promise((resolve) => stream.write(Buffer.concat([CHANNEL_MAGIC, nonce]), resolve))
  const session = performServerHandshake(stream, settings as never)
  session.on('error', () => {})
  const pings: ServerHttp2Stream[] = []
  session.on('stream', (call: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
    call.on('error', () => {})
    if (headers[':path'] !== PING_PATH) return handler(call, headers)
    pings.push(call)
    call.respond({ ':status': 200, 'content-type': 'application/grpc' })
    if (isPinging) call.write(Buffer.alloc(5))
  })
  return { socket, session, pings, close: () => session.destroy() }
}

/** Asks, dials and serves: a channel that is up. */
export const openApp = async (
  t: Test,
  host: Host,
  handler: AppHandler,
  options: AppOptions & { readonly app?: string; readonly isOurs?: boolean } = {},
): Promise<TestApp> => {
  const { app, isOurs = true, ...rest } = options
  const before = host.callback.registry.list(app ?? 'orders').length
  const session = apiSession(t, host.api)
  const asked = await ask(session, {
    ...(isOurs && { 'sluice-callback': '1' }),
    ...(app !== undefined && { 'sluice-app-id': app }),
  })
  if (asked.status !== 0) throw new Error(`ConnectAppCallback ended with ${asked.status}: ${asked.says}`)
  const serving = await serveApp(t, asked.port, handler, { nonce: asked.nonce, host: host.api.host, ...rest })
  session.close()
  if (rest.pings !== false) await host.until(() => host.callback.registry.list(app ?? 'orders').length > before)
  return serving
}

/** An http2 server whose sessions are the channels', for apps written against a server. */
export const serverOf = (handler: AppHandler): Http2Server => {
  const server = createServer()
  server.on('stream', handler)
  return server
}
