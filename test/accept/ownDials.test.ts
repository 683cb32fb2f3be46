import { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import { test } from 'tap'
import { ownDials } from '../../src/accept/ownDials.ts'
import { front } from '../support/front.ts'
import { caller, readAll, upstream } from '../support/peers.ts'

const LOCAL = { host: '10.0.0.2', port: 40_000 }
const REMOTE = { host: '10.0.0.5', port: 80 }

const socketTo = (): Socket =>
  Object.assign(new EventEmitter(), {
    localAddress: LOCAL.host,
    localPort: LOCAL.port,
    remoteAddress: REMOTE.host,
    remotePort: REMOTE.port,
  }) as unknown as Socket

test('a connection that comes back is known by both its ends, also when its socket is gone', async (t) => {
  let now = 0
  const dials = ownDials(() => now)
  const socket = socketTo()
  dials.opened(socket, REMOTE)
  socket.emit('connect')
  socket.emit('close')
  t.ok(await dials.isOwn(LOCAL, REMOTE))
  t.notOk(await dials.isOwn({ ...LOCAL, port: 40_001 }, REMOTE), 'another client')
  t.notOk(await dials.isOwn(LOCAL, { ...REMOTE, port: 81 }), 'the same port of ours, but to somewhere else')
  now = 1_000
  t.ok(await dials.isOwn(LOCAL, REMOTE))
  now = 2_000
  t.notOk(await dials.isOwn(LOCAL, REMOTE), 'forgotten: by now it is somebody else who got the port')
})

test('one that comes back before we were told that it is connected is waited for', async (t) => {
  for (const to of [REMOTE, { host: 'orders.example', port: 80 }]) {
    const socket = socketTo()
    const dials = ownDials(
      () => 0,
      async () => void socket.emit('connect'),
    )
    dials.opened(socket, to)
    t.ok(await dials.isOwn(LOCAL, REMOTE), to.host)
  }
})

test('nobody waits where nothing is being dialled, or what is dialled has failed', async (t) => {
  const dials = ownDials(
    () => 0,
    async () => void t.fail('waited'),
  )
  t.notOk(await dials.isOwn(LOCAL, REMOTE))
  const socket = socketTo()
  dials.opened(socket, REMOTE)
  socket.emit('close')
  t.notOk(await dials.isOwn(LOCAL, REMOTE))
})

test('a client of a listener with a fixed destination may have the port that we dial that destination from', async (t) => {
  const server = await upstream((socket) => void socket.end('hello'))
  const proxy = await front(
    server.address,
    'defaults: { protocol: opaque }',
    {},
    { ownDials: { opened: () => {}, isOwn: async () => true } },
  )
  const socket = await caller(proxy.address)
  t.equal(await readAll(socket), 'hello')
  socket.destroy()
  proxy.close()
  server.close()
})
