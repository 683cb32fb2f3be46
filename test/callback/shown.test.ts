import { readFileSync } from 'node:fs'
import { test } from 'tap'
import { channelRoutes, channelsNow } from '../../src/admin/channels.ts'
import { explanation } from '../../src/admin/explainCommand.ts'
import type { WholeAnswer } from '../../src/admin/server.ts'
import { countCallback } from '../../src/callback/metrics.ts'
import { createMetrics } from '../../src/telemetry/metrics.ts'
import type { Numbers } from '../../src/telemetry/registry.ts'
import { apiSession, ask, callbackHost, openApp } from '../support/callback.ts'
import { fetchHttp2, http2Client } from '../support/http2Proxy.ts'
import { policyOf } from '../support/world.ts'

const FACTS = {
  direction: 'inbound',
  peer: { host: '10.0.0.9', port: 1 },
  destination: { host: '10.0.0.5', port: 80 },
} as const

test('channels are counted by app, and their names in docs/metrics.md are the real ones', async (t) => {
  const metrics = createMetrics('test')
  const { events, watch } = countCallback(metrics)
  const host = await callbackHost(t, { events, section: 'channels: 2' })
  watch(host.callback)
  const first = await openApp(t, host, (stream, headers) => headers[':path'] === '/' && stream.respond())
  await openApp(t, host, () => {})
  t.match(await ask(apiSession(t, host.api)), { status: 8 })
  const client = http2Client(t, host.address.port)
  client.request({ ':path': '/a' }).on('error', () => {})
  client.request({ ':path': '/b' }).on('error', () => {})
  await host.until(() => host.callback.door.channels().every(({ load }) => load === 1))
  const lines = async () => (await metrics.registry.metrics()).split('\n')
  for (const line of [
    'sluice_callback_connects_total{app="orders",result="opened"} 2',
    'sluice_callback_connects_total{app="orders",result="refused"} 1',
    'sluice_callback_channels{app="orders",state="up"} 2',
    'sluice_callback_channels{app="orders",state="opening"} 0',
    'sluice_callback_calls_in_flight{app="orders"} 2',
  ])
    t.ok((await lines()).includes(line), line)
  first.socket.resetAndDestroy()
  await host.until(() => host.ends.length === 1)
  for (const line of [
    'sluice_callback_ends_total{app="orders",why="lost"} 1',
    'sluice_callback_channels{app="orders",state="up"} 1',
  ])
    t.ok((await lines()).includes(line), line)

  const documented = readFileSync('docs/metrics.md', 'utf8')
  for (const metric of metrics.registry.getMetricsAsArray().filter(({ name }) => name.startsWith('sluice_callback'))) {
    const { name, help, type, labelNames } = metric as Numbers
    const labels = labelNames.map((label) => `\`${label}\``).join(', ')
    t.ok(documented.includes(`| \`${name}\` | ${type} | ${labels} | ${help} |`), name)
  }
})

test('apps that call themselves anything have a bounded number of series', async (t) => {
  const metrics = createMetrics('test')
  const { events } = countCallback(metrics)
  for (let app = 0; app < 500; app += 1) events.connected(`app${app}`, 'refused', { host: '127.0.0.1', port: 1 })
  const series = (await metrics.registry.metrics()).split('\n').filter((line) => line.startsWith('sluice_callback_con'))
  t.equal(series.length, 101)
})

test('who asks for a channel without the token uses up no names of those who may', async (t) => {
  const metrics = createMetrics('test')
  const { events } = countCallback(metrics)
  const from = { host: '127.0.0.1', port: 1 }
  for (let app = 0; app < 500; app += 1) events.connected(`rogue${app}`, 'unauthenticated', from)
  events.connected('orders', 'opened', from)
  events.connected('orders', 'unauthenticated', from)
  const text = await metrics.registry.metrics()
  t.match(text, /connects_total\{app="\(other\)",result="unauthenticated"\} 500/)
  t.match(text, /connects_total\{app="orders",result="opened"\} 1/)
  t.match(text, /connects_total\{app="orders",result="unauthenticated"\} 1/)
})

test('GET /channels and the outcomes name the channel, and which one is next', async (t) => {
  const host = await callbackHost(t)
  const seen = async () =>
    JSON.parse(
      ((await channelRoutes(() => host.callback.channels)['GET /channels']!({} as never)) as WholeAnswer)
        .body as string,
    )
  t.same(await seen(), { enabled: true, channels: [] })
  const app = await openApp(t, host, (stream) => stream.respond({ ':status': 204 }, { endStream: true }))
  await fetchHttp2(http2Client(t, host.address.port))
  const { port } = app.socket.address() as { port: number }
  t.match(await seen(), {
    channels: [
      { name: 'orders/1', app: 'orders', peer: `127.0.0.1:${port}`, state: 'up', isNext: true, isOurs: true, calls: 1 },
    ],
  })
  t.match(host.requests.at(-1), { channel: 'orders/1', upstream: { host: '127.0.0.1', port } })
  const off = channelRoutes(() => undefined)['GET /channels']!({} as never) as WholeAnswer
  t.same(JSON.parse(off.body as string), { enabled: false, channels: [] })
})

test('explain says where a channel would go, and on the page which ones there are', async (t) => {
  const rules = 'rules: [{ name: to the app, then: { upstream: { channel: orders } } }]'
  const off = policyOf(rules)
  t.match(explanation(off, FACTS), /upstream\.channel +orders +to the app/)
  t.match(explanation(off, FACTS), /channel: none will ever be open to orders: callback\.enable is false/)
  const on = policyOf(`callback: { enable: true, pick: newest, wait: 3s }\n${rules}`)
  t.match(explanation(on, FACTS), /channel: the newest channel of orders \(callback\.pick\), .* within 3000 ms/)
  t.notMatch(explanation(policyOf(''), FACTS), /channel:/)

  const host = await callbackHost(t)
  const views = () => host.callback.channels.views()
  t.equal(channelsNow(on, FACTS, views()), 'now: orders has no open channel\n')
  await openApp(t, host, () => {})
  t.match(
    channelsNow(on, FACTS, views()),
    /^now: orders\/1 from 127\.0\.0\.1:\d+: up, 0 in flight; the next call goes here\n$/,
  )
  t.equal(channelsNow(policyOf(''), FACTS, views()), '')
})
