import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { HTTP2_LIMITS } from '../codec/http2State.ts'
import { peek } from '../detect/peek.ts'
import type { Open } from '../forward/exchange.ts'
import { Http1Client } from '../forward/http1Client.ts'
import { serveHttp2 } from '../forward/http2Server.ts'
import { HTTP2_TIMES } from '../forward/http2Wire.ts'
import { refuse } from '../forward/refuse.ts'
import { reply } from '../forward/reply.ts'
import { Router } from '../forward/route.ts'
import { unmapped } from '../net/address.ts'
import type { Connection } from '../net/connection.ts'
import { described, relay } from '../net/relay.ts'
import type { Traffic } from '../net/traffic.ts'
import { decide } from '../policy/decide.ts'
import type { Facts } from '../policy/facts.ts'
import { recorded, type World } from '../proxy.ts'
import type { Life } from '../telemetry/life.ts'
import type { Outcome } from '../telemetry/outcome.ts'
import { type Api, type ApiCaller, openApi } from './api.ts'
import { policyTo } from './appPolicy.ts'

/** Ends TLS where it is configured, agreeing on this protocol if on any. Undefined when that failed. */
export type SecureApi = (stream: Duplex, alpn: 'h2' | 'http/1.1') => Promise<{ readonly stream: Duplex } | undefined>

/** An app that waits before it asks again opens its next connection beforehand; so it may be silent for that long. */
const SILENT_MS_MAX = 60_000
const HEAD_BYTES_MAX = 16_384
const HEAD_MS_MAX = 10_000
const IDLE_MS_MAX = 60_000

/** Serves the connections of the API, where apps ask for a channel and callers reach them: gRPC, HTTP/2 and HTTP/1. */
export const createEndpoint = (
  api: Api,
  secure: SecureApi | undefined,
): ((connection: Connection, world: World) => Promise<Outcome>) => {
  const answer = async (connection: Connection, life: Life, world: World): Promise<Traffic> => {
    const { clock } = world
    const look = (stream: Duplex) => peek(stream, { clock, timeoutMs: SILENT_MS_MAX, maxBytes: HEAD_BYTES_MAX })
    // Whoever has asked nothing yet is not waited for.
    life.onDrain = () => connection.stream.destroy()
    let seen = await look(connection.stream)
    if (secure !== undefined) {
      if (seen.detection.protocol !== 'tls') return refuse(seen.stream, 'CALLBACK_NOT_TLS', 'the API speaks TLS here')
      const { alpn } = seen.detection.hello
      const isOnlyHttp1 = alpn?.includes('http/1.1') === true && !alpn.includes('h2')
      const secured = await secure(seen.stream, isOnlyHttp1 ? 'http/1.1' : 'h2')
      if (secured === undefined) return refuse(seen.stream, 'CALLBACK_TLS', 'the TLS handshake failed')
      life.protocols.push('tls')
      seen = await look(secured.stream)
    }
    const { stream } = seen
    const { protocol } = seen.detection
    life.protocols.push(protocol)
    if (stream.destroyed) return { sent: 0, received: 0, ended: life.closing ?? 'clientGone' }
    if (protocol !== 'http1' && protocol !== 'http2')
      return refuse(stream, 'NOT_HTTP', 'the API of callback channels speaks gRPC and HTTP')
    return serve({ ...connection, stream: seen.stream }, protocol, life, world, secure !== undefined)
  }

  const serve = (
    connection: Connection,
    protocol: 'http1' | 'http2',
    life: Life,
    world: World,
    isTls: boolean,
  ): Promise<Traffic> =>
    new Promise((resolve) => {
      const { clock } = world
      const { stream } = connection
      const open: Open = openApi(api, callerOn(connection, life, world))
      const ended = (how: Traffic['ended'], error?: Error): void =>
        resolve({ ...life.count, ended: how, ...(error && { error: described(error) }) })
      if (protocol === 'http2') {
        const serving = serveHttp2(stream, {
          open,
          refuse: (head, cause, answer) => void reply(head, answer, { cause, isInformed: true }),
          refused: () => {},
          limits: HTTP2_LIMITS,
          times: HTTP2_TIMES,
          clock,
          count: life.count,
          ended,
        })
        life.closer = (why) => serving.close(why)
        life.onDrain = () => serving.drain()
        return
      }
      const client = new Http1Client(stream, {
        limits: { headBytesMax: HEAD_BYTES_MAX, fieldsMax: 100, headMs: HEAD_MS_MAX, idleMs: IDLE_MS_MAX },
        clock,
        open,
        scheme: isTls ? 'https' : 'http',
        chooseUpgrade: () => ({ is: 'none' }),
        toHttp2: () => {},
        refused: () => {},
        count: life.count,
        mayRest: false,
        rest: () => false,
        ended,
      })
      life.closer = (why) => client.close(why)
      life.onDrain = () => client.drain()
      client.start()
    })

  return (connection, world) => recorded(connection, world, (life) => answer(connection, life, world))
}

/** What the API knows of the connection that its requests come on, and how it calls apps for them. */
const callerOn = (connection: Connection, life: Life, world: World): ApiCaller => {
  const { direction, peer, stream, destination } = connection
  const facts: Facts = { direction, peer, destination, protocol: 'http2', sni: null, alpn: null, extensions: null }
  const routers = new Map<string, Router>()
  const routerTo = (app: string): Router => {
    const known = routers.get(app)
    if (known !== undefined) return known
    const policyNow = () => policyTo(app, world.policy())
    const policy = policyNow()
    const made = new Router(
      {
        ...{ connection, facts, policy, policyNow, life },
        verdict: decide(policy, facts),
        clock: world.clock,
        random: world.random,
        relay,
        secure: (dial) => dial,
        isOwn: world.isOwn,
        http: world.http,
        channels: world.channels,
      },
      world.dial,
    )
    if (routers.size > APPS_MAX) routers.clear()
    routers.set(app, made)
    return made
  }
  return {
    peer,
    local: stream instanceof Socket ? unmapped(stream.localAddress ?? destination.host) : destination.host,
    connection,
    clock: world.clock,
    life,
    call: (app, head, last, answer) => routerTo(app).ask(head, last, answer),
  }
}

const APPS_MAX = 100
