import type { ServerHttp2Stream } from 'node:http2'
import { test } from 'tap'
import { type AppHandler, apiSession, ask, callbackHost, openApp, serveApp } from '../support/callback.ts'
import { fetchHttp2, http2Client } from '../support/http2Proxy.ts'
import { manualClock } from '../support/manualClock.ts'

/** An app that answers when it is told to, with its own name. */
const replica = (name: string) => {
  const waiting: ServerHttp2Stream[] = []
  const handler: AppHandler = (stream) => void waiting.push(stream)
  const answer = (): void => {
    for (const stream of waiting.splice(0))
      if (!stream.destroyed) {
        stream.respond({ ':status': 200, 'x-from': name })
        stream.end()
      }
  }
  return { waiting, handler, answer }
}

/** An app that answers at once, with its own name. */
const quick =
  (name: string): AppHandler =>
  (stream) =>
    stream.respond({ ':status': 200, 'x-from': name }, { endStream: true })

test('new work goes to the channel with the fewest calls, and no replica pushes another out', async (t) => {
  const host = await callbackHost(t)
  const [a, b] = [replica('a'), replica('b')]
  await openApp(t, host, a.handler)
  const client = http2Client(t, host.address.port)
  const first = [fetchHttp2(client), fetchHttp2(client), fetchHttp2(client)]
  await host.until(() => a.waiting.length === 3)
  await openApp(t, host, b.handler)
  const second = [fetchHttp2(client), fetchHttp2(client), fetchHttp2(client)]
  await host.until(() => b.waiting.length === 3)
  const third = [fetchHttp2(client), fetchHttp2(client)]
  await host.until(() => a.waiting.length === 4 && b.waiting.length === 4)
  a.answer()
  b.answer()
  const from = async (replies: typeof first) => (await Promise.all(replies)).map(({ headers }) => headers['x-from'])
  t.same(
    [await from(first), await from(second)],
    [
      ['a', 'a', 'a'],
      ['b', 'b', 'b'],
    ],
  )
  t.same(new Set(await from(third)), new Set(['a', 'b']))
  t.same(host.ends, [])
  t.match(host.callback.door.channels(), [{ channel: { name: 'orders/1' } }, { channel: { name: 'orders/2' } }])
})

test('idle channels take turns', async (t) => {
  const host = await callbackHost(t)
  for (const name of ['a', 'b', 'c']) await openApp(t, host, quick(name))
  const client = http2Client(t, host.address.port)
  const from: unknown[] = []
  for (let count = 0; count < 6; count += 1) from.push((await fetchHttp2(client)).headers['x-from'])
  t.same(from, ['a', 'b', 'c', 'a', 'b', 'c'])
})

test('with `newest` only the last that came gets new work, and older ones finish theirs', async (t) => {
  const host = await callbackHost(t, { section: 'pick: newest' })
  const old = replica('old')
  await openApp(t, host, old.handler)
  const client = http2Client(t, host.address.port)
  const begun = fetchHttp2(client)
  await host.until(() => old.waiting.length === 1)
  const now = await openApp(t, host, quick('new'))
  for (let count = 0; count < 3; count += 1) t.match((await fetchHttp2(client)).headers, { 'x-from': 'new' })
  old.answer()
  t.match((await begun).headers, { 'x-from': 'old' })
  now.close()
  await host.until(() => host.ends.length === 1)
  const back = fetchHttp2(client)
  await host.until(() => old.waiting.length === 1)
  old.answer()
  t.match((await back).headers, { 'x-from': 'old' })
})

test('a channel that is lost fails what may not be repeated, and what may goes to another', async (t) => {
  const host = await callbackHost(t)
  const dying = replica('dying')
  const app = await openApp(t, host, dying.handler)
  const client = http2Client(t, host.address.port)
  const safe = fetchHttp2(client, { ':path': '/safe' })
  const unsafe = fetchHttp2(client, { ':path': '/unsafe', ':method': 'POST' }, 'x')
  await host.until(() => dying.waiting.length === 2)
  await openApp(t, host, quick('other'))
  app.socket.resetAndDestroy()
  t.match(await safe, { status: 200, headers: { 'x-from': 'other' } })
  t.match(await unsafe, { status: 502 })
  t.match(
    host.requests.find(({ target }) => target === '/safe'),
    { attempts: 2, channel: 'orders/2' },
  )
  t.same(host.ends, ['lost'])
})

test('an app that says GOAWAY gets no more calls; those it has end well, those it did not take go elsewhere', async (t) => {
  const host = await callbackHost(t)
  const leaving = replica('leaving')
  const app = await openApp(t, host, leaving.handler)
  const client = http2Client(t, host.address.port)
  const begun = fetchHttp2(client)
  await host.until(() => leaving.waiting.length === 1)
  await openApp(t, host, quick('staying'))
  const crossing = fetchHttp2(client, { ':method': 'POST' }, 'x')
  app.session.close()
  t.match((await crossing).headers, { 'x-from': 'staying' })
  await host.until(() => host.callback.registry.list().length === 1)
  t.match(host.callback.door.channels()[0], { state: 'leaving', load: 1 })
  for (let count = 0; count < 5; count += 1) t.match((await fetchHttp2(client)).headers, { 'x-from': 'staying' })
  leaving.answer()
  t.match(await begun, { status: 200, headers: { 'x-from': 'leaving' } })
  await host.until(() => host.ends.length === 1)
  t.same(host.ends, ['left'])
})

test('a call that the app refused without looking at it goes to another channel, whatever its method', async (t) => {
  const host = await callbackHost(t)
  await openApp(t, host, (stream) => stream.close(7))
  await openApp(t, host, quick('other'))
  const reply = await fetchHttp2(http2Client(t, host.address.port), { ':method': 'POST' })
  t.match(reply, { status: 200, headers: { 'x-from': 'other' } })
})

test('without a channel a call waits for one for a second, and then is 503', async (t) => {
  const clock = manualClock()
  const host = await callbackHost(t, { clock })
  const client = http2Client(t, host.address.port)
  const late = fetchHttp2(client, { ':path': '/late' })
  await host.until(() => host.callback.registry.waiting('orders') === 1)
  clock.advance(999)
  const call = { ':method': 'POST', 'content-type': 'application/grpc' }
  const early = fetchHttp2(client, call, Buffer.alloc(5))
  await host.until(() => host.callback.registry.waiting('orders') === 2)
  clock.advance(1)
  t.match(await late, { status: 503, headers: { 'sluice-error': 'noChannel' } })
  const asked = await ask(apiSession(t, host.api))
  await serveApp(t, asked.port, quick('a'))
  t.match((await early).headers, { 'x-from': 'a' })
  t.equal(host.callback.registry.waiting('orders'), 0)
})

test('no more calls wait than may, and one whose caller has gone does not wait', async (t) => {
  const host = await callbackHost(t, { section: 'wait: 1m, pending: 2' })
  const client = http2Client(t, host.address.port)
  const streams = [client.request({ ':path': '/' }), client.request({ ':path': '/' })]
  for (const stream of streams) stream.on('error', () => {})
  await host.until(() => host.callback.registry.waiting('orders') === 2)
  t.match(await fetchHttp2(client), { status: 503, headers: { 'sluice-error': 'overloaded' } })
  for (const stream of streams) stream.close(8)
  await host.until(() => host.callback.registry.waiting('orders') === 0)
})

test('one app has as many channels as it may, and another is not in its way', async (t) => {
  const host = await callbackHost(t, { section: 'channels: 2' })
  await openApp(t, host, quick('a'))
  await openApp(t, host, quick('b'))
  const session = apiSession(t, host.api)
  t.match(await ask(session), { status: 8, says: /callback\.channels/ })
  await openApp(t, host, quick('c'), { app: 'billing' })
  t.same(
    host.callback.registry.list().map(({ channel }) => channel.name),
    ['orders/1', 'orders/2', 'billing/3'],
  )
})

test('replicas that ask at the same time all get in; with one port for all they take turns', async (t) => {
  // An address of loopback that is nobody else's: there any port is free.
  const own = `127.${(process.pid >> 16) + 1}.${(process.pid >> 8) & 255}.${process.pid & 255}`
  for (const options of [{}, { host: own, section: 'port: 4242' }]) {
    const host = await callbackHost(t, options)
    const apps = ['orders', 'billing', 'stock', 'mail']
    await Promise.all(apps.map((app) => openApp(t, host, quick(app), { app })))
    t.same(new Set(host.callback.registry.list().map(({ peer }) => peer.app)), new Set(apps))
    host.close()
  }
  const host = await callbackHost(t)
  await Promise.all([1, 2, 3, 4, 5].map((name) => openApp(t, host, quick(`${name}`))))
  await host.up(5)
  t.same(new Set(host.connects), new Set(['orders opened']))
})

test('when the proxy stops, calls in flight end well and the apps are told to leave', async (t) => {
  const host = await callbackHost(t)
  const app = replica('a')
  const { session, pings } = await openApp(t, host, app.handler)
  const begun = fetchHttp2(http2Client(t, host.address.port))
  await host.until(() => app.waiting.length === 1)
  let isClosed = false
  session.on('close', () => {
    isClosed = true
  })
  host.callback.close()
  t.match(await ask(apiSession(t, host.api)), { status: 14 })
  app.answer()
  t.match(await begun, { status: 200 })
  await host.until(() => isClosed)
  t.ok(pings.every(({ closed }) => closed))
  t.same(host.ends, ['closed'])
})
