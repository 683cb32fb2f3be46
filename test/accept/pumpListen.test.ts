import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { pumpListener } from '../../src/accept/pumpListen.ts'
import type { SocketOptions } from '../../src/accept/socketOptions.ts'
import { loadAddon } from '../../src/native/addon.ts'
import { loadPump } from '../../src/native/pump.ts'
import { loadShim } from '../../src/native/shim.ts'
import { systemClock } from '../../src/net/clock.ts'
import { createLedger } from '../../src/telemetry/ledger.ts'
import type { Life } from '../../src/telemetry/life.ts'
import { countConnections, createMetrics } from '../../src/telemetry/metrics.ts'
import { createPulse } from '../../src/telemetry/pulse.ts'
import { caller, readAll, upstream } from '../support/peers.ts'
import { worldOf } from '../support/world.ts'

const ROOT = join(import.meta.dirname, '../..')
const ADDON = join(ROOT, 'build/test-pump-listen.node')
execFileSync(join(ROOT, 'scripts/build-native.sh'), [ADDON])
const pump = loadPump(() => assert.fail('these are plain sockets'), ADDON)
assert.ok(pump.is === 'ready')
const shim = loadShim(ADDON)
assert.ok(shim.is === 'ready')
const CONNECTIONS = 30 // more than the page wants whole

/** A listener that the pump accepts from, and all who merely count. */
const counting = async (sockets?: SocketOptions) => {
  const ledger = createLedger(systemClock)
  const metrics = createMetrics('0')
  countConnections(metrics, ledger)
  const pulse = createPulse(ledger, systemClock)
  const back = await upstream((socket) => void socket.pipe(socket))
  const world = worldOf('rules: [{ name: all of it, then: { protocol: opaque } }]', { ledger })
  const front = await pumpListener(
    pump.value,
    world,
    shim.value,
  )({
    name: 'outbound',
    direction: 'outbound',
    address: { host: '127.0.0.1', port: 0 },
    destination: back.address,
    maxConnections: 100,
    ...(sockets && { sockets }),
  })
  const scrape = async (name: string): Promise<number> => {
    const text = await metrics.registry.metrics()
    const line = text.split('\n').find((each) => each.startsWith(`sluice_${name} `))
    return Number(line?.split(' ').at(-1) ?? Number.NaN)
  }
  const close = () => {
    front.close()
    back.close()
  }
  return { ledger, pulse, back, front, scrape, close }
}

const until = async (is: () => Promise<boolean> | boolean): Promise<void> => {
  while (!(await is())) await new Promise((resolve) => setTimeout(resolve, 5))
}

test('connections that nobody looks at are counted all the same, open and ended', async ({ equal, ok }) => {
  const { ledger, pulse, front, scrape, close } = await counting()
  const begun: Life[] = []
  const { begin } = ledger
  ledger.begin = (...from) => {
    const life = begin(...from)
    begun.push(life)
    return life
  }
  const clients = []
  for (let i = 0; i < CONNECTIONS; i += 1) {
    const client = await caller(front.address)
    client.write('hello')
    await once(client, 'data')
    clients.push(client)
  }
  equal(await scrape('connections_open{direction="outbound"}'), CONNECTIONS)
  equal(await scrape('connection_bytes_total{direction="outbound",way="sent"}'), CONNECTIONS * 5)
  equal(begun.length, 0, 'a scrape begins no life')
  const ended = 'connections_total{direction="outbound",result="forwarded",ended="closed"}'
  for (const client of clients) {
    client.end('!')
    equal(await readAll(client), '!')
  }
  await until(async () => (await scrape(ended)) === CONNECTIONS)
  equal(await scrape('connections_open{direction="outbound"}'), 0)
  equal(await scrape('connection_bytes_total{direction="outbound",way="received"}'), CONNECTIONS * 6)
  equal(await scrape('detections_total{direction="outbound",protocol="opaque",reason="policy"}'), CONNECTIONS)
  equal(await scrape('rule_decisions_total{rule="all of it",aspect="protocol"}'), CONNECTIONS)
  equal(await scrape('connection_duration_seconds_count{direction="outbound"}'), CONNECTIONS)
  ok(pulse.recent().length <= CONNECTIONS && pulse.recent().length === begun.length, 'the page has some of them whole')
  ok(pulse.second().connections > 0)
  close()
})

test('whoever subscribes hears of each connection from then on', async ({ equal }) => {
  const { ledger, front, scrape, close } = await counting()
  const one = async () => {
    const client = await caller(front.address)
    client.end('x')
    equal(await readAll(client), 'x')
  }
  const peers: number[] = []
  const stop = ledger.subscribe(({ peer, bytes }) => peers.push(peer.port, bytes.sent))
  await one()
  await until(() => peers.length > 0)
  equal(peers[1], 1)
  stop()
  await one()
  await until(
    async () => (await scrape('connections_total{direction="outbound",result="forwarded",ended="closed"}')) === 2,
  )
  equal(peers.length, 2)
  close()
})

test('a drain waits for connections that are only counted, and ends those that stay', async ({ equal }) => {
  const { ledger, front, scrape, close } = await counting()
  const client = await caller(front.address)
  client.write('stay')
  await once(client, 'data')
  const gone = new Promise((resolve) => client.once('close', resolve)) // by a reset
  front.close()
  await ledger.drain(1)
  await gone
  equal(ledger.open.size, 0)
  equal(await scrape('connections_total{direction="outbound",result="forwarded",ended="drained"}'), 1)
  close()
})

test('an order to close a connection that is over does not reach the one that has its number now', async ({
  equal,
}) => {
  const { ledger, front, close } = await counting()
  const opened = async () => {
    const client = await caller(front.address)
    client.write('x')
    await once(client, 'data')
    const [life] = ledger.open
    assert.ok(life)
    return { client, life }
  }
  const { client: first, life } = await opened()
  first.end()
  await readAll(first)
  await until(() => ledger.open.size === 0)
  const { client: second } = await opened()
  life.close('drained')
  second.end('still here')
  equal(await readAll(second), 'still here')
  close()
})

test('both sockets of a connection have what the policy says of sockets, and send small writes at once', async ({
  same,
}) => {
  const { back, front, close } = await counting({ mark: 0, userTimeout: 23_456, keepalive: 7_000 })
  const client = await caller(front.address)
  client.write('x')
  await once(client, 'data')
  const addon = loadAddon(ADDON)
  assert.ok(addon.is === 'ready')
  const { getOption, IPPROTO_TCP, TCP_USER_TIMEOUT, TCP_NODELAY } = addon.value
  const tuned = () => {
    const fds = readdirSync('/proc/self/fd').map(Number)
    return fds.filter((fd) => getOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT) === 23_456)
  }
  await until(() => tuned().length === 3) // the listener, what it accepted, and a second later what was dialled
  for (const fd of tuned()) {
    same(shim.value.keepalive(fd), { idle: 7, interval: 7, count: 3 })
    same(getOption(fd, IPPROTO_TCP, TCP_NODELAY), 1)
  }
  client.end()
  await readAll(client)
  for (const each of back.connections) each.destroy()
  close()
})
