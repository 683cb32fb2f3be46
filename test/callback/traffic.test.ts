import { once } from 'node:events'
import { connect } from 'node:net'
import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js'
import { type Test, test } from 'tap'
import { type AppHandler, apiSession, ask, callbackHost, type Host, openApp } from '../support/callback.ts'
import { grpcApp } from '../support/grpcApp.ts'
import { raw } from '../support/http.ts'
import { fetchHttp2, http2Client } from '../support/http2Proxy.ts'
import { readAll } from '../support/peers.ts'

const same = (bytes: Buffer): Buffer => bytes
const GRPC = { ':method': 'POST', 'content-type': 'application/grpc' }

/** A grpc-js client of Sluice. */
const grpcClient = (t: Test, { address }: Host, options = {}): Client => {
  const client = new Client(`${address.host}:${address.port}`, credentials.createInsecure(), options)
  t.teardown(() => client.close())
  return client
}

const unary = (client: Client, path: string, message: Buffer, options = {}): Promise<Buffer | ServiceError> =>
  new Promise((resolve) => {
    client.makeUnaryRequest(path, same, same, message, new Metadata(), options, (error, value) =>
      resolve(error ?? value!),
    )
  })

const large = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 }

test('a grpc-js app, injected, takes calls of all four kinds from a grpc-js client', async (t) => {
  const host = await callbackHost(t)
  await grpcApp(t, host, large)
  const client = grpcClient(t, host, large)

  t.equal(`${await unary(client, '/test.Echo/Unary', Buffer.from('one'))}`, 'one')
  t.equal(((await unary(client, '/test.Echo/Unary', Buffer.alloc(10 * 1_048_576, 7))) as Buffer).length, 10 * 1_048_576)
  t.match(await unary(client, '/test.Echo/Fails', Buffer.from('x')), {
    code: status.FAILED_PRECONDITION,
    details: 'no, 100 % not',
  })
  t.match(await unary(client, '/test.Echo/Nothing', Buffer.from('x')), { code: status.UNIMPLEMENTED })

  const reading: string[] = []
  const serverStream = client.makeServerStreamRequest('/test.Echo/ServerStream', same, same, Buffer.from('s'))
  for await (const message of serverStream) reading.push(`${message}`)
  t.same(reading, ['s0', 's1', 's2'])

  const clientStream = await new Promise<Buffer>((resolve, reject) => {
    const call = client.makeClientStreamRequest('/test.Echo/ClientStream', same, same, (error, value) =>
      error ? reject(error) : resolve(value!),
    )
    for (const part of ['a', 'b', 'c']) call.write(Buffer.from(part))
    call.end()
  })
  t.equal(`${clientStream}`, 'a,b,c')

  const both = client.makeBidiStreamRequest('/test.Echo/Bidi', same, same)
  const replies: string[] = []
  both.on('data', (message: Buffer) => {
    replies.push(`${message}`)
    if (replies.length < 3) both.write(Buffer.from(`${replies.length}`))
    else both.end()
  })
  both.write(Buffer.from('0'))
  await once(both, 'end')
  t.same(replies, ['0', '1', '2'])
  t.equal(host.callback.door.channels()[0]?.load, 0)
})

test('a message over the limit is RESOURCE_EXHAUSTED, either way, and the channel lives on', async (t) => {
  const host = await callbackHost(t, { section: 'maxMessage: 64KiB' })
  await grpcApp(t, host, large)
  const client = grpcClient(t, host, large)
  const tooLarge = { code: status.RESOURCE_EXHAUSTED, details: /of 70000 bytes, and at most 65536/ }
  t.match(await unary(client, '/test.Echo/Unary', Buffer.alloc(70_000)), tooLarge)
  t.match(await unary(client, '/test.Echo/Large', Buffer.from('70000')), tooLarge)
  const call = client.makeServerStreamRequest('/test.Echo/LargeSecond', same, same, Buffer.from('70000'))
  const read: number[] = []
  call.on('data', (message: Buffer) => read.push(message.length))
  const [error] = await once(call, 'error')
  t.match(error, tooLarge)
  t.same(read, [1])
  t.equal(((await unary(client, '/test.Echo/Unary', Buffer.alloc(60_000))) as Buffer).length, 60_000)
  t.equal(host.callback.registry.list().length, 1)
  t.same(host.ends, [])
})

test('a deadline reaches the app, and is kept for one that does not keep it', async (t) => {
  const host = await callbackHost(t)
  const seen: string[] = []
  const codes: number[] = []
  await openApp(t, host, (stream, headers) => {
    seen.push(`${headers['grpc-timeout']}`)
    stream.on('close', () => codes.push(stream.rstCode ?? -1))
  })
  const client = grpcClient(t, host)
  t.match(await unary(client, '/a.B/C', Buffer.alloc(1), { deadline: Date.now() + 150 }), {
    code: status.DEADLINE_EXCEEDED,
  })
  t.match(seen, [/^\d+m$/])
  await host.until(() => codes.length === 1)
  t.same(codes, [8])

  // A client that says a deadline and does not keep it itself.
  const reply = await fetchHttp2(http2Client(t, host.address.port), { ...GRPC, 'grpc-timeout': '50m' }, Buffer.alloc(5))
  t.match(reply, { status: 200, headers: { 'grpc-status': '4' } })
  await host.until(() => codes.length === 2)
  t.same(codes, [8, 8])
})

test('a call that is cancelled by either side is cancelled for the other, and nothing else is', async (t) => {
  const host = await callbackHost(t)
  const codes: number[] = []
  let begun = 0
  await openApp(t, host, (stream, headers) => {
    begun += 1
    stream.on('close', () => codes.push(stream.rstCode ?? -1))
    if (headers[':path'] === '/reset') stream.close(11)
  })
  const client = http2Client(t, host.address.port)
  const stream = client.request({ ':path': '/wait' })
  stream.on('error', () => {})
  await host.until(() => begun === 1)
  stream.close(8)
  await host.until(() => codes.length === 1)
  t.same(codes, [8])
  t.match(await fetchHttp2(client, { ':path': '/reset' }), { status: 0, code: 11 })
  t.equal(host.callback.registry.list().length, 1)
})

test('a hundred calls at once share one connection, and a channel takes no more than its app allows', async (t) => {
  const host = await callbackHost(t)
  let inFlight = 0
  let most = 0
  const waiting: (() => void)[] = []
  const handler: AppHandler = (stream) => {
    inFlight += 1
    most = Math.max(most, inFlight)
    waiting.push(() => {
      inFlight -= 1
      stream.respond({ ':status': 200 }, { endStream: true })
    })
  }
  const app = await openApp(t, host, handler)
  const calls = (count: number) => {
    const client = http2Client(t, host.address.port)
    return Promise.all(Array.from({ length: count }, () => fetchHttp2(client)))
  }
  const first = calls(100)
  await host.until(() => inFlight === 100)
  t.equal(host.callback.door.channels().length, 1)
  for (const answer of waiting.splice(0)) answer()
  t.ok((await first).every(({ status: code }) => code === 200))
  app.close()

  const small = await callbackHost(t, { section: 'wait: 30s' })
  await openApp(t, small, handler, { settings: { settings: { maxConcurrentStreams: 11 } } as never })
  most = 0
  const client = http2Client(t, small.address.port)
  const second = Promise.all(Array.from({ length: 50 }, () => fetchHttp2(client)))
  await small.until(() => inFlight === 10 && small.callback.registry.waiting('orders') === 40)
  let answered = 0
  while (answered < 50) {
    await small.until(() => waiting.length > 0)
    for (const answer of waiting.splice(0)) {
      answer()
      answered += 1
    }
  }
  t.ok((await second).every(({ status: code }) => code === 200))
  t.equal(most, 10, 'eleven streams, of which Ping is one')
})

test('a slow reader holds up its own call only, and what waits for it is bounded', async (t) => {
  const host = await callbackHost(t)
  let written = 0
  await openApp(t, host, (stream, headers) => {
    stream.respond({ ':status': 200 })
    if (headers[':path'] !== '/slow') return void stream.end('quick')
    const piece = Buffer.alloc(65_536)
    const more = (): void => {
      while (written < 64 * 1_048_576 && !stream.destroyed) {
        written += piece.length
        if (!stream.write(piece)) return void stream.once('drain', more)
      }
      stream.end()
    }
    more()
  })
  const client = http2Client(t, host.address.port)
  const slow = client.request({ ':path': '/slow' })
  slow.on('error', () => {})
  await once(slow, 'response')
  let before = -1
  await host.until(() => {
    const isStill = written === before
    before = written
    return isStill && written > 0
  })
  t.equal((await fetchHttp2(client, { ':path': '/quick' })).body.toString(), 'quick')
  t.ok(written < 8 * 1_048_576, `${written} bytes for a reader that takes none`)
  let read = 0
  for await (const chunk of slow) read += (chunk as Buffer).length
  t.equal(read, 64 * 1_048_576)
})

test('many readers that stall leave room for others on the same channel', async (t) => {
  const host = await callbackHost(t)
  const handler: AppHandler = (stream, headers) => {
    stream.respond({ ':status': 200 })
    stream.end(headers[':path'] === '/slow' ? Buffer.alloc(1_048_576) : 'quick')
  }
  await openApp(t, host, handler, { settings: { maxSessionMemory: 512 } })
  const clients = [http2Client(t, host.address.port), http2Client(t, host.address.port)]
  const slow = clients.flatMap((client) => Array.from({ length: 80 }, () => client.request({ ':path': '/slow' })))
  for (const stream of slow) stream.on('error', () => {})
  await Promise.all(slow.map((stream) => once(stream, 'response')))
  const other = http2Client(t, host.address.port)
  t.equal((await fetchHttp2(other, { ':path': '/quick' })).body.toString(), 'quick')
  t.equal(host.callback.door.channels().length, 1)
  for (const stream of slow) stream.close()
})

test('bytes that are not HTTP go as a CONNECT stream to an app of our SDK, with half-close, and to no other', async (t) => {
  const host = await callbackHost(t)
  const heads: unknown[] = []
  await openApp(t, host, (stream, headers) => {
    heads.push([headers[':method'], headers[':authority'], headers['sluice-destination']])
    stream.respond({ ':status': 200 })
    let said = ''
    stream.on('data', (chunk: Buffer) => {
      said += chunk.toString('latin1')
    })
    stream.on('end', () => stream.end(`you said ${said.length} bytes`))
  })
  const client = await raw(host.address)
  client.socket.end(Buffer.alloc(1_000_000, 1))
  t.match(await client.rest(), 'you said 1000000 bytes')
  t.same(heads, [['CONNECT', 'orders', '192.0.2.1:80']])
  await host.until(() => host.outcomes.some(({ channel }) => channel === 'orders/1'))
  t.match(
    host.outcomes.find(({ channel }) => channel === 'orders/1'),
    { protocols: ['opaque'], ended: 'closed', bytes: { sent: 1_000_000, received: 22 } },
  )

  const plain = await callbackHost(t, { section: 'wait: 0ms' })
  await openApp(t, plain, () => t.fail('it was called'), { isOurs: false })
  const refused = await raw(plain.address)
  refused.send('\x00\x01\x02')
  await t.rejects(readAll(refused.socket), { code: 'ECONNRESET' })
})

test('an app that refuses a CONNECT, or resets it, is what its client sees', async (t) => {
  const host = await callbackHost(t)
  let isRefusing = true
  await openApp(t, host, (stream) => {
    stream.respond({ ':status': isRefusing ? 501 : 200 }, { endStream: isRefusing })
    if (!isRefusing) stream.once('data', () => stream.close(2))
  })
  for (const refusing of [true, false]) {
    isRefusing = refusing
    const client = connect(host.address)
    client.on('error', () => {})
    client.write('\x00\x01\x02')
    client.resume()
    await new Promise((resolve) => client.once('close', resolve))
  }
  await host.until(() => host.outcomes.filter(({ protocols }) => protocols[0] === 'opaque').length === 2)
  t.match(
    host.outcomes
      .filter(({ protocols }) => protocols[0] === 'opaque')
      .map(({ ended, error }) => `${ended} ${error?.code}`),
    ['connectFailed CHANNEL_REFUSED', 'upstreamReset ECONNRESET'],
  )
})

test('a call that names its app by dapr-app-id goes there through the API', async (t) => {
  const host = await callbackHost(t)
  await openApp(
    t,
    host,
    (stream, headers) => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc', 'x-path': `${headers[':path']}` })
      stream.pipe(stream)
    },
    { app: 'billing' },
  )
  const session = apiSession(t, host.api)
  const call = { ...GRPC, ':path': '/billing.V1/Pay', 'dapr-app-id': 'billing' }
  const reply = await fetchHttp2(session, call, Buffer.from('\0\0\0\0\x02hi'))
  t.match(reply, { status: 200, headers: { 'x-path': '/billing.V1/Pay' } })
  t.equal(reply.body.toString(), '\0\0\0\0\x02hi')
  t.match(await ask(session, { 'dapr-app-id': 'nobody' }, '/billing.V1/Pay'), { status: 14 })
  t.match(await ask(session, { 'dapr-app-id': 'no/body' }, '/billing.V1/Pay'), { status: 12 })
})
