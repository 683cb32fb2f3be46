import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdirSync, readlinkSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { type Duplex, duplexPair } from 'node:stream'
import { test } from 'tap'
import { systemClock } from '../../src/net/clock.ts'
import { dialWithin, tcpDialer } from '../../src/net/dial.ts'
import { relay, reset } from '../../src/net/relay.ts'
import type { Ending, Traffic } from '../../src/net/traffic.ts'
import { manualClock } from '../support/manualClock.ts'

interface Pair {
  /** The program that called, and the one that was called. */
  readonly client: Socket
  readonly server: Socket
  /** Resolves when the relay between them is over. */
  readonly traffic: Promise<Traffic>
  readonly close: (why: Ending) => void
}

/** Two real connections with a relay between them, on loopback. */
const pair = async (
  limits: { idleMs?: number; halfClosedMs?: number; clock?: typeof systemClock } = {},
): Promise<Pair> => {
  const front = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  const back = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  await Promise.all([once(front, 'listening'), once(back, 'listening')])
  const portOf = (server: typeof front) => (server.address() as { port: number }).port
  const client = connect({ port: portOf(front), host: '127.0.0.1', allowHalfOpen: true })
  const [[accepted], upstream, [server]] = await Promise.all([
    once(front, 'connection') as Promise<[Socket]>,
    tcpDialer()({ host: '127.0.0.1', port: portOf(back) }) as Promise<Duplex>,
    once(back, 'connection') as Promise<[Socket]>,
  ])
  front.close()
  back.close()
  for (const socket of [client, accepted, server]) socket.on('error', () => {})
  let close: (why: Ending) => void = () => {}
  const traffic = relay(accepted, upstream, {
    clock: limits.clock ?? systemClock,
    idleMs: limits.idleMs ?? 60_000,
    halfClosedMs: limits.halfClosedMs ?? 60_000,
    count: { sent: 0, received: 0 },
    onCloser: (closer) => (close = closer),
  })
  return { client, server, traffic, close: (why) => close(why) }
}

const read = async (socket: Socket): Promise<string> => {
  const chunks: Buffer[] = []
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString('latin1')
}

test('a client that has said goodbye still gets its answer, and the other way round', async () => {
  const { client, server, traffic } = await pair()
  client.end('question')
  assert.equal(await read(server), 'question')
  server.write('ans')
  server.end('wer')
  assert.equal(await read(client), 'answer')
  assert.deepEqual(await traffic, { sent: 8, received: 6, ended: 'closed' })

  const other = await pair()
  other.server.end('greeting')
  assert.equal(await read(other.client), 'greeting')
  other.client.end('late words')
  assert.equal(await read(other.server), 'late words')
  assert.deepEqual(await other.traffic, { sent: 10, received: 8, ended: 'closed' })
})

test('a reset is passed on as a reset, in both directions', async () => {
  const first = await pair()
  first.client.resetAndDestroy()
  const [atServer] = await once(first.server, 'error')
  assert.equal(atServer.code, 'ECONNRESET')
  assert.equal((await first.traffic).ended, 'clientReset')

  const second = await pair()
  second.client.resume()
  second.server.resetAndDestroy()
  const [atClient] = await once(second.client, 'error')
  assert.equal(atClient.code, 'ECONNRESET')
  const traffic = await second.traffic
  assert.equal(traffic.ended, 'upstreamReset')
  assert.equal(traffic.error?.code, 'ECONNRESET')
})

/** The descriptors of sockets that this process holds. */
const socketsHeld = (): readonly string[] =>
  readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`)
      return target.startsWith('socket:') ? [target] : []
    } catch {
      return [] // that of the listing itself
    }
  })

test('a connection that is reset just as it says goodbye leaves no descriptor behind', async () => {
  const before = new Set(socketsHeld())
  const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connect({ port: (server.address() as { port: number }).port, host: '127.0.0.1', allowHalfOpen: true })
  const [socket] = (await once(server, 'connection')) as [Socket]
  for (const each of [client, socket]) each.on('error', () => {})
  const closed = [client, socket, server].map((each) => once(each, 'close'))
  client.write('nobody reads this')
  socket.end()
  await new Promise(process.nextTick) // the shutdown is under way now
  assert.ok(socket.writableEnded && !socket.writableFinished)
  reset(socket)
  client.destroy()
  server.close()
  await Promise.all(closed)
  assert.deepEqual(
    socketsHeld().filter((each) => !before.has(each)),
    [],
  )
})

test('nothing is lost when one side closes right after writing, whatever the other one still sends', async () => {
  const body = Buffer.alloc(4 << 20, 'x')
  const { client, server, traffic } = await pair()
  client.on('data', () => {})
  let received = 0
  client.on('data', (chunk: Buffer) => (received += chunk.length))
  const ended = once(client, 'end')
  server.end(body)
  await ended
  assert.equal(received, body.length)
  client.end()
  server.resume()
  assert.deepEqual(await traffic, { sent: 0, received: body.length, ended: 'closed' })
})

test('a slow reader stops the sender: what is held is bounded', async () => {
  const { client, server, traffic, close } = await pair()
  client.pause()
  const block = Buffer.alloc(1 << 20)
  let written = 0
  let stalled = false
  // Socket buffers take some MiB; what a relay without back-pressure would take has no end.
  while (!stalled && written < 256) {
    const flushed =
      server.write(block) || (await Promise.race([once(server, 'drain'), turns(200).then(() => 'stalled')]))
    stalled = flushed === 'stalled'
    written += 1
  }
  assert.ok(stalled, `the sender was never stopped, and ${written} MiB were taken`)
  const [told, cut] = [once(client, 'error'), once(server, 'error')]
  close('drained')
  assert.equal((await traffic).ended, 'drained')
  client.resume()
  assert.equal((await told)[0].code, 'ECONNRESET', 'a reader that is cut off must not take what it has for whole')
  assert.equal((await cut)[0].code, 'ECONNRESET')
})

test('idle and half-closed connections end when their time is over, and not before', async () => {
  const clock = manualClock()
  const idle = await pair({ clock, idleMs: 1000 })
  clock.advance(999)
  idle.client.write('x')
  await once(idle.server, 'data')
  clock.advance(999)
  assert.equal(await settledNow(idle.traffic), undefined)
  clock.advance(1)
  assert.equal((await idle.traffic).ended, 'idleTimeout')

  const half = await pair({ clock, idleMs: 100_000, halfClosedMs: 1000 })
  half.client.end()
  half.server.resume()
  await once(half.server, 'end')
  clock.advance(999)
  half.server.write('still talking')
  await once(half.client, 'data')
  clock.advance(999)
  assert.equal(await settledNow(half.traffic), undefined)
  clock.advance(1)
  assert.equal((await half.traffic).ended, 'halfClosedTimeout')
})

test('a client that was gone before the relay began ends it at once', async () => {
  const gone = connect({ port: 1, host: '127.0.0.1' })
  gone.on('error', () => {})
  gone.destroy()
  const { client } = await pair()
  const traffic = await relay(gone, client, {
    clock: systemClock,
    idleMs: 1000,
    halfClosedMs: 1000,
    count: { sent: 0, received: 0 },
  })
  assert.equal(traffic.ended, 'clientReset')
  assert.ok(client.destroyed)
})

test('a goodbye that was heard before the relay began is passed on, and the answer still comes', async () => {
  const [client, accepted] = duplexPair()
  const [upstream, server] = duplexPair()
  client.end()
  accepted.resume()
  await once(accepted, 'end')
  const traffic = relay(accepted, upstream, {
    clock: manualClock(),
    idleMs: 60_000,
    halfClosedMs: 60_000,
    count: { sent: 0, received: 0 },
  })
  server.resume()
  await once(server, 'end')
  server.end('greeting')
  client.resume()
  assert.deepEqual(await traffic, { sent: 0, received: 8, ended: 'closed' })
})

test('a dial that nobody answers is given up in time, and one that is refused says so', async () => {
  const clock = manualClock()
  const never = dialWithin(
    (_to, signal) => new Promise((_resolve, reject) => signal?.addEventListener('abort', reject)),
    { host: '192.0.2.1', port: 1 },
    300,
    clock,
  )
  clock.advance(300)
  await assert.rejects(never, { code: 'CONNECT_TIMEOUT' })

  const closed = createServer().listen(0, '127.0.0.1')
  await once(closed, 'listening')
  const { port } = closed.address() as { port: number }
  closed.close()
  await assert.rejects(dialWithin(tcpDialer(), { host: '127.0.0.1', port }, 1000, systemClock), {
    code: 'ECONNREFUSED',
  })
})

const turns = async (count: number): Promise<void> => {
  for (let turn = 0; turn < count; turn++) await new Promise(setImmediate)
}

const settledNow = async (traffic: Promise<Traffic>): Promise<Traffic | undefined> => {
  await turns(5)
  return Promise.race([traffic, Promise.resolve(undefined)])
}
