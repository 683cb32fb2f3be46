import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readlinkSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { test } from 'tap'
import { type ListenerOptions, type Listening, listen } from '../../src/accept/listen.ts'
import { pumpListener } from '../../src/accept/pumpListen.ts'
import { loadPump } from '../../src/native/pump.ts'
import { loadShim } from '../../src/native/shim.ts'
import type { Address } from '../../src/net/address.ts'
import { type Relay, relay } from '../../src/net/relay.ts'
import type { Policy } from '../../src/policy/policy.ts'
import type { World } from '../../src/proxy.ts'
import type { Outcome } from '../../src/telemetry/outcome.ts'
import { caller, readAll, type Upstream, upstream } from '../support/peers.ts'
import { policyOf, worldOf } from '../support/world.ts'

/**
 * What passes through streams and what passes through the pump must come to the same Outcome: each case runs both
 * ways, and states what it must be. It is what allows the replay, which has no sockets, to speak for live traffic.
 */
const ROOT = join(import.meta.dirname, '../..')
const ADDON = join(ROOT, 'build/test-both-ways.node')
execFileSync(join(ROOT, 'scripts/build-native.sh'), [ADDON])
const pump = loadPump(() => assert.fail('these are plain sockets'), ADDON)
assert.ok(pump.is === 'ready')

const shim = loadShim(ADDON)
assert.ok(shim.is === 'ready')

const socketsAtStart = openSockets()

interface Way {
  readonly name: string
  readonly relay: Relay
  readonly open: (options: ListenerOptions, world: World) => Promise<Listening>
}

const byNode: Way['open'] = (options, world) => listen(options, world, undefined)

const WAYS: readonly Way[] = [
  { name: 'streams', relay, open: byNode },
  { name: 'the pump', relay: pump.value.relay, open: byNode },
  {
    name: 'the pump that accepted it',
    relay: pump.value.relay,
    open: (options, world) => pumpListener(pump.value, world, shim.value)(options),
  },
]

interface Scene {
  readonly address: Address
  readonly client: () => Promise<Socket>
  readonly back: Upstream
  readonly replacePolicy: (policy: Policy) => void
  readonly drain: (ms: number) => Promise<void>
  readonly openConnections: () => number
}

interface Case {
  readonly name: string
  readonly policy?: string
  /** What the server does with its connection. */
  readonly server: (socket: Socket) => void
  /** What the client does, and what is observed at both ends. */
  readonly play: (scene: Scene) => Promise<unknown>
  readonly outcome: Partial<Outcome>
}

const OPAQUE = 'rules: [{ name: all, then: { protocol: opaque } }]'
const opaqueWithin = (limits: string) => `rules: [{ name: all, then: { protocol: opaque, limits: ${limits} } }]`
const BIG = randomBytes(8 << 20)
const digest = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')

const digestOf = async (socket: Socket): Promise<string> => {
  const hash = createHash('sha256')
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

const errorOf = async (socket: Socket): Promise<string> => {
  const [error] = (await once(socket.resume(), 'error')) as [NodeJS.ErrnoException]
  return error.code ?? ''
}

/** An end, or a reset where the other side's unread bytes made it one. */
const gone = (socket: Socket): Promise<unknown> =>
  new Promise((resolve) => socket.resume().once('end', resolve).once('close', resolve)).then(() => socket.destroy())

const CASES: readonly Case[] = [
  {
    name: 'bytes there and back, the client says goodbye first',
    policy: OPAQUE,
    server: (socket) => void socket.pipe(socket),
    play: async ({ client }) => {
      const socket = await client()
      socket.end('hello')
      assert.equal(await readAll(socket), 'hello')
    },
    outcome: { result: 'forwarded', ended: 'closed', bytes: { sent: 5, received: 5 }, reason: 'policy' },
  },
  {
    name: 'the server says goodbye first and still hears the client',
    policy: OPAQUE,
    server: (socket) => socket.end('greeting'),
    play: async ({ client, back }) => {
      const socket = await client()
      assert.equal(await readAll(socket), 'greeting')
      socket.end('and good night')
      assert.equal(await readAll(back.connections[0]!), 'and good night')
    },
    outcome: { result: 'forwarded', ended: 'closed', bytes: { sent: 14, received: 8 } },
  },
  {
    name: 'bytes read to detect the protocol go first, and nothing is lost behind them',
    server: (socket) => void socket.pipe(socket),
    play: async ({ client }) => {
      const socket = await client()
      const answer = digestOf(socket)
      socket.write('\x00\x01\x02\x03 not a protocol ')
      socket.end(BIG)
      assert.equal(await answer, digest(Buffer.concat([Buffer.from('\x00\x01\x02\x03 not a protocol '), BIG])))
    },
    outcome: { ended: 'closed', bytes: { sent: BIG.length + 20, received: BIG.length + 20 }, reason: 'unknown' },
  },
  {
    name: 'a server that speaks first is heard, and its greeting is not lost',
    server: (socket) => {
      socket.write('220 mail.example ESMTP\r\n')
      socket.once('data', () => socket.end('221 bye\r\n'))
    },
    play: async ({ client }) => {
      const socket = await client()
      const [greeting] = (await once(socket, 'data')) as [Buffer]
      assert.equal(greeting.toString(), '220 mail.example ESMTP\r\n')
      socket.end('QUIT\r\n')
      assert.equal(await readAll(socket), '221 bye\r\n')
    },
    outcome: { ended: 'closed', bytes: { sent: 6, received: 33 }, reason: 'serverFirst' },
  },
  {
    name: 'both directions at once, in bulk',
    policy: OPAQUE,
    server: (socket) => socket.end(BIG),
    play: async ({ client, back }) => {
      const socket = await client()
      const there = once(back.server, 'connection').then(([server]) => digestOf(server as Socket))
      const hash = digestOf(socket)
      socket.end(BIG)
      const server = back.connections[0] ? digestOf(back.connections[0]) : there
      assert.deepEqual([await hash, await server], [digest(BIG), digest(BIG)])
    },
    outcome: { ended: 'closed', bytes: { sent: BIG.length, received: BIG.length } },
  },
  {
    name: 'a reset by the client reaches the server as a reset',
    policy: OPAQUE,
    server: (socket) => void socket.write('ready'),
    play: async ({ client, back }) => {
      const socket = await client()
      await once(socket, 'data')
      const error = errorOf(back.connections[0]!)
      socket.resetAndDestroy()
      assert.equal(await error, 'ECONNRESET')
    },
    outcome: { ended: 'clientReset', bytes: { sent: 0, received: 5 } },
  },
  {
    name: 'a reset by the server reaches the client as a reset',
    policy: OPAQUE,
    server: (socket) => void socket.once('data', () => socket.resetAndDestroy()),
    play: async ({ client }) => {
      const socket = await client()
      socket.write('please')
      assert.equal(await errorOf(socket), 'ECONNRESET')
    },
    outcome: { ended: 'upstreamReset', bytes: { sent: 6, received: 0 } },
  },
  {
    name: 'nothing is lost when the server closes right after writing',
    policy: OPAQUE,
    server: (socket) => socket.end(BIG, () => socket.destroySoon()),
    play: async ({ client }) => {
      const socket = await client()
      assert.equal(await digestOf(socket), digest(BIG))
      socket.end()
    },
    outcome: { ended: 'closed', bytes: { sent: 0, received: BIG.length } },
  },
  {
    name: 'silence ends when its time is over',
    policy: opaqueWithin('{ idle: 100ms }'),
    server: (socket) => void socket.write('once'),
    play: async ({ client }) => {
      await gone(await client())
    },
    outcome: { ended: 'idleTimeout', bytes: { sent: 0, received: 4 } },
  },
  {
    name: 'a peer that never says goodbye is left after the half-closed time',
    policy: opaqueWithin('{ halfClosed: 100ms }'),
    server: (socket) => void socket.resume(),
    play: async ({ client }) => {
      const socket = await client()
      socket.end('the end')
      await gone(socket)
    },
    outcome: { ended: 'halfClosedTimeout', bytes: { sent: 7, received: 0 } },
  },
  {
    name: 'a policy that now denies it closes it',
    policy: OPAQUE,
    server: (socket) => void socket.pipe(socket),
    play: async ({ client, replacePolicy }) => {
      const socket = await client()
      socket.write('hello')
      await once(socket, 'data')
      replacePolicy(policyOf('rules: [{ name: no, then: { deny: true } }]'))
      await gone(socket)
    },
    outcome: { ended: 'policyChanged', bytes: { sent: 5, received: 5 } },
  },
  {
    name: 'a drain closes it when its time is over',
    policy: OPAQUE,
    server: (socket) => void socket.pipe(socket),
    play: async ({ client, drain }) => {
      const socket = await client()
      socket.write('hello')
      await once(socket, 'data')
      const drained = drain(20)
      await gone(socket)
      await drained
    },
    outcome: { ended: 'drained', bytes: { sent: 5, received: 5 } },
  },
  {
    name: 'a server that is not there is a connection refused',
    policy: OPAQUE,
    server: () => {},
    play: async ({ address, back }) => {
      back.close()
      assert.equal(await errorOf(connect(address)), 'ECONNRESET')
    },
    outcome: { result: 'failed', ended: 'connectFailed', bytes: { sent: 0, received: 0 } },
  },
  {
    name: 'a connection limit counts it until it ends',
    policy: OPAQUE,
    server: (socket) => void socket.pipe(socket),
    play: async ({ address, client, openConnections }) => {
      const socket = await client()
      socket.write('one')
      await once(socket, 'data')
      assert.equal(openConnections(), 1)
      assert.equal(await errorOf(connect(address)), 'ECONNRESET')
      socket.end()
      await gone(socket)
    },
    outcome: { ended: 'closed', bytes: { sent: 3, received: 3 } },
  },
]

const run = async (each: Case, way: Way): Promise<Outcome> => {
  const back = await upstream(each.server)
  let policy = policyOf(each.policy ?? '')
  const world = worldOf('', { policy: () => policy, relay: way.relay })
  const settings = { name: 'test', direction: 'outbound', address: { host: '127.0.0.1', port: 0 } } as const
  const listening = await way.open({ ...settings, maxConnections: 1, destination: back.address }, world)
  const scene: Scene = {
    address: listening.address,
    client: () => caller(listening.address),
    back,
    replacePolicy: (next) => {
      policy = next
      pump.value.forgetRoutes()
      world.ledger.recheck()
    },
    drain: (ms) => world.ledger.drain(ms),
    openConnections: () => world.ledger.open.size,
  }
  await each.play(scene)
  if (world.ledger.open.size > 0) await world.ledger.drain(10_000)
  listening.close()
  back.close()
  const outcome = world.outcomes.find(({ result }) => result === (each.outcome.result ?? 'forwarded'))
  assert.ok(outcome, JSON.stringify(world.outcomes))
  return outcome
}

for (const each of CASES) {
  for (const way of WAYS) {
    test(`${each.name}, by ${way.name}`, async () => {
      const outcome = await run(each, way)
      const seen = Object.fromEntries(Object.keys(each.outcome).map((key) => [key, outcome[key as keyof Outcome]]))
      assert.deepEqual(seen, each.outcome)
    })
  }
}

test('live counts of pumped connections are there when asked for', async () => {
  const back = await upstream((socket) => void socket.pipe(socket))
  const world = worldOf(OPAQUE, { relay: pump.value.relay })
  const settings = { name: 'test', direction: 'outbound', address: { host: '127.0.0.1', port: 0 } } as const
  const listening = await listen({ ...settings, maxConnections: 9, destination: back.address }, world, undefined)
  const socket = await caller(listening.address)
  socket.write('hello')
  await once(socket, 'data')
  const [life] = world.ledger.open
  assert.deepEqual({ ...life?.count }, { sent: 5, received: 5 })
  socket.destroy()
  await world.ledger.drain(10_000)
  listening.close()
  back.close()
})

test('no socket is left behind', async () => {
  for (let turn = 0; turn < 100; turn += 1) await new Promise(setImmediate) // for the peers' own closes
  assert.deepEqual(openSockets(), socketsAtStart)
})

function openSockets(): readonly string[] {
  const links = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`)
    } catch {
      return '' // the descriptor of this very listing
    }
  })
  return links.filter((link) => link.startsWith('socket:'))
}
