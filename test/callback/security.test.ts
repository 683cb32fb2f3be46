import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect, type Socket } from 'node:net'
import { type ConnectionOptions, connect as tlsConnect } from 'node:tls'
import { type Test, test } from 'tap'
import { openCallback } from '../../src/callback/openCallback.ts'
import { CHANNEL_MAGIC } from '../../src/callback/wire.ts'
import { FRAME } from '../../src/codec/http2Codes.ts'
import { openTls } from '../../src/forward/tlsWorld.ts'
import { systemClock } from '../../src/net/clock.ts'
import { serveOverCallback } from '../../src/sdk/serveOverCallback.ts'
import { apiSession, ask, CONNECT_PATH, callbackHost, openApp, serveApp } from '../support/callback.ts'
import { openWorkshop } from '../support/certificates.ts'
import { raw } from '../support/http.ts'
import { settings } from '../support/http2.ts'
import { fetchHttp2, http2Client } from '../support/http2Proxy.ts'
import { manualClock } from '../support/manualClock.ts'
import { policyOf } from '../support/world.ts'

/** Somebody who connects to the port of another, and all that it gets. */
const rogue = async (t: Test, port: number, says: Buffer | string = '', localAddress = '127.0.0.1') => {
  const socket = connect({ port, host: '127.0.0.1', localAddress })
  const chunks: Buffer[] = []
  let isClosed = false
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  socket.on('error', () => {})
  const closed = once(socket, 'close').then(() => {
    isClosed = true
  })
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  if (says.length > 0) socket.write(says)
  return { socket, closed, got: () => Buffer.concat(chunks), isClosed: () => isClosed }
}

/** The types of the frames behind the preface. */
const frameTypes = (bytes: Buffer): number[] => {
  const types: number[] = []
  for (let at = 24; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) types.push(bytes[at + 3]!)
  return types
}

const echo: Parameters<typeof serveApp>[2] = (stream) => stream.respond({ ':status': 200 }, { endStream: true })

test('without the right token nobody gets a channel, and no port is opened', async (t) => {
  const host = await callbackHost(t, { env: { DAPR_API_TOKEN: 'correct horse' } })
  const session = apiSession(t, host.api)
  for (const token of [undefined, '', 'correct hors', 'correct horse battery']) {
    const asked = await ask(session, token === undefined ? {} : { 'dapr-api-token': token })
    t.match(asked, { status: 16, port: 0, message: Buffer.alloc(0) }, `token ${token}`)
  }
  const call = { ':method': 'POST', 'content-type': 'application/grpc', ':path': '/a.B/C', 'dapr-app-id': 'orders' }
  t.match(await fetchHttp2(session, call, ''), { headers: { 'grpc-status': '16' } })
  t.match(await fetchHttp2(session, { ':path': '/v1.0/healthz' }), { status: 401 })
  t.match(await ask(session, { 'dapr-api-token': 'correct horse' }), { status: 0 })
  t.match(new Set(host.connects), new Set(['orders unauthenticated']))
  await ask(session, { 'sluice-app-id': 'orders (from 10.0.0.1)' })
  t.equal(host.connects.at(-1), '(not an id) unauthenticated')
})

test('a secret is read from where the document says, and a missing one keeps it from starting', async (t) => {
  const host = await callbackHost(t, { section: 'token: { env: MINE }', env: { MINE: 'a', DAPR_API_TOKEN: 'b' } })
  t.match(await ask(apiSession(t, host.api), { 'dapr-api-token': 'b' }), { status: 16 })
  t.match(await ask(apiSession(t, host.api), { 'dapr-api-token': 'a' }), { status: 0 })
  await t.rejects(callbackHost(t, { section: 'token: { env: MINE }' }), { message: /MINE is not set/ })
})

test('enabled together with an app port it does not start, and both are named', async (t) => {
  const both = 'callback: { enable: true, appPort: 3000 }'
  t.throws(() => policyOf(both), { message: /callback\.enable and callback\.appPort exclude each other/ })
  t.equal(policyOf('callback: { enable: false, appPort: 3000 }').sections.callback.appPort, 3000)
  const section = policyOf('callback: { enable: true }').sections.callback
  const log = { info: () => {}, warn: () => {} }
  const opening = openCallback({ section, env: { APP_PORT: '3000' }, clock: systemClock, tls: undefined, log })
  await t.rejects(opening, { message: /callback\.enable and the app port exclude each other: APP_PORT is 3000/ })
})

test('a rogue that takes the port of an app which proves itself gets not a byte, and the app still connects', async (t) => {
  const host = await callbackHost(t)
  const asked = await ask(apiSession(t, host.api), { 'sluice-callback': '1' })
  const wrong = Buffer.concat([CHANNEL_MAGIC, Buffer.alloc(32)])
  const rogues = [
    await rogue(t, asked.port),
    await rogue(t, asked.port, settings()),
    await rogue(t, asked.port, 'SLUICE'),
    await rogue(t, asked.port, wrong),
    await rogue(t, asked.port, Buffer.concat([CHANNEL_MAGIC, asked.nonce!.subarray(0, 31)])),
  ]
  await host.until(() => host.connects.length === 2)
  await serveApp(t, asked.port, echo, { nonce: asked.nonce })
  await host.up(1)
  await Promise.all(rogues.map(({ closed }) => closed))
  t.same(
    rogues.map(({ got }) => got().length),
    [0, 0, 0, 0, 0],
  )
  t.same(host.connects, ['orders wrongNonce', 'orders wrongNonce', 'orders opened'])
  t.match(host.callback.registry.list()[0], { peer: { isOurs: true } })
})

test('whoever comes from another address than the one that asked is turned away', async (t) => {
  const host = await callbackHost(t)
  const asked = await ask(apiSession(t, host.api))
  const other = await rogue(t, asked.port, settings(), '127.0.0.2')
  await other.closed
  t.equal(other.got().length, 0)
  await serveApp(t, asked.port, echo)
  await host.up(1)
  t.same(host.connects, ['orders wrongPeer', 'orders opened'])
})

test('with a client that cannot prove itself a silent rogue gets no request, and keeps nobody out', async (t) => {
  const host = await callbackHost(t, { env: { APP_API_TOKEN: 'secret' } })
  const asked = await ask(apiSession(t, host.api))
  const silent = await rogue(t, asked.port)
  const junk = await rogue(t, asked.port, 'this is not HTTP/2 at all, and never will be')
  await junk.closed
  await serveApp(t, asked.port, echo)
  await host.up(1)
  await silent.closed
  for (const { got } of [silent, junk]) {
    t.ok(frameTypes(got()).every((type) => type !== FRAME.headers))
    t.notOk(got().includes('secret'))
  }
  t.same(host.connects, ['orders brokeProtocol', 'orders opened'])
})

test('so many who say nothing are let wait, and no more', async (t) => {
  const host = await callbackHost(t)
  const asked = await ask(apiSession(t, host.api), { 'sluice-callback': '1' })
  const rogues: Awaited<ReturnType<typeof rogue>>[] = []
  for (let count = 0; count < 40; count++) rogues.push(await rogue(t, asked.port))
  await host.until(() => rogues.filter(({ isClosed }) => isClosed()).length >= 24)
  await serveApp(t, asked.port, echo, { nonce: asked.nonce })
  await host.up(1)
})

test('where the nonce is required, a client that cannot send it gets no channel', async (t) => {
  const host = await callbackHost(t, { section: 'nonce: required' })
  t.match(await ask(apiSession(t, host.api)), { status: 7, port: 0 })
  await openApp(t, host, echo)
  t.same(host.connects, ['orders refused', 'orders opened'])
})

test('the app is sent its token with each call but HealthCheck, and what callers say in its place is dropped', async (t) => {
  const host = await callbackHost(t, { env: { APP_API_TOKEN: 'for the app', DAPR_API_TOKEN: 'for us' } })
  const seen: unknown[] = []
  const session = apiSession(t, host.api)
  const asked = await ask(session, { 'dapr-api-token': 'for us' })
  await serveApp(t, asked.port, (stream, headers) => {
    seen.push(headers['dapr-api-token'])
    stream.respond({ ':status': 200, 'content-type': 'application/grpc', 'grpc-status': '0' }, { endStream: true })
  })
  await host.up(1)
  const health = '/dapr.proto.runtime.v1.AppCallbackHealthCheck/HealthCheck'
  const client = http2Client(t, host.address.port)
  await fetchHttp2(client, { ':path': '/', 'dapr-api-token': 'mine' })
  await fetchHttp2(client, { ':path': health, 'dapr-api-token': 'mine' })
  const call = {
    ':method': 'POST',
    'content-type': 'application/grpc',
    'dapr-api-token': 'for us',
    'dapr-app-id': 'orders',
  }
  await fetchHttp2(session, { ...call, ':path': '/a.B/C' }, '')
  await fetchHttp2(session, { ...call, ':path': health }, '')
  t.same(seen, ['for the app', undefined, 'for the app', undefined])
})

test('web pages may not call the API', async (t) => {
  const host = await callbackHost(t)
  const { socket, send, rest } = await raw(host.api)
  send('GET /v1.0/healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v1.0/healthz HTTP/1.1\r\nHost: a\r\n')
  send('Origin: https://evil.example\r\nConnection: close\r\n\r\n')
  t.match(await rest(), /^HTTP\/1\.1 204 [\s\S]*HTTP\/1\.1 403 [\s\S]*pages may not call this API/)
  socket.destroy()
})

test('after the time to connect the port refuses', async (t) => {
  const clock = manualClock()
  const host = await callbackHost(t, { clock })
  const asked = await ask(apiSession(t, host.api))
  const early = await rogue(t, asked.port)
  clock.advance(9_999)
  t.same(host.connects, [])
  clock.advance(1)
  t.same(host.connects, ['orders timeout'])
  await early.closed
  await t.rejects(serveApp(t, asked.port, echo), { code: 'ECONNREFUSED' })
})

test('requests that are no ConnectAppCallback end in words, and the connection lives on', async (t) => {
  const host = await callbackHost(t)
  const session = apiSession(t, host.api)
  const cases: readonly (readonly [body: Buffer, headers: Record<string, string>, status: number])[] = [
    [Buffer.alloc(0), {}, 13],
    [Buffer.alloc(4), {}, 13],
    [Buffer.from([1, 0, 0, 0, 0]), {}, 13],
    [Buffer.from([0, 0, 0, 0, 9, 8]), {}, 13],
    [Buffer.from([0, 0, 0, 0, 0, 0]), {}, 13],
    [Buffer.alloc(100_000), {}, 13],
    [Buffer.alloc(5), { 'sluice-app-id': 'a/b' }, 3],
    [Buffer.alloc(5), { 'sluice-app-id': 'a:b' }, 3],
    [Buffer.from([0, 0, 0, 0, 2, 0x08, 0x01]), {}, 0],
  ]
  for (const [body, headers, status] of cases) {
    const asked = await ask(session, headers, CONNECT_PATH, body)
    t.equal(asked.status, status, `${body.subarray(0, 8).toString('hex')} ${JSON.stringify(headers)}: ${asked.says}`)
  }
})

/** A host that shows a certificate, and asks apps for one by the root that is returned with it. */
const secureHost = async (t: Test) => {
  const workshop = openWorkshop()
  t.teardown(workshop.close)
  const root = workshop.make('root', { ca: true })
  const server = workshop.make('localhost', { issuer: root, names: ['DNS:localhost', 'IP:127.0.0.1'] })
  const documents = `certificates: { here: { cert: ${server.certPath}, key: ${server.keyPath} } }\ntrust: { apps: { ca: ${root.certPath} } }`
  const tls = await openTls(policyOf(documents).sections, systemClock, () => {})
  t.teardown(tls.close)
  const host = await callbackHost(t, {
    section: 'tls: { certificate: here, clients: apps }',
    policy: `${documents}\ndefaults: { upstream: { channel: orders } }`,
    tls,
  })
  return { workshop, root, app: workshop.make('orders.example', { issuer: root }), host }
}

test('by TLS both the API and the channel prove who we are, and apps show a certificate where they must', async (t) => {
  const { workshop, root, app, host } = await secureHost(t)
  const other = workshop.make('stranger', { ca: true })
  const secure = async (socket: Socket, more: ConnectionOptions = {}) => {
    const wrapped = tlsConnect({ socket, ca: root.cert, host: 'localhost', ALPNProtocols: ['h2'], ...more })
    wrapped.on('error', () => {})
    await once(wrapped, 'secureConnect')
    return wrapped
  }
  const reach = async (more: ConnectionOptions) => {
    const socket = connect(host.api)
    socket.on('error', () => {})
    t.teardown(() => socket.destroy())
    const session = (await import('node:http2')).connect('https://localhost', {
      createConnection: () => tlsConnect({ socket, ca: root.cert, host: 'localhost', ALPNProtocols: ['h2'], ...more }),
    })
    session.on('error', () => {})
    t.teardown(() => session.destroy())
    return session
  }
  const mine = { cert: app.cert, key: app.key }
  const http1 = tlsConnect({ ...host.api, ca: root.cert, ALPNProtocols: ['http/1.1'], ...mine })
  t.teardown(() => http1.destroy())
  http1.end('GET /v1.0/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n')
  let said = ''
  for await (const chunk of http1) said += chunk
  t.match(said, /^HTTP\/1\.1 204 /)
  const unencrypted = await raw(host.api)
  unencrypted.send('GET /v1.0/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n')
  t.notMatch(await unencrypted.rest(), /HTTP/)
  t.match(await ask(await reach({ cert: other.cert, key: other.key })), { status: -1 })
  const asked = await ask(await reach(mine), { 'sluice-callback': '1' })
  t.equal(asked.status, 0)
  const plain = await rogue(t, asked.port, Buffer.concat([CHANNEL_MAGIC, asked.nonce!]))
  await plain.closed
  t.ok(plain.got().length < 20, 'an alert at most')
  await serveApp(t, asked.port, echo, { nonce: asked.nonce, wrap: (socket) => secure(socket, mine) })
  await host.up(1)
  t.match(await fetchHttp2(http2Client(t, host.address.port)), { status: 200 })
  t.same(host.connects, ['orders tlsFailed', 'orders opened'])
  t.equal(host.callback.registry.list()[0]?.peer.identity, 'orders.example')
})

test('our SDK and the proxy prove to each other who they are, on the API and on the channel', async (t) => {
  const { workshop, root, app, host } = await secureHost(t)
  const other = workshop.make('stranger', { ca: true })
  const server = createServer((request, response) => void response.end(`${request.method} ${request.url}`))
  const serve = (tls: ConnectionOptions) => {
    const served = serveOverCallback({
      proxy: `${host.api.host}:${host.api.port}`,
      server,
      tls,
      signals: [],
      timing: { probeMs: 10, backoffFirstMs: 5, backoffMaxMs: 20 },
    })
    t.teardown(() => served.close())
    return served
  }
  const stranger = serve({ ca: root.cert, cert: other.cert, key: other.key })
  while (stranger.state.is !== 'waiting') await once(stranger, 'state')
  t.same(host.connects, [], 'whoever shows the certificate of a stranger is not even heard')
  serve({ ca: root.cert, cert: app.cert, key: app.key })
  await host.up(1)
  const { status, body } = await fetchHttp2(http2Client(t, host.address.port), { ':path': '/secret' })
  t.same([status, body.toString()], [200, 'GET /secret'])
  t.equal(host.callback.registry.list()[0]?.peer.identity, 'orders.example')
})
