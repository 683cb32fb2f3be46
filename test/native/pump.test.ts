import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { test } from 'tap'
import { type Addon, loadAddon } from '../../src/native/addon.ts'
import { type Carried, loadPump, type Pump } from '../../src/native/pump.ts'
import { systemClock } from '../../src/net/clock.ts'
import type { Relay } from '../../src/net/relay.ts'

const ROW = 11 // numbers of a connection, see pump.ts

/** A pump whose addon is played by the test: it says what waits to be taken, and calls as the pump's thread does. */
const played = (folder: string, plain: Relay = () => Promise.reject(new Error('nothing is relayed here'))) => {
  const accepted: number[] = []
  const ended: number[] = []
  const open: number[] = []
  const give = (ids: number[], rows: Float64Array, hosts: string[]): number => {
    const taken = ids.splice(0)
    for (const [row, id] of taken.entries()) {
      rows.set([id, 0, 1, 1, 1000 + id, 80, 0, 0, 0, 0, 0], row * ROW)
      hosts[2 * row] = `192.0.2.${id}`
      hosts[2 * row + 1] = '192.0.2.200'
    }
    return taken.length
  }
  let call = () => {}
  const addon = {
    pumpStart: (_: number, hear: () => void) => {
      call = hear
      return 0
    },
    send: () => 0,
    pumpAdd: () => -24, // EMFILE
    pumpHold: () => {},
    parkOpen: () => 0,
    pumpListen: () => 0,
    pumpTakeAccepted: (rows: Float64Array, hosts: string[]) => give(accepted, rows, hosts),
    pumpTakeEnded: (rows: Float64Array, hosts: string[]) => give(ended, rows, hosts),
    pumpTotal: () => {},
    pumpList: (_: number, rows: Float64Array, hosts: string[]) => give([...open], rows, hosts),
  }
  Object.assign(globalThis, { playedAddon: addon })
  const loaded = loadPump(plain, join(folder, 'addon.cjs'))
  if (loaded.is === 'missing') throw new Error(loaded.reason)
  return { pump: loaded.value, accepted, ended, open, call: () => call() }
}

const heardBy = (pump: Pump, then: (it: string) => void = () => {}): string[] => {
  const heard: string[] = []
  const hear = (what: string, { peer }: { readonly peer: Carried['peer'] }) => {
    heard.push(`${what} ${peer.host}:${peer.port}`)
    then(heard.at(-1)!)
  }
  pump.listen(0, {
    destination: { host: '192.0.2.200', port: 80 },
    maxConnections: 10,
    isNear: true,
    asked: (connection) => hear('asked', connection),
    wantsEach: () => true,
    ended: ({ connection }) => hear('ended', connection!),
  })
  return heard
}

test('what is accepted while an end is being heard is asked about, though the pump does not call for it', (t) => {
  const { pump, accepted, ended, call } = played(t.testdir({ 'addon.cjs': 'module.exports = globalThis.playedAddon' }))
  const heard = heardBy(pump, (it) => it.startsWith('ended') && accepted.push(7))
  ended.push(1)
  call()
  t.same(heard, ['ended 192.0.2.1:1001', 'asked 192.0.2.7:1007'])
  t.end()
})

test('whoever hears of an end may look at the open connections, and the next end is still the right one', (t) => {
  const { pump, ended, open, call } = played(t.testdir({ 'addon.cjs': 'module.exports = globalThis.playedAddon' }))
  const heard = heardBy(pump, () => t.equal(pump.carried()[0]?.peer.host, '192.0.2.9'))
  open.push(9, 8)
  ended.push(1, 2)
  call()
  t.same(heard, ['ended 192.0.2.1:1001', 'ended 192.0.2.2:1002'])
  t.end()
})

const built = (): Addon => {
  const root = join(import.meta.dirname, '../..')
  const path = join(root, 'build/test-pump.node')
  execFileSync(join(root, 'scripts/build-native.sh'), [path])
  const loaded = loadAddon(path)
  assert.ok(loaded.is === 'ready')
  return loaded.value
}

test('an argument that makes no sense throws, and reaches no connection', (t) => {
  const addon = built()
  const rows = new Float64Array(256 * ROW)
  const call = (name: keyof Addon, ...given: unknown[]) => (addon[name] as (...given: unknown[]) => unknown)(...given)
  t.throws(() => call('pumpForgetRoutes'), { message: 'pumpStart first' })
  t.equal(
    addon.pumpStart(1, () => {}),
    0,
  )
  const upstream = ['192.0.2.1', 80]
  const WRONG: readonly (readonly [keyof Addon, ...unknown[]])[] = [
    ['pumpStart', 1],
    ['pumpHold'],
    ['pumpHold', 1],
    ['pumpAdd', 0, 0, undefined, undefined, 0],
    ['pumpAdd', '0', 0, undefined, undefined, 0, 0],
    ['pumpAdd', -1, -1, 'bytes', undefined, 0, 0],
    ['pumpAdd', -1, -1, undefined, null, 0, 0],
    ['pumpAdd', -1, -1, undefined, undefined, Number.NaN, 0],
    ['pumpAdd', -1, -1, undefined, undefined, 0, -1],
    ['pumpCount', 0, new Float64Array(2)],
    ['pumpCount', 0, new Float64Array(1)],
    ['pumpClose', 7],
    ['pumpRelease', 2 ** 32 - 1],
    ['pumpTakeEnded', new Float64Array(1), undefined],
    ['pumpTakeAccepted', new Float32Array(256 * ROW), []],
    ['pumpList', 'all', rows, []],
    ['pumpTotal', 64, new Float64Array(3)],
    ['pumpTotal', -1, new Float64Array(3)],
    ['pumpStopListening', 64],
    ['pumpLeft', -1],
    ['pumpDialOptions', 1, 2],
    ['pumpDialOptions', 1, 2, Number.NaN],
    ['pumpListen', -1, 'localhost', 80, 1, true],
    ['pumpListen', -1, 'fe80::1%lo', 80, 1, true],
    ['pumpListen', -1, '1'.repeat(60), 80, 1, true],
    ['pumpListen', -1, '', 0, Number.NaN, true],
    ['pumpListen', -1, '', 0, 1],
    ['pumpListen', -1, '', 0, 1, 1],
    ['pumpTakeRoute', 0, ...upstream, 0, 0, 0, 1, 1, true],
  ]
  for (const [name, ...given] of WRONG) {
    t.throws(() => call(name, ...given), TypeError, `${name}(${given.map((it) => String(it).slice(0, 20)).join(', ')})`)
  }
  t.equal(addon.pumpAdd(-1, -1, undefined, undefined, Number.POSITIVE_INFINITY, 1e300), -9, 'EBADF')
  t.equal(addon.pumpListen(-1, '', 0, Number.POSITIVE_INFINITY, false), -9)
  t.equal(addon.pumpTakeEnded(rows, undefined), 0)
  t.end()
})

test('where descriptors run out the plain way has both sockets, and all that was read of them', async (t) => {
  const server = createServer((socket) => socket.write('first')).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const read = async () => {
    const socket = connect(port, '127.0.0.1')
    await once(socket, 'readable')
    return socket
  }
  const [client, upstream] = [await read(), await read()]
  const relayed: Duplex[] = []
  const plain: Relay = async (...ends) => {
    relayed.push(ends[0], ends[1])
    return { sent: 0, received: 0, ended: 'closed' }
  }
  const { pump } = played(t.testdir({ 'addon.cjs': 'module.exports = globalThis.playedAddon' }), plain)
  const count = { sent: 0, received: 0 }
  await pump.relay(client, upstream, { clock: systemClock, idleMs: 0, halfClosedMs: 0, count })
  t.same(relayed, [client, upstream])
  for (const socket of [client, upstream]) {
    t.equal(String(socket.read()), 'first')
    t.notOk(socket.destroyed)
    socket.destroy()
  }
  server.close()
})
