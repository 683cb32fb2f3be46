import { once } from 'node:events'
import { connect } from 'node:net'
import { type Test, test } from 'tap'
import { PING_PATH } from '../../src/callback/wire.ts'
import { HpackDecoder } from '../../src/codec/hpack.ts'
import { FLAG, FRAME } from '../../src/codec/http2Codes.ts'
import { apiSession, ask, callbackHost, type Host, openApp } from '../support/callback.ts'
import { block, frame, settings, settingsAck } from '../support/http2.ts'
import { fetchHttp2, http2Client, type Reply } from '../support/http2Proxy.ts'
import { type ManualClock, manualClock } from '../support/manualClock.ts'

interface Frame {
  readonly type: number
  readonly flags: number
  readonly stream: number
  readonly payload: Buffer
}

/** An app that says nothing by itself: its test writes every frame. */
const rawApp = async (t: Test, host: Host) => {
  const asked = await ask(apiSession(t, host.api))
  const socket = connect({ port: asked.port, host: '127.0.0.1' })
  socket.on('error', () => {})
  t.teardown(() => socket.destroy())
  let isClosed = false
  socket.on('close', () => {
    isClosed = true
  })
  let bytes = Buffer.alloc(0)
  socket.on('data', (chunk: Buffer) => {
    bytes = Buffer.concat([bytes, chunk])
  })
  await once(socket, 'connect')
  const frames = (): Frame[] => {
    const found: Frame[] = []
    for (let at = 24; at + 9 <= bytes.length; ) {
      const end = at + 9 + bytes.readUIntBE(at, 3)
      if (end > bytes.length) break
      const [type, flags] = [bytes[at + 3]!, bytes[at + 4]!]
      found.push({ type, flags, stream: bytes.readUInt32BE(at + 5), payload: bytes.subarray(at + 9, end) })
      at = end
    }
    return found
  }
  const of = (type: number) => frames().filter((it) => it.type === type)
  return { socket, bytes: () => bytes, frames, of, isClosed: () => isClosed }
}

type RawApp = Awaited<ReturnType<typeof rawApp>>

const empty = (stream: number, flags = 0): Buffer => frame(FRAME.data, flags, stream, Buffer.alloc(5))
const answered = (stream: number): Buffer =>
  frame(FRAME.headers, FLAG.endHeaders, stream, block(':status: 200', 'content-type: application/grpc'))
const pong = ({ payload }: Frame): Buffer => frame(FRAME.ping, FLAG.ack, 0, payload)

/** SETTINGS, then the first ping. */
const begin = async (app: RawApp, host: Host): Promise<void> => {
  app.socket.write(Buffer.concat([settings(), settingsAck]))
  await host.until(() => app.of(FRAME.headers).length === 1)
  app.socket.write(Buffer.concat([answered(1), empty(1)]))
  await host.up(1)
}

/** Does it, and waits until the proxy has read what the app says then. */
const heard = async (host: Host, say: () => void): Promise<void> => {
  const [channel] = host.callback.door.channels()
  const before = channel!.reads
  say()
  await host.until(() => channel!.reads > before)
}

const hostWithClock = async (t: Test, section = ''): Promise<{ host: Host; clock: ManualClock }> => {
  const clock = manualClock()
  return { host: await callbackHost(t, { clock, section }), clock }
}

test('the bytes of ConnectAppCallback and of Ping are those of the reference', async (t) => {
  const { host } = await hostWithClock(t)
  const asked = await ask(apiSession(t, host.api))
  // {int32 port = 1}: field 1 as a varint, and nothing else; for port 46021 that is 08 c5 e7 02.
  const { port } = asked
  t.same([...asked.message], [0x08, (port & 127) | 128, ((port >> 7) & 127) | 128, port >> 14])
  t.same([...asked.reply.body.subarray(0, 5)], [0, 0, 0, 0, 4])
  t.match(asked.reply, {
    status: 200,
    headers: { 'content-type': 'application/grpc' },
    trailers: { 'grpc-status': '0' },
  })

  const app = await rawApp(t, host)
  await host.until(() => app.bytes().length >= 24)
  t.equal(app.bytes().subarray(0, 24).toString('latin1'), 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'the proxy is the client')
  t.equal(app.of(FRAME.headers).length, 0, 'no request before the app has spoken HTTP/2')
  app.socket.write(settings())
  await host.until(() => app.of(FRAME.headers).length === 1)
  const [ping] = app.of(FRAME.headers)
  t.match(ping, { stream: 1, flags: FLAG.endHeaders }, 'its half stays open')
  const { payload } = ping!
  const fields = new HpackDecoder({ listBytesMax: 10_000, fieldsMax: 100 }).decode(payload, 0, payload.length)
  t.same(fields, [
    ...[':method', 'POST', ':scheme', 'http', ':authority', 'orders', ':path', PING_PATH],
    ...['content-type', 'application/grpc', 'te', 'trailers'],
  ])
  app.socket.write(Buffer.concat([settingsAck, answered(1), empty(1)]))
  await host.up(1)
  t.same(app.of(FRAME.data), [], 'and the proxy sends no message on it')
})

test('a new channel has 30 s for its first ping, and gets no work before', async (t) => {
  const { host, clock } = await hostWithClock(t)
  const app = await rawApp(t, host)
  app.socket.write(Buffer.concat([settings(), settingsAck]))
  await host.until(() => app.of(FRAME.headers).length === 1)
  // A message that is not whole is no ping.
  app.socket.write(Buffer.concat([answered(1), frame(FRAME.data, 0, 1, Buffer.alloc(4))]))
  for (let second = 0; second < 29; second += 1) {
    clock.advance(1_000)
    for (const it of app.of(FRAME.ping).slice(-1)) app.socket.write(pong(it))
    await new Promise((resolve) => setImmediate(resolve))
  }
  const reply = fetchHttp2(http2Client(t, host.address.port))
  await host.until(() => host.callback.registry.waiting('orders') === 1)
  t.equal(app.of(FRAME.headers).length, 1)
  t.same(host.connects, [])
  clock.advance(1_000)
  t.match(await reply, { status: 503 })
  await host.until(app.isClosed)
  t.same(host.connects, ['orders noFirstPing'])
})

test('an app that does not take Ping gets no work', async (t) => {
  const { host } = await hostWithClock(t)
  const app = await rawApp(t, host)
  app.socket.write(Buffer.concat([settings(), settingsAck]))
  await host.until(() => app.of(FRAME.headers).length === 1)
  const refusal = block(':status: 200', 'content-type: application/grpc', 'grpc-status: 12')
  app.socket.write(frame(FRAME.headers, FLAG.endHeaders | FLAG.endStream, 1, refusal))
  await host.until(app.isClosed)
  t.same(host.connects, ['orders pingRefused'])
})

test('one that accepts and never speaks HTTP/2 is dropped when its time is over', async (t) => {
  const { host, clock } = await hostWithClock(t)
  const app = await rawApp(t, host)
  await host.until(() => app.bytes().length > 24)
  clock.advance(10_000)
  await host.until(app.isClosed)
  t.same(host.connects, ['orders timeout'])
})

test('every 5 s a PING; an app that answers lives, one that does not is gone after the second miss', async (t) => {
  const { host, clock } = await hostWithClock(t)
  const app = await rawApp(t, host)
  await begin(app, host)
  for (let beat = 1; beat <= 5; beat += 1) {
    clock.advance(4_999)
    t.equal(app.of(FRAME.ping).length, beat - 1)
    clock.advance(1)
    await host.until(() => app.of(FRAME.ping).length === beat)
    await heard(host, () => app.socket.write(pong(app.of(FRAME.ping).at(-1)!)))
  }
  const client = http2Client(t, host.address.port)
  const hanging = fetchHttp2(client)
  await host.until(() => app.of(FRAME.headers).length === 2)
  clock.advance(5_000)
  await host.until(() => app.of(FRAME.ping).length === 6)
  clock.advance(5_000)
  await host.until(() => app.of(FRAME.ping).length === 7)
  t.match(host.callback.door.channels(), [{ state: 'up', missed: 1 }])
  clock.advance(5_000)
  t.same(host.ends, ['silent'])
  clock.advance(1_000)
  t.match(await hanging, { status: 503 }, 'it may be repeated, and there is no other channel')
  await host.until(app.isClosed)
})

test('what an app sends counts as an answer, so that a slow link is no dead one', async (t) => {
  const { host, clock } = await hostWithClock(t)
  const app = await rawApp(t, host)
  await begin(app, host)
  for (let beat = 0; beat < 6; beat += 1) {
    await heard(host, () => app.socket.write(empty(1)))
    clock.advance(5_000)
  }
  t.same(host.ends, [])
})

test('the end of a channel fails what is in flight on it at once, and nothing hangs', async (t) => {
  const ways: Readonly<Record<string, (app: Awaited<ReturnType<typeof openApp>>) => void>> = {
    FIN: ({ session }) => session.destroy(),
    RST: ({ socket }) => socket.resetAndDestroy(),
    junk: ({ socket, session }) => {
      session.destroy()
      socket.destroy()
    },
  }
  for (const [way, leave] of Object.entries(ways)) {
    const host = await callbackHost(t, { section: 'wait: 0ms' })
    const begun: string[] = []
    const app = await openApp(t, host, (stream, headers) => {
      begun.push(`${headers[':path']}`)
      if (headers[':path'] === '/half') {
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' })
        stream.write(Buffer.from([0, 0, 0, 0, 0]))
      }
    })
    const client = http2Client(t, host.address.port)
    const grpc = { ':method': 'POST', 'content-type': 'application/grpc' }
    const calls = [
      fetchHttp2(client, { ':path': '/get' }),
      fetchHttp2(client, { ':path': '/post', ':method': 'POST' }, 'body'),
      fetchHttp2(client, { ':path': '/grpc', ...grpc }, Buffer.alloc(5)),
      fetchHttp2(client, { ':path': '/half', ...grpc }, Buffer.alloc(5)),
    ]
    await host.until(() => begun.length === 4)
    leave(app)
    const told = ({ status, headers, trailers }: Reply) => [status, headers['grpc-status'] ?? trailers['grpc-status']]
    t.same(
      (await Promise.all(calls)).map(told),
      [
        [503, undefined],
        [502, undefined],
        [200, '14'],
        [200, '14'],
      ],
      way,
    )
    host.close()
  }
})
