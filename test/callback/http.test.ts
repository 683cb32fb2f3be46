import { connect } from 'node:net'
import { test } from 'tap'
import { apiSession, ask, CONNECT_PATH, callbackHost, openApp, serveApp } from '../support/callback.ts'
import { raw } from '../support/http.ts'
import { fetchHttp2, http2Client } from '../support/http2Proxy.ts'

test('an app that asks for a channel is called over it, in HTTP/1 and HTTP/2', async (t) => {
  const host = await callbackHost(t)
  await openApp(t, host, (stream, headers) => {
    stream.respond({ ':status': 200, 'x-seen': `${headers[':method']} ${headers[':authority']}${headers[':path']}` })
    stream.pipe(stream)
  })
  const http1 = await raw(host.address)
  http1.send('POST /a?b=1 HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello')
  const answer = await http1.rest()
  t.match(answer, /^HTTP\/1\.1 200 OK[\s\S]*x-seen: POST shop\.example\/a\?b=1[\s\S]*hello/)

  const reply = await fetchHttp2(
    http2Client(t, host.address.port),
    { ':authority': 'shop', ':method': 'POST' },
    'again',
  )
  t.match(reply, { status: 200, headers: { 'x-seen': 'POST shop/' }, code: 0 })
  t.equal(reply.body.toString(), 'again')
  t.match(host.requests, [
    { target: CONNECT_PATH, grpcStatus: '0', attempts: 0 },
    { channel: 'orders/1', attempts: 1 },
    { channel: 'orders/1', attempts: 1 },
  ])
})

test('both names of ConnectAppCallback answer with a port, and anything else is UNIMPLEMENTED', async (t) => {
  const host = await callbackHost(t)
  const session = apiSession(t, host.api)
  for (const path of [CONNECT_PATH, '/dapr.proto.runtime.v1.Dapr/ConnectAppCallback']) {
    const asked = await ask(session, {}, path)
    t.equal(asked.status, 0)
    t.ok(asked.port > 0)
    t.equal(asked.message.length, 4)
    t.equal(asked.nonce, undefined)
  }
  t.match(await ask(session, {}, '/dapr.proto.runtime.v1.Dapr/SaveState'), { status: 12, message: Buffer.alloc(0) })
})

test('a newer request takes the place of an older one: its port refuses, the new one works', async (t) => {
  const host = await callbackHost(t)
  const session = apiSession(t, host.api)
  const old = await ask(session)
  const now = await ask(session)
  await t.rejects(
    serveApp(t, old.port, () => {}),
    { code: 'ECONNREFUSED' },
  )
  await serveApp(t, now.port, () => {})
  await host.up(1)
  t.same(host.connects, ['orders replaced', 'orders opened'])
})

test('an app that asks by IPv6 is expected there', async (t) => {
  const host = await callbackHost(t, { host: '[::1]' })
  await openApp(t, host, (stream) => stream.respond({ ':status': 204 }, { endStream: true }))
  t.match(host.callback.channels.views(), [{ peer: { host: '::1' }, state: 'up' }])
  t.match(await fetchHttp2(http2Client(t, host.address.port)), { status: 204 })
})

test('a drain does not wait for a connection to the API that has asked nothing', async (t) => {
  const host = await callbackHost(t)
  const idle = connect(host.api)
  idle.on('error', () => {})
  idle.resume()
  const closed = new Promise((resolve) => idle.once('close', resolve))
  await host.until(() => host.world.ledger.open.size === 1)
  await host.world.ledger.drain(60_000)
  await closed
  t.match(host.outcomes, [{ listener: 'callback' }])
})
