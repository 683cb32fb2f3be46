import { once } from 'node:events'
import {
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  constants as NGHTTP2,
  type ServerHttp2Stream,
} from 'node:http2'
import { connect } from 'node:net'
import { type Test, test } from 'tap'
import { FLAG, FRAME } from '../../src/codec/http2Codes.ts'
import type { Answer, Asking, RequestHead } from '../../src/forward/exchange.ts'
import type { Clock } from '../../src/net/clock.ts'
import { describeFrame, frame, frames, headers, POST, preface, REQUEST, settingsAck, uint32 } from '../support/http2.ts'
import {
  fetchHttp2,
  type Http2Proxy,
  http2Client,
  http2Proxy,
  listening,
  type ProxyOptions,
} from '../support/http2Proxy.ts'

type OnStream = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void

const upstreamOf = (t: Test, onStream: OnStream, settings = {}): Promise<number> => {
  const server: Http2Server = createServer({ settings })
  server.on('stream', (stream: ServerHttp2Stream, fields) => {
    stream.on('error', () => {})
    onStream(stream, fields)
  })
  server.on('session', (session) => t.teardown(() => session.destroy()))
  return listening(t, server)
}

const through = async (t: Test, onStream: OnStream, options: ProxyOptions = {}): Promise<Http2Proxy> =>
  http2Proxy(t, await upstreamOf(t, onStream), options)

const hello: OnStream = (stream) => {
  stream.respond({ ':status': 200, 'content-type': 'text/plain' })
  stream.end('hello world')
}

/** A raw client: what it writes, and the frames it has seen, described. */
const rawClient = async (t: Test, port: number) => {
  const socket = connect({ port, host: '127.0.0.1' })
  t.teardown(() => socket.destroy())
  socket.on('error', () => {})
  let bytes = Buffer.alloc(0)
  socket.on('data', (chunk: Buffer) => {
    bytes = Buffer.concat([bytes, chunk])
  })
  await once(socket, 'connect')
  const seen = (): string[] => frames(wholeFrames(bytes)).map(describeFrame)
  /** Waits until a frame that begins so was seen. */
  const until = async (line: string): Promise<string[]> => {
    while (!seen().some((found) => found.startsWith(line))) {
      if (socket.readableEnded) throw new Error(`ended without ${line}: ${seen()}`)
      await Promise.race([once(socket, 'data'), once(socket, 'end')])
    }
    return seen()
  }
  return { socket, seen, until }
}

const wholeFrames = (bytes: Buffer): Buffer => {
  let at = 0
  while (at + 9 <= bytes.length && at + 9 + bytes.readUIntBE(at, 3) <= bytes.length) at += 9 + bytes.readUIntBE(at, 3)
  return bytes.subarray(0, at)
}

test('a request and its answer pass, with their fields', async (t) => {
  const proxy = await through(t, (stream, fields) => {
    stream.respond({ ':status': 201, 'x-path': fields[':path'] ?? '', 'x-seen': fields['x-mine'] ?? '', etag: '"a"' })
    stream.end(fields[':authority'])
  })
  const reply = await fetchHttp2(http2Client(t, proxy.port), { ':path': '/a?b=c', 'x-mine': 'yes' })
  t.match(reply, { status: 201, headers: { 'x-path': '/a?b=c', 'x-seen': 'yes', etag: '"a"' }, code: 0 })
  t.equal(reply.body.toString(), `127.0.0.1:${proxy.port}`)
})

test('bodies of every size come back whole, both ways, over one upstream connection', async (t) => {
  const proxy = await through(t, (stream) => {
    stream.respond({ ':status': 200 })
    stream.pipe(stream)
  })
  const session = http2Client(t, proxy.port)
  const sizes = [0, 1, 16_383, 16_384, 16_385, 65_535, 65_536, 300_000, 3_000_000]
  const replies = await Promise.all(
    sizes.map((size) => fetchHttp2(session, { ':method': 'POST' }, Buffer.alloc(size, size))),
  )
  t.strictSame(
    replies.map(({ body }) => body.length),
    sizes,
  )
  t.ok(replies.every(({ body }, at) => body.equals(Buffer.alloc(sizes[at]!, sizes[at]))))
  t.equal(proxy.upstreams.length, 1)
  const total = sizes.reduce((a, b) => a + b)
  t.ok(proxy.count.sent > total && proxy.count.received > total, 'the bodies, and the frames around them')
})

test('behaviour 19: HTTP/2 without a valid :authority is 400 and nothing is opened', async (t) => {
  const proxy = await http2Proxy(t, 1, { open: () => t.fail('opened') as never })
  const client = await rawClient(t, proxy.port)
  const invalid = ['', 'a b', 'user@host', 'host:port', 'host:70000', '[::g]', 'a/b', 'a?b']
  client.socket.write(preface)
  client.socket.write(headers(1, REQUEST.slice(0, 3)))
  invalid.forEach((authority, at) => {
    client.socket.write(headers(3 + at * 2, [...REQUEST.slice(0, 3), `:authority: ${authority}`]))
  })
  await client.until(`data ${1 + invalid.length * 2}`)
  const session = http2Client(t, proxy.port)
  t.match(await fetchHttp2(session, { ':authority': 'a b' }), { status: 400 })
})

/** An upstream that answers as the test says; node:http2 cannot reset a stream after a part of its body. */
const answering = async (t: Test, answer: (answer: Answer, head: RequestHead) => void): Promise<number> => {
  const open = (head: RequestHead, _: boolean, back: Answer): Asking => {
    queueMicrotask(() => answer(back, head))
    return { data: (chunk) => back.consumed(chunk.length), trailers() {}, abort() {}, consumed() {} }
  }
  return (await http2Proxy(t, 0, { open })).port
}

const OK = { status: 200, reason: '', fields: [] }

test('behaviour 21: RST_STREAM with ENHANCE_YOUR_CALM reaches the client with the same code', async (t) => {
  const upstream = await answering(t, (answer, { target }) => {
    if (target === '/late') {
      answer.head(OK, false)
      answer.data(Buffer.from('some'), false)
    }
    answer.abort(11)
  })
  const session = http2Client(t, (await http2Proxy(t, upstream)).port)
  t.match(await fetchHttp2(session), { status: 0, code: 11 })
  t.match(await fetchHttp2(session, { ':path': '/late' }), { status: 200, code: 11 })
})

test('a client that cancels cancels upstream, with its code', async (t) => {
  const cancelled = Promise.withResolvers<number>()
  const proxy = await through(t, (stream) => {
    stream.respond({ ':status': 200 })
    stream.write('x')
    stream.on('close', () => cancelled.resolve(stream.rstCode ?? -1))
  })
  const stream = http2Client(t, proxy.port).request({ ':path': '/' })
  stream.on('error', () => {})
  await once(stream, 'data')
  stream.close(NGHTTP2.NGHTTP2_CANCEL)
  t.equal(await cancelled.promise, NGHTTP2.NGHTTP2_CANCEL)
})

test('behaviour 28: failed responses of 100 KB leak no window, a thousand requests later all succeed', async (t) => {
  let failing = true
  const upstream = await answering(t, (answer) => {
    answer.head(OK, false)
    answer.data(Buffer.alloc(failing ? 100_000 : 4), !failing)
    if (failing) setImmediate(() => answer.abort(2))
  })
  const proxy = await http2Proxy(t, upstream)
  const session = http2Client(t, proxy.port)
  const failed = await Promise.all(Array.from({ length: 100 }, () => fetchHttp2(session)))
  t.ok(failed.every(({ code }) => code === 2))
  failing = false
  for (let round = 0; round < 20; round++) {
    const fine = await Promise.all(Array.from({ length: 50 }, () => fetchHttp2(session)))
    if (!fine.every(({ body }) => body.length === 4)) t.fail('a request failed')
  }
  t.equal(proxy.upstreams.length, 1)
  t.equal(proxy.upstreams[0]!.wire.h2.unreadBytes, 0)
})

test('behaviour 32: on drain the client gets GOAWAY, and 50 streams of 16 KiB in flight complete', async (t) => {
  let release = (): void => {}
  const all = Promise.withResolvers<void>()
  const waiting: (() => void)[] = []
  const proxy = await through(t, (stream) => {
    waiting.push(() => {
      stream.respond({ ':status': 200 })
      stream.end(Buffer.alloc(16_384, 7))
    })
    if (waiting.length === 50) all.resolve()
  })
  release = () => {
    for (const answer of waiting) answer()
  }
  const session = http2Client(t, proxy.port)
  const replies = Promise.all(Array.from({ length: 50 }, () => fetchHttp2(session)))
  await all.promise
  const goaway = once(session, 'goaway')
  proxy.servings[0]!.drain()
  const [code] = await goaway
  t.equal(code, 0)
  release()
  t.ok((await replies).every(({ body, code }) => body.length === 16_384 && code === 0))
  await once(session, 'close')
  t.strictSame(proxy.endings, ['drained'])
})

test('behaviour 32: a drained connection says first that it goes, and then which stream was the last', async (t) => {
  const proxy = await through(t, hello)
  const client = await rawClient(t, proxy.port)
  client.socket.write(Buffer.concat([preface, settingsAck, headers(1)]))
  await client.until('data 1')
  proxy.servings[0]!.drain()
  await client.until('goaway NO_ERROR')
  client.socket.write(headers(3))
  await client.until('data 3')
  client.socket.write(frame(FRAME.ping, FLAG.ack, 0, Buffer.alloc(8)))
  await once(client.socket, 'end')
  t.equal(client.seen().filter((line) => line === 'goaway NO_ERROR').length, 2)
})

test('GOAWAY from the upstream: streams it takes end, the next request goes to a new connection', async (t) => {
  let sessions = 0
  const server = createServer()
  server.on('session', () => sessions++)
  server.on('stream', (stream: ServerHttp2Stream) => {
    stream.session?.goaway()
    stream.respond({ ':status': 200 })
    stream.end('fine')
  })
  const proxy = await http2Proxy(t, await listening(t, server))
  const session = http2Client(t, proxy.port)
  t.equal((await fetchHttp2(session)).body.toString(), 'fine')
  t.equal((await fetchHttp2(session)).body.toString(), 'fine')
  t.equal(sessions, 2)
})

test('behaviour 33: a stalled stream does not stall the others, and holds no more than its window', async (t) => {
  const proxy = await through(t, (stream, fields) => {
    stream.respond({ ':status': 200 })
    stream.end(Buffer.alloc(fields[':path'] === '/stalled' ? 5_000_000 : 100_000))
  })
  const session = http2Client(t, proxy.port)
  const stalled = session.request({ ':path': '/stalled' })
  stalled.on('error', () => {})
  await once(stalled, 'response')
  stalled.pause()
  const others = await Promise.all(Array.from({ length: 30 }, () => fetchHttp2(session)))
  t.ok(others.every(({ body }) => body.length === 100_000))
  const { h2 } = proxy.upstreams[0]!.wire
  t.ok(h2.unreadBytes <= 1_048_576, `${h2.unreadBytes} bytes wait`)
  stalled.close()
})

test('behaviour 33: header list, concurrent streams and windows behave as configured', async (t) => {
  const limits = { streamsMax: 3, headBytesMax: 2000, fieldsMax: 10, windowBytes: 1000, windowBytesMax: 1000 }
  const never = through(t, () => {}, { limits })
  const client = await rawClient(t, (await never).port)
  client.socket.write(preface)
  await client.until('settings ack')
  for (const id of [1, 3, 5, 7]) client.socket.write(headers(id, POST, FLAG.endHeaders))
  await client.until('rstStream 7 REFUSED_STREAM')
  client.socket.write(frame(FRAME.data, 0, 1, Buffer.alloc(1001)))
  await client.until('rstStream 1 FLOW_CONTROL_ERROR')
  client.socket.write(headers(9, [...REQUEST, `x: ${'y'.repeat(2000)}`]))
  const seen = await client.until('data 9')
  t.ok(seen.includes('headers 9'), '431')
  t.match(await fetchHttp2(http2Client(t, (await never).port), { x: 'y'.repeat(2000) }), { status: 431 })
})

test('behaviour 37: 103 and other interim answers pass, in order', async (t) => {
  const proxy = await through(t, (stream) => {
    stream.additionalHeaders({ ':status': 103, link: '</a>' })
    stream.additionalHeaders({ ':status': 103, link: '</b>' })
    hello(stream, {})
  })
  t.match(await fetchHttp2(http2Client(t, proxy.port)), { status: 200, informations: [103, 103] })
})

test('behaviour 38: trailers pass both ways', async (t) => {
  const proxy = await through(t, (stream) => {
    let sent: unknown
    stream.on('trailers', (found) => {
      sent = found['x-sum']
    })
    stream.on('end', () => {
      stream.respond({ ':status': 200 }, { waitForTrailers: true })
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', 'x-back': `${sent}` }))
      stream.end('body')
    })
    stream.resume()
  })
  const session = http2Client(t, proxy.port)
  const stream = session.request({ ':method': 'POST', ':path': '/' }, { waitForTrailers: true })
  stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': '42' }))
  stream.end('data')
  stream.resume()
  const [trailers] = await once(stream, 'trailers')
  t.match(trailers, { 'grpc-status': '0', 'x-back': '42' })
})

test('an early answer ends the exchange, and the connection goes on', async (t) => {
  const proxy = await through(t, (stream) => {
    stream.respond({ ':status': 413 })
    stream.end('too much')
  })
  const session = http2Client(t, proxy.port)
  const stream = session.request({ ':method': 'POST', ':path': '/' })
  stream.on('error', () => {})
  stream.write(Buffer.alloc(30_000))
  const [response] = await once(stream, 'response')
  t.equal(response[':status'], 413)
  stream.resume()
  await once(stream, 'close')
  t.equal((await fetchHttp2(session, { ':method': 'POST' }, 'x')).status, 413)
})

test('an upstream that dies in the middle, or before its answer, resets the stream', async (t) => {
  const proxy = await through(t, (stream, fields) => {
    if (fields[':path'] === '/late') {
      stream.respond({ ':status': 200 })
      stream.write('some')
    }
    setImmediate(() => stream.session?.socket.destroy())
  })
  const session = http2Client(t, proxy.port)
  t.match(await fetchHttp2(session, { ':path': '/late' }), { status: 200, code: 2 })
  t.match(await fetchHttp2(session), { status: 0, code: 2 })
})

test('an upstream that breaks the protocol loses its connection', async (t) => {
  const { createServer: createTcp } = await import('node:net')
  const server = createTcp((socket) => {
    socket.on('error', () => {})
    socket.once('data', () => socket.write(frame(FRAME.ping, 0, 0, Buffer.alloc(8))))
  })
  const proxy = await http2Proxy(t, await listening(t, server))
  t.match(await fetchHttp2(http2Client(t, proxy.port)), { status: 0, code: 2 })
  t.equal(proxy.upstreams[0]!.wire.isClosing, true)
})

test('a flood ends its own connection with ENHANCE_YOUR_CALM, and others never notice', async (t) => {
  const proxy = await through(t, hello)
  const other = http2Client(t, proxy.port)
  await fetchHttp2(other)
  const client = await rawClient(t, proxy.port)
  client.socket.write(preface)
  const ping = frame(FRAME.ping, 0, 0, Buffer.alloc(8))
  client.socket.write(Buffer.concat(Array.from({ length: 2000 }, () => ping)))
  await client.until('goaway ENHANCE_YOUR_CALM')
  t.strictSame(proxy.endings, ['protocolError HTTP2_ENHANCE_YOUR_CALM'])
  t.match(await fetchHttp2(other), { status: 200 })
})

test('a thousand rapid resets reach the upstream as resets and then end the connection', async (t) => {
  const proxy = await through(t, () => {})
  const client = await rawClient(t, proxy.port)
  client.socket.write(preface)
  for (let id = 1; id < 2001; id += 2)
    client.socket.write(Buffer.concat([headers(id), frame(FRAME.rstStream, 0, id, uint32(8))]))
  await client.until('goaway ENHANCE_YOUR_CALM')
  t.equal(proxy.upstreams.at(-1)!.wire.h2.streams.size, 0)
})

test('extended CONNECT passes as a tunnel with two halves (RFC 8441)', async (t) => {
  const proxy = await http2Proxy(
    t,
    await upstreamOf(
      t,
      (stream, fields) => {
        stream.respond({ ':status': 200, 'x-protocol': `${fields[':protocol']}` })
        stream.once('data', (chunk: Buffer) => stream.end(`you said ${chunk}`))
      },
      { enableConnectProtocol: true },
    ),
  )
  const session = http2Client(t, proxy.port)
  await once(session, 'remoteSettings')
  t.equal(session.remoteSettings.enableConnectProtocol, true)
  const stream = session.request({
    ':method': 'CONNECT',
    ':protocol': 'websocket',
    ':path': '/chat',
    ':scheme': 'http',
  })
  const [response] = await once(stream, 'response')
  t.match(response, { ':status': 200, 'x-protocol': 'websocket' })
  stream.write('hi')
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  await once(stream, 'end')
  t.equal(Buffer.concat(chunks).toString(), 'you said hi')
  stream.end()
})

test('CONNECT passes as a tunnel, and a refused one as an answer', async (t) => {
  const server = createServer()
  server.on('connect', () => {})
  server.on('stream', (stream: ServerHttp2Stream, fields) => {
    if (fields[':authority'] === 'no:1') {
      stream.respond({ ':status': 403 }, { endStream: true })
      return
    }
    stream.respond({ ':status': 200 })
    stream.pipe(stream)
  })
  const proxy = await http2Proxy(t, await listening(t, server))
  const session = http2Client(t, proxy.port)
  const stream = session.request({ ':method': 'CONNECT', ':authority': 'yes:1' })
  await once(stream, 'response')
  stream.end('through')
  t.equal(`${(await once(stream, 'data'))[0]}`, 'through')
  const refused = session.request({ ':method': 'CONNECT', ':authority': 'no:1' })
  const [head] = await once(refused, 'response')
  t.equal(head[':status'], 403)
})

/** A clock that the test moves. */
const handClock = (): Clock & { pass: (ms: number) => void } => {
  let now = 0
  const timers = new Set<{ at: number; run: () => void }>()
  return {
    now: () => now,
    time: () => now,
    after(ms, run) {
      const timer = { at: now + ms, run }
      timers.add(timer)
      return () => timers.delete(timer)
    },
    pass(ms) {
      now += ms
      for (const timer of [...timers]) if (timer.at <= now && timers.delete(timer)) timer.run()
    },
  }
}

test('SETTINGS that are never acknowledged end the connection after their deadline', async (t) => {
  const clock = handClock()
  const proxy = await through(t, hello, { clock })
  const client = await rawClient(t, proxy.port)
  client.socket.write(preface)
  await client.until('settings ack')
  clock.pass(9_999)
  t.strictSame(proxy.endings, [])
  clock.pass(2)
  await client.until('goaway SETTINGS_TIMEOUT')
  t.strictSame(proxy.endings, ['protocolError HTTP2_SETTINGS_TIMEOUT'])
})

test('a silent peer with open streams is asked by PING, and given up when it does not answer', async (t) => {
  const clock = handClock()
  const asking: Asking = { data() {}, trailers() {}, abort() {}, consumed() {} }
  const proxy = await http2Proxy(t, 0, { clock, open: () => asking })
  const client = await rawClient(t, proxy.port)
  client.socket.write(Buffer.concat([preface, settingsAck, headers(1, POST, FLAG.endHeaders)]))
  await client.until('settings ack')
  clock.pass(10_000)
  clock.pass(30_000)
  await client.until('ping')
  t.strictSame(proxy.endings, [])
  clock.pass(10_000)
  await client.until('goaway NO_ERROR')
  t.match(proxy.endings, [/^idleTimeout/])
})

test('a connection without streams is closed when it has been idle for long enough', async (t) => {
  const clock = handClock()
  const proxy = await through(t, hello, { clock })
  const client = await rawClient(t, proxy.port)
  client.socket.write(Buffer.concat([preface, settingsAck, headers(1)]))
  await client.until('data 1')
  clock.pass(10_000)
  clock.pass(60_000)
  await client.until('goaway NO_ERROR')
  clock.pass(1_000)
  await once(client.socket, 'end')
  t.strictSame(proxy.endings, ['idleTimeout'])
})

test('a connection to an upstream is closed when its time is over, and not later', async (t) => {
  const clock = handClock()
  const proxy = await through(t, hello, { clock, times: { idleMs: 3_000 } })
  const client = await rawClient(t, proxy.port)
  client.socket.write(Buffer.concat([preface, settingsAck, headers(1)]))
  await client.until('data 1')
  clock.pass(2_000)
  client.socket.write(headers(3))
  await client.until('data 3')
  const [upstream] = proxy.upstreams
  clock.pass(2_999)
  t.equal(upstream!.wire.isClosing, false)
  clock.pass(1)
  t.equal(upstream!.wire.isClosing, true)
})

test('cookie crumbs are one field again for whoever is behind', async (t) => {
  const proxy = await through(t, (stream, fields) => {
    stream.respond({ ':status': 200 })
    stream.end(fields.cookie)
  })
  const reply = await fetchHttp2(http2Client(t, proxy.port), { cookie: ['a=1', 'b=2', 'c=3'] })
  t.equal(reply.body.toString(), 'a=1; b=2; c=3')
})

test('behaviour 11: an HTTP/1.1 request that was upgraded is answered on stream 1, and the client goes on', async (t) => {
  const { createServer: createTcp } = await import('node:net')
  const { serveHttp2 } = await import('../../src/forward/http2Server.ts')
  const { HTTP2_LIMITS } = await import('../../src/codec/http2State.ts')
  const { HTTP2_TIMES } = await import('../../src/forward/http2Wire.ts')
  const { systemClock } = await import('../../src/net/clock.ts')
  const heads: RequestHead[] = []
  const open = (head: RequestHead, _: boolean, answer: Answer): Asking => {
    heads.push(head)
    queueMicrotask(() => {
      answer.head({ status: 200, reason: 'OK', fields: ['X-Upper', 'case'] }, false)
      answer.data(Buffer.from(`${head.target}${'.'.repeat(100)}`), true)
    })
    return { data() {}, trailers() {}, abort() {}, consumed() {} }
  }
  const head: RequestHead = {
    method: 'GET',
    scheme: 'http',
    authority: 'a',
    target: '/first',
    version: '1.1',
    fields: [],
  }
  const server = createTcp({ allowHalfOpen: true }, (socket) => {
    const settings = Buffer.from('000400000010', 'hex')
    const face = { limits: HTTP2_LIMITS, times: HTTP2_TIMES, clock: systemClock, count: { sent: 0, received: 0 } }
    serveHttp2(socket, { ...face, open, refuse: () => t.fail('refused'), refused() {}, ended() {} }, { head, settings })
  })
  const client = await rawClient(t, await listening(t, server))
  client.socket.write(Buffer.concat([preface, settingsAck]))
  const seen = await client.until('data 1')
  t.ok(seen.includes('headers 1'))
  t.ok(seen.includes('data 1 16'), 'HTTP2-Settings set the window to 16 bytes')
  client.socket.write(headers(3, [':method: GET', ':scheme: http', ':path: /second', ':authority: a']))
  await client.until('data 3')
  t.strictSame(
    heads.map(({ target }) => target),
    ['/first', '/second'],
  )
})
