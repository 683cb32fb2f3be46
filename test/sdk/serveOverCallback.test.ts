import { EventEmitter, once } from 'node:events'
import { createServer as createHttpServer, type IncomingMessage } from 'node:http'
import { createServer as createHttp2Server, type ServerHttp2Stream } from 'node:http2'
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net'
import { type Duplex, duplexPair } from 'node:stream'
import { createServer as createTlsServer, type TLSSocket } from 'node:tls'
import * as grpc from '@grpc/grpc-js'
import { type Test, test } from 'tap'
import { WebSocketServer } from 'ws'
import {
  type CallbackOptions,
  type CallbackServer,
  type ChannelState,
  serveOverCallback,
} from '../../src/sdk/serveOverCallback.ts'
import {
  type CallbackPeer,
  openCallbackPeer,
  type PeerChannel,
  type PeerOptions,
  refuseWith,
  replyOf,
} from '../support/callbackPeer.ts'
import { openWorkshop } from '../support/certificates.ts'

const QUICK = { probeMs: 50, backoffFirstMs: 1, backoffMaxMs: 20 }

/** An app and its peer, connected; both are closed at the end of the test. */
const connected = async (
  t: Test,
  options: Omit<CallbackOptions, 'proxy'>,
  peerOptions?: PeerOptions,
): Promise<{ peer: CallbackPeer; app: CallbackServer; channel: PeerChannel; states: ChannelState[] }> => {
  const peer = await openCallbackPeer(peerOptions)
  const next = peer.next()
  const app = serveOverCallback({ proxy: peer.address, signals: [], timing: QUICK, ...options })
  const states: ChannelState[] = []
  app.on('state', (state) => states.push(state))
  t.teardown(async () => {
    const closed = app.close()
    await peer.close()
    await closed
  })
  if (app.state.is !== 'up') await until(app, 'up')
  return { peer, app, channel: await next, states }
}

const until = async (app: CallbackServer, is: ChannelState['is'], count = 1): Promise<ChannelState> => {
  let left = count
  for (;;) {
    const [state] = await once(app as EventEmitter, 'state')
    if (state.is === is && --left === 0) return state
  }
}

const text = (body: Buffer): string => body.toString()

/** An app as Express would see it: what came, as JSON. */
const echo = createHttpServer(async (request, response) => {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk)
  const { method, url, headers, rawTrailers, rawHeaders } = request
  response.setHeader('set-cookie', ['a=1', 'b=2'])
  response.end(JSON.stringify({ method, url, headers, rawHeaders, rawTrailers, bytes: Buffer.concat(chunks).length }))
})

test('ConnectAppCallback and Ping have the bytes of the reference', async (t) => {
  const { peer, channel } = await connected(t, { server: echo, appId: 'shop', token: 'secret' })
  t.match(peer.asked, [
    {
      path: '/dapr.proto.runtime.v1.DaprAppChannel/ConnectAppCallback',
      headers: {
        ':method': 'POST',
        'content-type': 'application/grpc',
        te: 'trailers',
        'dapr-api-token': 'secret',
        'sluice-app-id': 'shop',
        'sluice-callback': '1',
      },
    },
  ])
  t.equal(peer.asked[0]?.body.toString('hex'), '0000000000')
  t.equal(channel.preamble.subarray(0, 8).toString(), 'SLUICECB')
  t.equal(channel.pings[0]?.toString('hex'), '0000000000', 'one Empty at once')
})

test('Ping ends with grpc-status 0, and its end brings a new channel', async (t) => {
  const { peer, channel, app } = await connected(t, { server: echo })
  const trailers = once(channel.ping, 'trailers')
  const next = peer.next()
  const replacing = until(app, 'replacing')
  channel.ping.end()
  t.equal((await trailers)[0]['grpc-status'], '0')
  t.match(await replacing, { is: 'replacing', because: 'the proxy ended Ping' })
  const second = await next
  t.equal((await second.call({ ':path': '/' })).status, 200)
})

test('an Empty comes each period, and PINGs of HTTP/2 too', async (t) => {
  const { channel } = await connected(t, { server: echo, timing: { ...QUICK, pingMs: 20 } })
  const pings = new EventEmitter()
  channel.session.on('ping', () => pings.emit('ping'))
  await Promise.all([once(channel.ping, 'data'), once(pings, 'ping')])
  await Promise.all([once(channel.ping, 'data'), once(pings, 'ping')])
  t.ok(channel.pings.every((bytes) => bytes.every((byte) => byte === 0) && bytes.length % 5 === 0))
})

test('a proxy that knows only the older name is asked by that name', async (t) => {
  const refuse: PeerOptions['refuse'] = (stream, headers) => {
    const isUnknown = headers[':path']!.includes('DaprAppChannel/')
    if (isUnknown) refuseWith(stream, 12)
    return isUnknown
  }
  const { peer, channel } = await connected(t, { server: echo }, { refuse, withNonce: false })
  t.same(
    peer.asked.map(({ path }) => path.split('.').at(-1)),
    ['v1/', 'v1/'].map((_, i) => `v1.${i === 0 ? 'DaprAppChannel' : 'Dapr'}/ConnectAppCallback`.slice(3)),
  )
  t.equal(channel.preamble.length, 0, 'no nonce was given, and nothing is written before HTTP/2')
})

test('node:http: requests, bodies, cookies, trailers, HEAD', async (t) => {
  const { channel } = await connected(t, { server: echo })
  const got = await channel.call({
    ':path': '/a?b=c',
    ':authority': 'shop.example',
    cookie: ['x=1', 'y=2'],
    'x-twice': ['1', '2'],
    te: 'trailers',
  })
  const seen = JSON.parse(text(got.body))
  t.match(seen, { method: 'GET', url: '/a?b=c', bytes: 0, headers: { host: 'shop.example', cookie: 'x=1; y=2' } })
  t.equal(seen.headers['x-twice'], '1, 2')
  t.equal(seen.headers['transfer-encoding'], undefined)
  t.same(got.headers['set-cookie'], ['a=1', 'b=2'])
  t.equal(got.headers.connection, undefined)
  t.equal(got.headers['keep-alive'], undefined)

  const posted = await channel.call({ ':path': '/', ':method': 'POST', 'content-length': 5 }, 'hello')
  t.match(JSON.parse(text(posted.body)), { method: 'POST', bytes: 5, headers: { 'content-length': '5' } })
  const big = await channel.call({ ':path': '/', ':method': 'PUT' }, Buffer.alloc(10 * 2 ** 20))
  t.match(JSON.parse(text(big.body)), { bytes: 10 * 2 ** 20, headers: { 'transfer-encoding': 'chunked' } })

  const trailing = channel.session.request({ ':path': '/', ':method': 'POST' }, { waitForTrailers: true })
  trailing.on('wantTrailers', () => trailing.sendTrailers({ 'x-sum': '42' }))
  trailing.end('with trailers')
  t.same(JSON.parse(text((await replyOf(trailing)).body)).rawTrailers, ['x-sum', '42'])

  const head = await channel.call({ ':path': '/', ':method': 'HEAD' })
  t.same([head.status, head.body.length], [200, 0])
  t.equal(head.headers['set-cookie']?.length, 2)
})

test('node:http: answers of every kind', async (t) => {
  const requests = new EventEmitter()
  const server = createHttpServer((request, response) => {
    requests.emit('request', request)
    const answers: Record<string, () => void> = {
      '/trailers': () => {
        response.writeHead(200, {
          trailer: 'x-sum',
          'keep-alive': 'timeout=5',
          connection: 'x-private',
          'x-private': '1',
        })
        response.write('body')
        response.addTrailers({ 'x-sum': '7' })
        response.end()
      },
      '/hints': () => {
        response.writeEarlyHints({ link: '</a.css>; rel=preload' })
        response.end('hinted')
      },
      '/none': () => response.writeHead(204).end(),
      '/unmodified': () => response.writeHead(304, { etag: '"1"' }).end(),
      '/twice': () => {
        response.setHeader('x-a', ['1', '2'])
        response.writeHead(200, ['date', 'one', 'date', 'two', 'vary', 'a', 'vary', 'b'])
        response.end()
      },
      '/cut': () => {
        response.writeHead(200, { 'content-length': '100' })
        response.write('ten bytes!', () => response.destroy())
      },
      '/cut-chunks': () => void response.write('ten bytes!', () => response.destroy()),
      '/early': () => response.writeHead(413).end('too long'),
      '/destroy': () => void request.socket.destroy(),
      '/slow': () => void response.write('first'),
    }
    answers[request.url!]?.()
  })
  const { channel } = await connected(t, { server })
  const get = (path: string) => channel.call({ ':path': path })
  t.match(await get('/trailers'), { status: 200, trailers: { 'x-sum': '7' }, body: Buffer.from('body') })
  t.equal((await get('/trailers')).headers['x-private'], undefined, 'named by Connection')
  const hinted = channel.session.request({ ':path': '/hints' })
  const [[hints], { body }] = await Promise.all([once(hinted, 'headers'), replyOf(hinted)])
  t.match([hints[':status'], hints.link, text(body)], [103, '</a.css>; rel=preload', 'hinted'])
  t.match(await get('/none'), { status: 204 })
  t.match(await get('/unmodified'), { status: 304, headers: { etag: '"1"' } })
  t.match(await get('/twice'), { headers: { date: 'one', vary: 'a, b' } })
  await t.rejects(get('/cut'), /NGHTTP2_PROTOCOL_ERROR/, 'an answer cut short is no answer')
  await t.rejects(get('/cut-chunks'), /NGHTTP2_INTERNAL_ERROR/, 'nor one without a length')
  t.match(await get('/destroy'), { status: 502, body: /the app does not answer/ })

  const early = channel.session.request({ ':path': '/early', ':method': 'POST' })
  early.on('error', () => {})
  early.write('the beginning')
  t.match(await replyOf(early), { status: 413, body: Buffer.from('too long') })

  const abandoned = channel.session.request({ ':path': '/slow' })
  abandoned.on('error', () => {})
  const [request] = (await once(requests, 'request')) as [IncomingMessage]
  await once(abandoned, 'data')
  abandoned.close(8)
  await once(request.socket, 'close')
  t.pass('the app learns that its caller has gone')
})

test('node:http: a WebSocket comes as extended CONNECT', async (t) => {
  const server = createHttpServer()
  const sockets = new WebSocketServer({ server })
  sockets.on('connection', (socket) => socket.on('message', (bytes) => socket.send(`you said ${bytes}`)))
  const { channel } = await connected(t, { server })
  const stream = channel.session.request({
    ':method': 'CONNECT',
    ':protocol': 'websocket',
    ':path': '/live',
    ':authority': 'shop',
    'sec-websocket-version': '13',
  })
  const [headers] = await once(stream, 'response')
  t.equal(headers[':status'], 200)
  t.equal(headers['sec-websocket-accept'], undefined)
  stream.write(Buffer.from('818400000000', 'hex'))
  stream.write('ping')
  const [frame] = await once(stream, 'data')
  t.equal(frame.subarray(2).toString(), 'you said ping')
  const closed = once(stream, 'close')
  stream.end(Buffer.from('888000000000', 'hex'))
  stream.resume()
  await closed
})

test('node:http: an upgrade that the app declines is an answer', async (t) => {
  const { channel } = await connected(t, { server: echo })
  const stream = channel.session.request({
    ':method': 'CONNECT',
    ':protocol': 'chat',
    ':path': '/',
    ':authority': 'shop',
  })
  t.match(JSON.parse(text((await replyOf(stream)).body)), { method: 'GET', headers: { upgrade: 'chat' } })
})

test('node:http2: streams and requests are the server’s own', async (t) => {
  const compatible = createHttp2Server((request, response) => {
    let bytes = 0
    request.on('data', (chunk: Buffer) => (bytes += chunk.length))
    request.on('end', () => {
      response.setHeader('x-sum', '1')
      response.stream.on('wantTrailers', () => {})
      response.addTrailers({ 'x-after': 'yes' })
      response.end(`${request.method} ${request.authority} ${request.url} ${bytes}`)
    })
  })
  const first = await connected(t, { server: compatible })
  const reply = await first.channel.call(
    { ':path': '/x', ':method': 'POST', ':authority': 'shop' },
    Buffer.alloc(70_000),
  )
  t.match(reply, { status: 200, headers: { 'x-sum': '1' }, trailers: { 'x-after': 'yes' } })
  t.equal(text(reply.body), 'POST shop /x 70000')

  const streaming = createHttp2Server()
  streaming.on('stream', (stream: ServerHttp2Stream) => {
    stream.respond({ ':status': 200 })
    stream.pipe(stream)
  })
  const second = await connected(t, { server: streaming })
  const echoed = await second.channel.call({ ':path': '/', ':method': 'POST' }, Buffer.alloc(10 * 2 ** 20, 7))
  t.ok(echoed.body.equals(Buffer.alloc(10 * 2 ** 20, 7)))
  const deaf = await connected(t, { server: createHttp2Server() })
  t.equal((await deaf.channel.call({ ':path': '/' })).status, 501, 'nobody listens for streams')
})

const bytes = (value: Buffer) => value
const grpcApp = (): grpc.Server => {
  const server = new grpc.Server({ 'grpc.max_receive_message_length': -1 })
  const method = (name: string, requestStream: boolean, responseStream: boolean) => ({
    path: `/test.Echo/${name}`,
    requestStream,
    responseStream,
    requestSerialize: bytes,
    requestDeserialize: bytes,
    responseSerialize: bytes,
    responseDeserialize: bytes,
  })
  server.addService(
    {
      Unary: method('Unary', false, false),
      Collect: method('Collect', true, false),
      Repeat: method('Repeat', false, true),
      Chat: method('Chat', true, true),
      Fail: method('Fail', false, false),
    },
    {
      Unary: (call: grpc.ServerUnaryCall<Buffer, Buffer>, done: grpc.sendUnaryData<Buffer>) => {
        const trailers = new grpc.Metadata()
        trailers.set('x-token', `${call.metadata.get('dapr-api-token')}`)
        done(null, call.request, trailers)
      },
      Collect: (call: grpc.ServerReadableStream<Buffer, Buffer>, done: grpc.sendUnaryData<Buffer>) => {
        let sum = 0
        call.on('data', (message: Buffer) => (sum += message.length))
        call.on('end', () => done(null, Buffer.from(`${sum}`)))
      },
      Repeat: (call: grpc.ServerWritableStream<Buffer, Buffer>) => {
        for (let i = 0; i < 5; i++) call.write(call.request)
        call.end()
      },
      Chat: (call: grpc.ServerDuplexStream<Buffer, Buffer>) => {
        call.on('data', (message: Buffer) => call.write(message))
        call.on('end', () => call.end())
      },
      Fail: (_: unknown, done: grpc.sendUnaryData<Buffer>) => done({ code: 5, details: 'no such thing' }),
    } as never,
  )
  return server
}

const framed = (message: Buffer): Buffer => {
  const head = Buffer.alloc(5)
  head.writeUInt32BE(message.length, 1)
  return Buffer.concat([head, message])
}

test('grpc-js: calls of all four kinds, errors, 10 MiB messages, and 100 calls at once on one connection', async (t) => {
  const server = grpcApp()
  const injector = server.createConnectionInjector(grpc.ServerCredentials.createInsecure())
  t.teardown(() => {
    injector.destroy()
    server.forceShutdown()
  })
  const { channel } = await connected(t, { server: injector })
  const call = (method: string, ...messages: Buffer[]) =>
    channel.call(
      {
        ':path': `/test.Echo/${method}`,
        ':method': 'POST',
        'content-type': 'application/grpc',
        te: 'trailers',
        'dapr-api-token': 'x',
      },
      Buffer.concat(messages.map(framed)),
    )
  const big = Buffer.alloc(10 * 2 ** 20, 3)
  t.match(await call('Unary', Buffer.from('hi')), {
    status: 200,
    body: framed(Buffer.from('hi')),
    trailers: { 'grpc-status': '0', 'x-token': 'x' },
  })
  t.ok((await call('Unary', big)).body.equals(framed(big)))
  t.match((await call('Collect', big, Buffer.from('abc'))).body, framed(Buffer.from(`${big.length + 3}`)))
  t.equal((await call('Repeat', Buffer.from('again'))).body.length, 5 * 10)
  t.equal((await call('Chat', Buffer.from('a'), Buffer.from('b'))).body.length, 12)
  const failed = await call('Fail', Buffer.alloc(0))
  t.same(
    [
      { ...failed.headers, ...failed.trailers }['grpc-status'],
      { ...failed.headers, ...failed.trailers }['grpc-message'],
    ],
    ['5', 'no%20such%20thing'],
  )
  const unknown = await call('Nothing', Buffer.alloc(0))
  t.equal({ ...unknown.headers, ...unknown.trailers }['grpc-status'], '12')
  const many = await Promise.all(Array.from({ length: 100 }, (_, i) => call('Unary', Buffer.from(`${i}`))))
  t.ok(many.every(({ body }, i) => body.equals(framed(Buffer.from(`${i}`)))))
})

test('a local app of HTTP/1.1 or h2c: called at its port; 503 while it does not listen', async (t) => {
  const local = createHttpServer((request, response) => response.end(`${request.method} ${request.url}`))
  local.listen(0, '127.0.0.1')
  await once(local, 'listening')
  const { port } = local.address() as AddressInfo
  const { channel } = await connected(t, { server: { port, protocol: 'http' }, tcp: { port } })
  const replies = await Promise.all(Array.from({ length: 100 }, (_, i) => channel.call({ ':path': `/${i}` })))
  t.ok(replies.every(({ status, body }, i) => status === 200 && text(body) === `GET /${i}`))
  const tunnel = channel.session.request({ ':method': 'CONNECT', ':authority': 'anything:1' })
  tunnel.end('GET /raw HTTP/1.0\r\n\r\n')
  t.match(text((await replyOf(tunnel)).body), /^HTTP\/1.1 200 OK[\s\S]*GET \/raw$/)

  local.closeAllConnections()
  await new Promise((resolve) => local.close(resolve))
  t.match(await channel.call({ ':path': '/' }), {
    status: 503,
    body: new RegExp(`the app at 127.0.0.1:${port} does not answer`),
  })
  const refused = channel.session.request({ ':method': 'CONNECT', ':authority': 'anything:1' })
  t.match(await replyOf(refused), { status: 503 })

  const h2c = createHttp2Server((request, response) => response.end(`h2c ${request.url}`))
  h2c.listen(0, '127.0.0.1')
  await once(h2c, 'listening')
  const at = (h2c.address() as AddressInfo).port
  const second = await connected(t, { server: { port: at, protocol: 'h2c' } })
  t.equal(text((await second.channel.call({ ':path': '/y' })).body), 'h2c /y')
  await Promise.all([once(h2c, 'close'), h2c.close(), second.app.close()])
  const third = await connected(t, { server: { port: at, protocol: 'h2c' } })
  t.match(await third.channel.call({ ':path': '/y' }), { status: 503 })
})

test('an idle connection that the local app closes does not cost a call', async (t) => {
  const sockets = new Set<Socket>()
  const local = createHttpServer((_, response) => response.end('ok'))
  local.on('connection', (socket) => sockets.add(socket))
  local.listen(0, '127.0.0.1')
  await once(local, 'listening')
  t.teardown(() => local.close())
  const { channel } = await connected(t, { server: { port: (local.address() as AddressInfo).port, protocol: 'http' } })
  for (let i = 0; i < 30; i++) {
    t.equal((await channel.call({ ':path': '/' })).status, 200)
    for (const socket of sockets) socket.resetAndDestroy()
    sockets.clear()
  }
})

test('opaque TCP: CONNECT goes to a function, half-close and reset are kept', async (t) => {
  const handed: [Duplex, string][] = []
  const { channel } = await connected(t, {
    server: echo,
    tcp: (stream, { destination }) => {
      handed.push([stream, destination])
      let all = ''
      stream.on('data', (chunk: Buffer) => (all += chunk))
      stream.on('end', () => stream.end(`${all.length} bytes`))
    },
  })
  const stream = channel.session.request({ ':method': 'CONNECT', ':authority': 'db:5432' })
  stream.end('a'.repeat(100_000))
  t.equal(text((await replyOf(stream)).body), '100000 bytes', 'the answer comes after our goodbye')
  t.equal(handed[0]?.[1], 'db:5432')

  const server = createTcpServer((socket) => socket.once('data', () => socket.resetAndDestroy()))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const other = await connected(t, { server: echo, tcp: { port: (server.address() as AddressInfo).port } })
  const reset = other.channel.session.request({ ':method': 'CONNECT', ':authority': 'db:5432' })
  reset.write('x')
  await t.rejects(replyOf(reset), /CONNECT_ERROR|closed with 10/)
})

test('without a target, CONNECT is answered with 501', async (t) => {
  const { channel } = await connected(t, { server: echo })
  const stream = channel.session.request({ ':method': 'CONNECT', ':authority': 'db:5432' })
  t.match(await replyOf(stream), { status: 501, body: /takes no TCP/ })
})

test('close: a call in flight is finished, and later ones find a GOAWAY', async (t) => {
  let answer = () => {}
  const server = createHttpServer((_, response) => (answer = () => response.end('finished')))
  const { channel, app, states } = await connected(t, { server })
  const inFlight = channel.call({ ':path': '/' })
  await once(server, 'request')
  const goaway = once(channel.session, 'goaway')
  const closed = app.close()
  t.equal((await goaway)[0], 0)
  t.equal(states.at(-1)?.is, 'draining')
  answer()
  t.equal(text((await inFlight).body), 'finished')
  await closed
  t.equal(app.state.is, 'closed')
})

test('close: what does not end in time is cut off', async (t) => {
  const server = createHttpServer(() => {})
  const { channel, app } = await connected(t, { server, timing: { ...QUICK, drainMs: 50 } })
  const inFlight = channel.call({ ':path': '/' })
  await once(server, 'request')
  await Promise.all([t.rejects(inFlight), app.close()])
})

test('GOAWAY: the replacement serves while the old channel finishes its call', async (t) => {
  let answer = () => {}
  const server = createHttpServer((request, response) => {
    if (request.url === '/slow') answer = () => response.end('old')
    else response.end('new')
  })
  const { peer, channel, states } = await connected(t, { server })
  const slow = channel.call({ ':path': '/slow' })
  await once(server, 'request')
  const next = peer.next()
  channel.session.goaway(0)
  const second = await next
  t.equal(text((await second.call({ ':path': '/' })).body), 'new')
  t.notOk(channel.session.destroyed)
  answer()
  t.equal(text((await slow).body), 'old')
  t.notMatch(
    states.map(({ is }) => is),
    ['lost'],
  )
})

test('replace: a new channel, then the old one is left; calls go on all the time', async (t) => {
  const { peer, channel, app } = await connected(t, { server: echo })
  let current = channel
  let failed = 0
  let isOver = false
  const load = (async () => {
    for (let i = 0; !isOver; i++) {
      const reply = await current.call({ ':path': `/${i}` }).catch(() => undefined)
      if (reply?.status !== 200) failed++
      await new Promise((resolve) => setImmediate(resolve))
    }
  })()
  for (let i = 0; i < 5; i++) {
    const left = once(current.session, 'goaway')
    const next = peer.next()
    app.replace()
    const replacement = await next
    current = replacement
    await left
  }
  isOver = true
  await load
  t.not(app.state.is, 'lost')
  t.equal(failed, 0)
  t.equal(peer.channels.length, 6)
})

test('the proxy is stopped and started, many times, and so is the app, in any order', async (t) => {
  const { peer, app } = await connected(t, { server: echo })
  const { port } = peer
  let current = peer
  for (let i = 0; i < 10; i++) {
    const lost = until(app, 'lost')
    await current.close()
    await lost
    current = await openCallbackPeer({ port })
    const channel = await current.next()
    t.equal((await channel.call({ ':path': '/' })).status, 200, `restart ${i} of the proxy`)
  }
  await app.close()
  for (let i = 0; i < 10; i++) {
    const next = current.next()
    const again = serveOverCallback({ proxy: current.address, server: echo, signals: [], timing: QUICK })
    t.equal((await (await next).call({ ':path': '/' })).status, 200, `restart ${i} of the app`)
    await again.close()
  }
  await current.close()
  const waiting = serveOverCallback({ proxy: `127.0.0.1:${port}`, server: echo, signals: [], timing: QUICK })
  await until(waiting, 'connecting')
  current = await openCallbackPeer({ port })
  t.equal((await (await current.next()).call({ ':path': '/' })).status, 200, 'the app was there first')
  await Promise.all([waiting.close(), current.close()])
})

test('what a proxy can do wrong is told, and tried again', async (t) => {
  const answers: Readonly<Record<string, [(stream: ServerHttp2Stream) => void, RegExp]>> = {
    'it refuses the token': [
      (stream) => refuseWith(stream, 16, 'wrong%20token'),
      /refuses a channel: UNAUTHENTICATED: wrong token/,
    ],
    'it knows no callback': [(stream) => refuseWith(stream, 12), /refuses a channel: UNIMPLEMENTED/],
    'it is no gRPC server': [
      (stream) => stream.respond({ ':status': 503 }, { endStream: true }),
      /UNAVAILABLE: HTTP status 503/,
    ],
    'it closes the stream': [(stream) => stream.close(2), /the proxy closed the connection/],
    'it kills the connection': [(stream) => stream.session?.socket.destroy(), /the proxy closed the connection/],
    'its answer is junk': [
      (stream) => {
        stream.respond({ ':status': 200, 'grpc-status': '0' })
        stream.end('junk')
      },
      /the proxy's answer is wrong/,
    ],
    'nobody listens at its port': [
      (stream) => {
        stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
        stream.respond({ ':status': 200 }, { waitForTrailers: true })
        stream.end(Buffer.from('00000000020801', 'hex'))
      },
      /the channel at 127.0.0.1:1 cannot be reached: .*ECONNREFUSED/,
    ],
  }
  for (const [what, [answer, because]] of Object.entries(answers)) {
    const refuse: PeerOptions['refuse'] = (stream) => {
      answer(stream)
      return true
    }
    const options = { refuse }
    const peer = await openCallbackPeer(options)
    const app = serveOverCallback({ proxy: peer.address, server: echo, signals: [], timing: QUICK })
    t.match(await until(app, 'waiting', 2), { because }, what)
    await app.close()
    await peer.close()
  }
})

test('a proxy that never opens Ping, or is silent, is left', async (t) => {
  const mute = await openCallbackPeer({ withPing: false })
  const app = serveOverCallback({
    proxy: mute.address,
    server: echo,
    signals: [],
    timing: { ...QUICK, firstPingMs: 30 },
  })
  while (mute.channels.length < 3) await mute.next()
  t.not(app.state.is, 'up')
  await app.close()
  await mute.close()

  let freeze = () => {}
  const secure = async (socket: Socket): Promise<Duplex> => {
    const [inside, outside] = duplexPair()
    socket.pipe(outside).pipe(socket)
    freeze = () => {
      socket.unpipe(outside)
      socket.pause()
    }
    return inside
  }
  const { app: other } = await connected(t, { server: echo, timing: { ...QUICK, pingMs: 30 } }, { secure })
  const lost = until(other, 'lost')
  freeze() // nothing is read nor answered, as behind a cut cable
  t.match(await lost, { because: /silent: two PINGs/ })
})

test('TLS, and mutual TLS: on the API and on the channel', async (t) => {
  const workshop = openWorkshop()
  t.teardown(workshop.close)
  const proxy = workshop.make('proxy', { ca: true, names: ['IP:127.0.0.1'] })
  const client = workshop.make('client', { ca: true })
  const peers: string[] = []
  const secure = async (socket: Socket): Promise<Duplex> => {
    const { cert, key } = proxy
    const server = createTlsServer({ cert, key, ca: client.cert, requestCert: true, ALPNProtocols: ['h2'] })
    server.emit('connection', socket)
    const [tls] = (await once(server, 'secureConnection')) as [TLSSocket]
    peers.push(`${tls.getPeerCertificate().subject?.CN}`)
    return tls
  }
  const { channel } = await connected(
    t,
    { server: echo, tls: { ca: proxy.cert, cert: client.cert, key: client.key } },
    { secure, secureApi: secure },
  )
  t.equal((await channel.call({ ':path': '/' })).status, 200)
  t.same(peers, ['client', 'client'])

  const strange = await openCallbackPeer({ secure, secureApi: secure })
  const app = serveOverCallback({
    proxy: strange.address,
    server: echo,
    tls: { cert: client.cert, key: client.key },
    signals: [],
    timing: QUICK,
  })
  t.match(await until(app, 'waiting'), { because: /TLS to the proxy failed: self-signed certificate/ })
  t.equal(strange.asked.length, 0, 'nothing was asked of a proxy that is not the right one')
  await app.close()
  await strange.close()
})

test('the process listens nowhere', async (t) => {
  const { channel } = await connected(t, { server: echo }, { host: '127.0.0.1' })
  await channel.call({ ':path': '/' })
  t.notOk(echo.listening)
})

test('a mistake in the options is named', async (t) => {
  t.throws(() => serveOverCallback({ proxy: 'localhost', server: echo }), { message: /proxy: expected host:port/ })
  t.throws(() => serveOverCallback({ proxy: 'a:1', server: {} as never }), { message: /server: expected/ })
})
