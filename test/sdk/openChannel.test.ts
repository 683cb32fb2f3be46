import { EventEmitter, once } from 'node:events'
import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { type Test, test } from 'tap'
import type { Opened } from '../../src/sdk/keepChannel.ts'
import { type Opening, openChannel } from '../../src/sdk/openChannel.ts'
import { reachProxy } from '../../src/sdk/reachProxy.ts'
import type { Handle } from '../../src/sdk/serveChannel.ts'
import { TIMING } from '../../src/sdk/timing.ts'
import { type CallbackPeer, openCallbackPeer } from '../support/callbackPeer.ts'
import { manualClock } from '../support/manualClock.ts'

/** The deadlines and periods of one channel, with real connections and a clock that moves only when it is told to. */

const settled = () => new Promise((resolve) => setImmediate(resolve))
const NEVER = new AbortController().signal
const HANDLE: Handle = {
  call: ({ stream }) => stream.respond({ ':status': 204 }, { endStream: true }),
  extendedConnect: false,
}

/** Lets the loop turn until the condition holds. */
const until = async (holds: () => boolean): Promise<void> => {
  while (!holds()) await settled()
}

const opened = async (port: number, signal = NEVER, opening: Partial<Opening> = {}) => {
  const clock = manualClock()
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  await once(socket, 'connect')
  const reached = { socket, wasAway: false, gone: once(socket, 'close'), discard: () => socket.destroy() }
  const result = openChannel(
    reached,
    {
      ...{ proxy: { host: '127.0.0.1', port }, token: () => undefined, handle: HANDLE, clock, timing: TIMING },
      ...opening,
    },
    signal,
  )
  let answer: Opened | undefined
  void result.then((value) => {
    answer = value
  })
  return { clock, socket, result, answer: () => answer }
}

/** A peer of the test, and a server that accepts and says nothing. */
const peerOf = async (t: Test, options: Parameters<typeof openCallbackPeer>[0] = {}): Promise<CallbackPeer> => {
  const peer = await openCallbackPeer(options)
  t.teardown(peer.close)
  return peer
}

const silent = async (t: Test): Promise<{ port: number; server: Server; sockets: Socket[] }> => {
  const sockets: Socket[] = []
  const server = createServer((socket) => {
    socket.on('error', () => {})
    sockets.push(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return { port: (server.address() as AddressInfo).port, server, sockets }
}

test('a proxy that accepts and says nothing is given up after ten seconds, and needs no backoff', async (t) => {
  const { port } = await silent(t)
  const { clock, socket, result, answer } = await opened(port)
  clock.advance(9_999)
  await settled()
  t.equal(answer(), undefined)
  clock.advance(1)
  t.match(await result, { is: 'failed', because: 'the proxy does not answer', isSilent: true })
  t.ok(socket.destroyed)
  await until(() => clock.pending() === 0)
})

test('a proxy that answers no is told apart from one that is silent', async (t) => {
  const peer = await peerOf(t, {
    refuse: (stream) => {
      stream.respond({ ':status': 200, 'grpc-status': '16' }, { endStream: true })
      return true
    },
  })
  const { result, clock, socket } = await opened(peer.port)
  t.match(await result, { is: 'failed', isSilent: false })
  t.ok(socket.destroyed)
  await until(() => clock.pending() === 0)
})

test('a channel on which nobody speaks is given up after thirty seconds', async (t) => {
  const { port } = await silent(t)
  const peer = await peerOf(t, {
    refuse: (stream: ServerHttp2Stream) => {
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
      stream.respond({ ':status': 200 }, { waitForTrailers: true })
      stream.end(Buffer.from([0, 0, 0, 0, 4, 8, (port & 127) | 128, ((port >> 7) & 127) | 128, port >> 14]))
      return true
    },
  })
  const { clock, socket, result, answer } = await opened(peer.port)
  await until(() => socket.destroyed) // the asking is over; the channel is dialled and waits
  await settled()
  clock.advance(29_999)
  for (let turn = 0; turn < 10; turn++) await settled()
  t.equal(answer(), undefined)
  clock.advance(1)
  t.match(await result, { is: 'failed', because: 'the proxy did not open Ping on the channel', isSilent: true })
  await until(() => clock.pending() === 0)
})

test('Ping: an Empty at once, and one every five seconds', async (t) => {
  const peer = await peerOf(t)
  const next = peer.next()
  let session: ServerHttp2Session | undefined
  const handle: Handle = {
    ...HANDLE,
    opened: (given) => {
      session = given
    },
  }
  const { clock, result } = await opened(peer.port, NEVER, { handle })
  const channel = await next
  const opening = await result
  if (opening.is !== 'channel') return t.fail(JSON.stringify(opening))
  const received = () => Buffer.concat(channel.pings).length / 5
  t.equal(received(), 1)
  for (let period = 2; period <= 5; period++) {
    clock.advance(4_999)
    await settled()
    t.equal(received(), period - 1)
    const before = session!.socket.bytesRead
    clock.advance(1)
    await until(() => received() === period && session!.socket.bytesRead > before) // the PING is answered too
  }
  opening.channel.leave()
  await opening.channel.ended
  t.equal(clock.pending(), 0)
})

test('a token function that fails is a failure of the try, not of the program', async (t) => {
  const peer = await peerOf(t)
  const token = () => Promise.reject(new Error('the vault is closed'))
  const { result } = await opened(peer.port, NEVER, { token })
  t.match(await result, { is: 'failed', because: 'the token cannot be had: the vault is closed', isSilent: false })
  t.equal(peer.asked.length, 0)
})

test('told to stop, an opening ends at once', async (t) => {
  const { port } = await silent(t)
  const stop = new AbortController()
  const { result, socket, clock } = await opened(port, stop.signal)
  stop.abort()
  t.match(await result, { is: 'failed' })
  t.ok(socket.destroyed)
  await until(() => clock.pending() === 0)
})

/** A socket that connects or fails when the test says so. */
class FakeSocket extends EventEmitter {
  destroyed = false
  destroy(): this {
    if (!this.destroyed) process.nextTick(() => this.emit('close'))
    this.destroyed = true
    return this
  }
  refuse(): void {
    this.emit('error', new Error('ECONNREFUSED'))
    this.destroy()
  }
}

const reaching = () => {
  const clock = manualClock()
  const sockets: FakeSocket[] = []
  const stop = new AbortController()
  const result = reachProxy(
    { host: 'proxy', port: 1 },
    {
      clock,
      random: () => 0.5,
      timing: TIMING,
      connect: () => {
        sockets.push(new FakeSocket())
        return sockets.at(-1) as never
      },
    },
    stop.signal,
  )
  return { clock, sockets, stop, result, open: () => sockets.filter(({ destroyed }) => !destroyed).length }
}

test('a proxy that is away is tried every 400 ms, for ever', async (t) => {
  const { clock, sockets, result } = reaching()
  for (let tries = 1; tries <= 100; tries++) {
    t.equal(sockets.length, tries)
    sockets.at(-1)!.refuse()
    await settled()
    clock.advance(399)
    t.equal(sockets.length, tries)
    clock.advance(1)
  }
  sockets.at(-1)!.emit('connect')
  t.match(await result, { wasAway: true })
  t.equal(clock.pending(), 0)
})

test('where SYNs are lost there are five attempts side by side, each for two seconds; the first to connect wins', async (t) => {
  const { clock, sockets, result, open } = reaching()
  clock.advance(60_000)
  await settled()
  t.equal(sockets.length, 151)
  t.ok(open() <= 5 && open() >= 4)
  const winner = sockets.at(-3)!
  winner.emit('connect')
  const reached = await result
  t.equal(reached?.socket as never, winner)
  t.ok(reached?.wasAway)
  t.equal(open(), 1, 'the others are closed')
  await settled()
  t.equal(clock.pending(), 0)
})

test('a proxy that is slow, not away, does not count as away; and the wait ends with its signal', async (t) => {
  const slow = reaching()
  slow.clock.advance(1_500)
  slow.sockets[0]!.emit('connect')
  t.match(await slow.result, { wasAway: false })

  const stopped = reaching()
  stopped.clock.advance(1_500)
  stopped.stop.abort()
  t.equal(await stopped.result, undefined)
  t.equal(stopped.open(), 0)
})
