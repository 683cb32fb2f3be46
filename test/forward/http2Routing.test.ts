import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  connect as connectHttp2,
  createServer,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
  sensitiveHeaders,
} from 'node:http2'
import { createServer as createTcpServer, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { type Test, test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { FLAG, FRAME } from '../../src/codec/http2Codes.ts'
import { HTTP2_LIMITS } from '../../src/codec/http2State.ts'
import type { Open } from '../../src/forward/exchange.ts'
import { serveHttp2 } from '../../src/forward/http2Server.ts'
import { HTTP2_TIMES } from '../../src/forward/http2Wire.ts'
import { systemClock } from '../../src/net/clock.ts'
import type { World } from '../../src/proxy.ts'
import { type Front, front } from '../support/front.ts'
import { raw, scripted } from '../support/http.ts'
import { frame, frames, headers, preface, settings, settingsAck } from '../support/http2.ts'
import { fetchHttp2, http2Client, listening } from '../support/http2Proxy.ts'
import { upstream } from '../support/peers.ts'
import { selfSigned } from '../support/selfSigned.ts'

type OnStream = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, nth: number) => void

/** Sluice before a node:http2 server. */
const beforeHttp2 = async (
  t: Test,
  onStream: OnStream,
  policy = '',
  changes: Partial<World> = {},
  settings = {},
): Promise<Front> => {
  const server = createServer({ settings })
  let nth = 0
  server.on('stream', (stream: ServerHttp2Stream, fields) => {
    stream.on('error', () => {})
    onStream(stream, fields, nth++)
  })
  server.on('session', (session) => {
    session.on('error', () => {})
    t.teardown(() => session.destroy())
  })
  const sluice = await front({ host: '127.0.0.1', port: await listening(t, server) }, policy, changes)
  t.teardown(() => sluice.close())
  return sluice
}

/** Sluice before an HTTP/1 server that says what the test wrote down. */
const beforeHttp1 = async (t: Test, answer: Parameters<typeof scripted>[0], policy = TO_HTTP1) => {
  const server = await scripted(answer)
  const sluice = await front(server.address, policy)
  t.teardown(() => {
    sluice.close()
    server.close()
  })
  return { sluice, server }
}

const TO_HTTP1 = 'defaults: { upstream: { protocol: http1 } }'
const TO_HTTP2 = 'defaults: { upstream: { protocol: http2 } }'
const GRPC = { ':method': 'POST', 'content-type': 'application/grpc', te: 'trailers' }
const WEBSOCKET = [':method: CONNECT', ':protocol: websocket', ':scheme: http', ':path: /', ':authority: a']
const hello: OnStream = (stream) => {
  stream.respond({ ':status': 200 })
  stream.end('hello')
}

test('HTTP/2 to HTTP/2: a request passes by the policy, with one Outcome for it and one for its connection', async (t) => {
  const sluice = await beforeHttp2(t, (stream, fields) => {
    stream.respond({ ':status': 200, 'x-authority': fields[':authority'] ?? '' })
    stream.end('hello')
  })
  const session = http2Client(t, sluice.address.port)
  const reply = await fetchHttp2(session, { ':authority': 'Example.COM:80', ':path': '/a?b' })
  t.match(reply, { status: 200, headers: { 'x-authority': 'example.com:80' }, code: 0 })
  t.match(sluice.requests, [{ method: 'GET', authority: 'example.com:80', target: '/a?b', version: '2', status: 200 }])
  session.close()
  await once(session, 'close')
  while (sluice.outcomes.length === 0) await new Promise((resolve) => setImmediate(resolve))
  t.match(sluice.outcomes, [{ result: 'forwarded', protocols: ['http2'], ended: 'closed' }])
})

test('HTTP/2 to HTTP/1: the request line, Host from :authority, one Cookie, the body chunked, the answer back', async (t) => {
  const { sluice, server } = await beforeHttp1(
    t,
    'HTTP/1.1 200 OK\r\nX-Case: Kept\r\nConnection: x-own\r\nX-Own: no\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n',
  )
  const session = http2Client(t, sluice.address.port)
  const reply = await fetchHttp2(
    session,
    { ':method': 'POST', ':authority': 'a.example', ':path': '/p?q', cookie: ['a=1', 'b=2'], 'x-one': '1' },
    'body',
  )
  t.match(reply, { status: 200, headers: { 'x-case': 'Kept' }, code: 0 })
  t.equal(reply.headers['x-own'], undefined)
  t.equal(reply.headers['transfer-encoding'], undefined)
  t.equal(reply.body.toString(), 'abc')
  const request = server.received.join('')
  t.match(request, /^POST \/p\?q HTTP\/1\.1\r\n/)
  t.match(request, /\r\nhost: a\.example\r\n/i)
  t.match(request, /\r\ncookie: a=1; b=2\r\n/i)
  t.match(request, /\r\nx-one: 1\r\n/i)
  t.match(request, /\r\ntransfer-encoding: chunked\r\n/i)
  t.match(request, /\r\n4\r\nbody\r\n0\r\n\r\n$/)
})

test('HTTP/2 to HTTP/1: content-length stays one, and nothing is chunked that has none and no body', async (t) => {
  const { sluice, server } = await beforeHttp1(t, 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
  const session = http2Client(t, sluice.address.port)
  t.match(await fetchHttp2(session, { ':method': 'POST', 'content-length': '4' }, 'body'), {
    headers: { 'content-length': '2' },
  })
  await fetchHttp2(session)
  t.notMatch(server.received.join(), /transfer-encoding/i)
  t.match(server.received.join(''), /\r\ncontent-length: 4\r\n[\s\S]*\r\n\r\nbody/i)
})

test('HTTP/1 to HTTP/2: the same the other way', async (t) => {
  let got: IncomingHttpHeaders = {}
  let body = ''
  const sluice = await beforeHttp2(
    t,
    (stream, fields) => {
      got = fields
      stream.on('data', (chunk: Buffer) => {
        body += chunk
      })
      stream.on('end', () => {
        stream.respond({ ':status': 200, 'x-back': 'yes' })
        stream.end('answer')
      })
    },
    TO_HTTP2,
  )
  const client = await raw(sluice.address)
  client.send(
    'POST /up HTTP/1.1\r\nHost: b.example\r\nX-Mixed-Case: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n',
  )
  const answer = await client.until(/0\r\n\r\n$/)
  t.match(answer, /^HTTP\/1\.1 200 OK\r\n/)
  t.match(answer, /\r\nx-back: yes\r\n/)
  t.match(answer, /\r\n6\r\nanswer\r\n0\r\n\r\n$/)
  t.match(got, { ':method': 'POST', ':authority': 'b.example', ':path': '/up', ':scheme': 'http', 'x-mixed-case': '1' })
  for (const name of ['host', 'connection', 'x-hop', 'transfer-encoding']) t.equal(got[name], undefined)
  t.equal(body, 'body')
  client.socket.destroy()
})

test('behaviour 19: :authority missing or invalid is 400, and for gRPC its status; nothing is dialled', async (t) => {
  const dial = () => t.fail('dialled') as never
  // Detection would dial for a client that is slow to speak.
  const sluice = await beforeHttp2(t, hello, 'defaults: { protocol: http2, detect: { serverFirst: never } }', { dial })
  const session = http2Client(t, sluice.address.port)
  t.match(await fetchHttp2(session, { ':authority': 'a b' }), { status: 400, headers: { 'sluice-error': 'authority' } })
  t.match(await fetchHttp2(session, { ...GRPC, ':authority': 'a b' }), {
    status: 200,
    headers: { 'content-type': 'application/grpc', 'grpc-status': '13' },
  })
  const client = await raw(sluice.address)
  client.socket.write(Buffer.concat([preface, headers(1, [':method: GET', ':scheme: http', ':path: /'])]))
  await client.until(/authority is missing/)
  t.match(sluice.requests, [{ status: 400 }, { status: 200 }, { status: 400 }])
  client.socket.destroy()
})

test('behaviour 21: RST_STREAM of the upstream is the same code to HTTP/2 and 502 to HTTP/1', async (t) => {
  // node:http2 cannot reset before an answer with a code of choice in all cases: raw frames.
  const server = createServer()
  server.on('stream', (stream: ServerHttp2Stream) => {
    stream.on('error', () => {})
    stream.close(11)
  })
  const destination = { host: '127.0.0.1', port: await listening(t, server) }
  const sluice = await front(destination, TO_HTTP2)
  t.teardown(() => sluice.close())
  t.match(await fetchHttp2(http2Client(t, sluice.address.port)), { status: 0, code: 11 })
  const client = await raw(sluice.address)
  client.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  t.match(await client.until(/\r\n\r\n/), /^HTTP\/1\.1 502 /)
  client.socket.destroy()
})

test('behaviour 27: grpc-status 14 is retried once where the policy allows, in the head and in trailers', async (t) => {
  const RETRY = 'defaults: { http: { retry: { attempts: 1, on: [grpcUnavailable] } } }'
  for (const place of ['head', 'trailers']) {
    const sluice = await beforeHttp2(
      t,
      (stream, _, nth) => {
        const grpc = { 'content-type': 'application/grpc' }
        if (nth === 0 && place === 'head')
          return stream.respond({ ':status': 200, ...grpc, 'grpc-status': '14' }, { endStream: true })
        stream.respond({ ':status': 200, ...grpc }, { waitForTrailers: true })
        stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': nth === 0 ? '14' : '0' }))
        stream.end()
      },
      RETRY,
    )
    const reply = await fetchHttp2(http2Client(t, sluice.address.port), GRPC, 'ask')
    t.match(reply, { status: 200, trailers: { 'grpc-status': '0' } }, place)
    t.match(sluice.requests, [{ attempts: 2, grpcStatus: '0' }], place)
  }
})

test('behaviour 27: a stream that already gave data is not retried, and nothing of it is lost', async (t) => {
  const sluice = await beforeHttp2(
    t,
    (stream) => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '14' }))
      stream.end('data')
    },
    'defaults: { http: { retry: { attempts: 1, on: [grpcUnavailable] } } }',
  )
  const reply = await fetchHttp2(http2Client(t, sluice.address.port), GRPC, 'ask')
  t.match(reply, { status: 200, trailers: { 'grpc-status': '14' } })
  t.equal(reply.body.toString(), 'data')
  t.match(sluice.requests, [{ attempts: 1 }])
})

test('a request that was refused is sent again on another connection', async (t) => {
  const sluice = await beforeHttp2(t, (stream, _, nth) => {
    if (nth === 0) return stream.close(7)
    hello(stream, {}, nth)
  })
  t.match(await fetchHttp2(http2Client(t, sluice.address.port)), { status: 200 })
  t.match(sluice.requests, [{ attempts: 2 }])
})

test('behaviour 32: drain ends HTTP/2 connections once their streams have, with GOAWAY', async (t) => {
  const waiting: ServerHttp2Stream[] = []
  const sluice = await beforeHttp2(t, (stream) => void waiting.push(stream))
  const session = http2Client(t, sluice.address.port)
  const replies = Promise.all(Array.from({ length: 50 }, () => fetchHttp2(session)))
  while (waiting.length < 50) await new Promise((resolve) => setImmediate(resolve))
  const goaway = once(session, 'goaway')
  const drained = sluice.world.ledger.drain(5_000)
  await goaway
  for (const stream of waiting) {
    stream.respond({ ':status': 200 })
    stream.end(Buffer.alloc(16_384))
  }
  t.ok((await replies).every(({ status, body }) => status === 200 && body.length === 16_384))
  await drained
  t.match(sluice.outcomes, [{ ended: 'drained' }])
})

test('behaviour 37: 103 passes from HTTP/2 to HTTP/1 and back, in order', async (t) => {
  const http2 = await beforeHttp2(
    t,
    (stream) => {
      stream.additionalHeaders({ ':status': 103, link: '</a>' })
      hello(stream, {}, 0)
    },
    TO_HTTP2,
  )
  const client = await raw(http2.address)
  client.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  t.match(await client.until(/0\r\n\r\n$/), /^HTTP\/1\.1 103 .*\r\nlink: <\/a>\r\n\r\nHTTP\/1\.1 200 /)
  client.send('GET / HTTP/1.0\r\nHost: a\r\n\r\n')
  t.match(await client.rest(), /^HTTP\/1\.[01] 200 /)
  const { sluice } = await beforeHttp1(
    t,
    'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n',
  )
  t.match(await fetchHttp2(http2Client(t, sluice.address.port)), { status: 200, informations: [103, 103] })
})

test('behaviour 38: trailers pass between HTTP/2 and HTTP/1, both ways', async (t) => {
  const { sluice, server } = await beforeHttp1(
    t,
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n',
  )
  const stream = http2Client(t, sluice.address.port).request(
    { ':method': 'POST', ':path': '/', te: 'trailers' },
    { waitForTrailers: true },
  )
  stream.on('wantTrailers', () => stream.sendTrailers({ 'x-check': '9' }))
  stream.end('body')
  stream.resume()
  const [trailers] = await once(stream, 'trailers')
  t.match(trailers, { 'x-sum': '7' })
  t.match(server.received.join(''), /\r\n0\r\nx-check: 9\r\n\r\n$/i)
  let got: IncomingHttpHeaders = {}
  const back = await beforeHttp2(
    t,
    (upstream) => {
      upstream.on('trailers', (found) => {
        got = found
      })
      upstream.resume()
      upstream.on('end', () => {
        upstream.respond({ ':status': 200 }, { waitForTrailers: true })
        upstream.on('wantTrailers', () => upstream.sendTrailers({ 'x-sum': '7' }))
        upstream.end('ok')
      })
    },
    TO_HTTP2,
  )
  const client = await raw(back.address)
  client.send(
    'POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Check: 9\r\n\r\n',
  )
  t.match(await client.until(/0\r\n(.*\r\n)?\r\n$/), /\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n$/)
  t.match(got, { 'x-check': '9' })
  client.socket.destroy()
})

test('behaviour 11: an HTTP/1.1 client that asks for h2c goes on as HTTP/2', async (t) => {
  const { sluice, server } = await beforeHttp1(t, 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok', '')
  const client = await raw(sluice.address)
  const settings = Buffer.from('000300000064', 'hex').toString('base64url')
  client.send(
    `GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: ${settings}\r\n\r\n`,
  )
  await client.until(/^HTTP\/1\.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n/)
  client.socket.write(Buffer.concat([preface, settingsAck, headers(3)]))
  await client.until(/\x03ok/)
  client.socket.destroy()
  t.same(
    sluice.requests.map(({ status }) => status),
    [200, 200],
  )
  t.match(server.received.join(), /^GET \/up HTTP\/1\.1\r\n/)
  t.notMatch(server.received.join(), /upgrade|http2-settings/i)
})

test('what comes in one segment with the request for h2c is read as HTTP/2, at once', async (t) => {
  const { sluice } = await beforeHttp1(t, 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok', '')
  const asked =
    'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n'
  const hasty = await raw(sluice.address)
  hasty.socket.write(Buffer.concat([Buffer.from(asked), preface, settingsAck, headers(3)]))
  await hasty.until(/\x03ok/)
  hasty.socket.destroy()
  const other = await raw(sluice.address)
  other.send(`${asked}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n`)
  t.match(await other.rest(), /not the preface of HTTP\/2$/)
})

const denying = 'rules: [ { name: no, when: { path: /no/** }, then: { deny: true } } ]'

test('behaviour 30: denied is 403, and 7 for gRPC', async (t) => {
  const sluice = await beforeHttp2(t, hello, denying)
  const session = http2Client(t, sluice.address.port)
  t.match(await fetchHttp2(session, { ':path': '/no/x' }), { status: 403, headers: { 'sluice-error': 'denied' } })
  t.match(await fetchHttp2(session, { ...GRPC, ':path': '/no/x' }), { status: 200, headers: { 'grpc-status': '7' } })
  t.match(await fetchHttp2(session, { ':path': '/yes' }), { status: 200 })
})

test('what cannot be reached is 502, and 14 for gRPC', async (t) => {
  const sluice = await beforeHttp2(t, hello, 'defaults: { limits: { connect: 100ms } }', {
    dial: () => Promise.reject(Object.assign(new Error('no'), { code: 'EHOSTUNREACH' })),
  })
  const session = http2Client(t, sluice.address.port)
  t.match(await fetchHttp2(session), { status: 502, headers: { 'sluice-error': 'connectFailed' } })
  t.match(await fetchHttp2(session, GRPC), { status: 200, headers: { 'grpc-status': '14' } })
})

test('a hundred requests at once share one upstream connection', async (t) => {
  const server = createServer()
  server.on('stream', (stream: ServerHttp2Stream) => hello(stream, {}, 0))
  const sluice = await front(
    { host: '127.0.0.1', port: await listening(t, server) },
    'defaults: { protocol: http2, detect: { serverFirst: never } }',
  )
  t.teardown(() => sluice.close())
  const session = http2Client(t, sluice.address.port)
  const replies = await Promise.all(Array.from({ length: 90 }, () => fetchHttp2(session)))
  t.ok(replies.every(({ status }) => status === 200))
  t.equal(sluice.world.http.pool.size, 1)
})

const WEBSOCKETS = 'http: { upgrade: { allow: [websocket] } }'

test('a websocket passes from HTTP/1 to HTTP/2 as extended CONNECT, and its client never knows', async (t) => {
  const sluice = await beforeHttp2(
    t,
    (stream, fields) => {
      if (fields[':protocol'] !== 'websocket' || fields['sec-websocket-key'] !== undefined) return stream.close(1)
      stream.respond({ ':status': 200 })
      // A text frame of a server: unmasked.
      stream.write(Buffer.from([0x81, 5, ...Buffer.from('hello')]))
    },
    `defaults: { upstream: { protocol: http2 }, ${WEBSOCKETS} }`,
    {},
    { enableConnectProtocol: true },
  )
  const client = new WebSocket(`ws://127.0.0.1:${sluice.address.port}/chat`)
  t.teardown(() => client.terminate())
  const [message] = await once(client, 'message')
  t.equal(`${message}`, 'hello')
})

test('extended CONNECT passes from HTTP/2 to HTTP/1 as the Upgrade of a websocket', async (t) => {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  await once(server, 'listening')
  t.teardown(() => server.close())
  server.on('connection', (socket) => socket.send('hello'))
  const { port } = server.address() as { port: number }
  const policy = `defaults: { upstream: { protocol: http1 }, ${WEBSOCKETS} }`
  const sluice = await front({ host: '127.0.0.1', port }, policy)
  t.teardown(() => sluice.close())
  const session = http2Client(t, sluice.address.port)
  await once(session, 'remoteSettings')
  const fields = { ':method': 'CONNECT', ':protocol': 'websocket', ':path': '/', ':scheme': 'http' }
  const stream = session.request({ ...fields, 'sec-websocket-version': '13' })
  t.match((await once(stream, 'response'))[0], { ':status': 200 })
  t.strictSame([...(await once(stream, 'data'))[0]], [0x81, 5, ...Buffer.from('hello')])
  stream.destroy()
})

test('a client that resets its connection when all is answered makes no error of it, one that waits does', async (t) => {
  const asked = Promise.withResolvers<void>()
  const sluice = await beforeHttp2(t, (stream, ...about) => {
    if (about[0][':path'] === '/') return hello(stream, ...about)
    stream.on('error', () => {})
    asked.resolve()
  })
  for (const [path, error] of [
    ['/', undefined],
    ['/never', { code: 'ECONNRESET' }],
  ] as const) {
    const client = await raw(sluice.address)
    const fields = [':method: GET', ':scheme: http', `:path: ${path}`, ':authority: a']
    client.socket.write(Buffer.concat([preface, settingsAck, headers(1, fields)]))
    if (path === '/') await client.until(/hello/)
    else await asked.promise
    client.socket.resetAndDestroy()
    while (sluice.outcomes.length === 0) await new Promise((resolve) => setImmediate(resolve))
    t.match(sluice.outcomes.splice(0), [{ result: 'forwarded', ended: 'clientReset', error }], path)
  }
})

test('without a rule extended CONNECT is refused, with the rule that would allow it', async (t) => {
  const sluice = await beforeHttp2(t, hello)
  const session = http2Client(t, sluice.address.port)
  await once(session, 'remoteSettings')
  const fields = { ':method': 'CONNECT', ':protocol': 'websocket', ':path': '/', ':scheme': 'http' }
  t.match((await once(session.request(fields), 'response'))[0], { ':status': 500, 'sluice-error': 'upgradeRefused' })
})

test('a client that floods is told to calm down, its Outcome says so, and the others never notice', async (t) => {
  const sluice = await beforeHttp2(t, hello)
  const other = http2Client(t, sluice.address.port)
  await fetchHttp2(other)
  const client = await raw(sluice.address)
  client.socket.write(preface)
  client.socket.write(Buffer.concat(Array.from({ length: 200 }, () => settings())))
  await client.rest()
  while (sluice.outcomes.length === 0) await new Promise((resolve) => setImmediate(resolve))
  t.match(sluice.outcomes, [{ ended: 'protocolError', error: { code: 'HTTP2_ENHANCE_YOUR_CALM' } }])
  t.match(await fetchHttp2(other), { status: 200 })
})

test('requests that are reset for a fault of their client leave an Outcome each, with the code', async (t) => {
  const sluice = await beforeHttp2(
    t,
    (stream) => void stream.on('data', () => {}),
    'defaults: { http2: { streams: 1 } }',
  )
  const client = await raw(sluice.address)
  const post = (stream: number, ...more: string[]) =>
    headers(stream, [':method: POST', ':scheme: http', ':path: /', ':authority: a', ...more], FLAG.endHeaders)
  const sent = [
    post(1, 'connection: close'),
    post(3, 'content-length: 5'),
    post(5),
    frame(FRAME.data, FLAG.endStream, 3, Buffer.from('six...')),
    post(7),
    frame(FRAME.rstStream, 0, 7, [0, 0, 0, 8]),
  ]
  client.socket.write(Buffer.concat([preface, settingsAck, ...sent]))
  while (sluice.requests.length < 4) await new Promise((resolve) => setImmediate(resolve))
  t.same(
    sluice.requests.map(({ method, status, error }) => [method, status, error]),
    [
      ['', 0, 'HTTP2_PROTOCOL_ERROR'],
      ['', 0, 'HTTP2_REFUSED_STREAM'],
      ['POST', 0, 'HTTP2_PROTOCOL_ERROR'],
      ['POST', 0, 'clientGone'],
    ],
  )
  client.socket.destroy()
})

test('rules decide each request of a connection: by authority, method, path and header', async (t) => {
  const seen: string[] = []
  let failures = 0
  const sluice = await beforeHttp2(
    t,
    (stream, fields) => {
      seen.push(`${fields[':method']} ${fields[':path']} ${fields['x-env'] ?? '-'} ${fields.cookie ?? '-'}`)
      const isLater = fields[':path'] === '/again' && failures++ === 0
      stream.respond({ ':status': isLater ? 503 : 200, server: 'theirs' })
      stream.end()
    },
    `
rules:
  - { name: no trace, when: { method: TRACE }, then: { deny: true } }
  - { name: gone, when: { authority: old.example }, then: { deny: true, http: { deny: { status: 410 } } } }
  - { name: few, when: { path: /few/** }, then: { http: { rateLimit: { requests: 1, per: 1h } } } }
  - { name: moved, when: { path: /moved }, then: { http: { redirect: { to: "https://{authority}{target}", status: 308 } } } }
  - { name: again, when: { path: /again }, then: { http: { retry: { attempts: 1, on: [503] } } } }
  - { name: beta, when: { header: { x-beta: { equals: "yes" } } }, then: { http: { request: { set: { x-env: beta } } } } }
  - { name: fields, when: { path: /api/* }, then: { http: { request: { remove: [cookie] }, response: { remove: server, set: { x-out: a } } } } }
`,
  )
  const session = http2Client(t, sluice.address.port)
  const cases: [fields: Record<string, string>, want: object][] = [
    [{ ':method': 'TRACE' }, { status: 403, headers: { 'sluice-error': 'denied' } }],
    [{ ':authority': 'old.example' }, { status: 410 }],
    [{ ':authority': 'new.example' }, { status: 200, headers: { server: 'theirs' } }],
    [{ ':path': '/few/a' }, { status: 200 }],
    [{ ':path': '/few/b' }, { status: 429, headers: { 'sluice-error': 'rateLimited' } }],
    [
      { ':path': '/moved', ':authority': 'a' },
      { status: 308, headers: { location: 'https://a/moved' } },
    ],
    [{ ':path': '/again' }, { status: 200 }],
    [{ 'x-beta': 'yes' }, { status: 200 }],
    [
      { ':path': '/api/x', cookie: 'a=b' },
      { status: 200, headers: { 'x-out': 'a', server: undefined } },
    ],
    [
      { ':path': '/api/%78?y', 'x-beta': 'yes', cookie: 'a=b' },
      { status: 200, headers: { 'x-out': 'a' } },
    ],
  ]
  for (const [fields, want] of cases) t.match(await fetchHttp2(session, fields), want, JSON.stringify(fields))
  t.same(seen, [
    ...['GET / - -', 'GET /few/a - -', 'GET /again - -', 'GET /again - -', 'GET / beta -', 'GET /api/x - -'],
    'GET /api/%78?y beta -',
  ])
  t.same(
    sluice.requests.map(({ status, attempts }) => `${status} ${attempts}`),
    ['403 0', '410 0', '200 1', '200 1', '429 0', '308 0', '200 2', '200 1', '200 1', '200 1'],
  )
})

test('never-indexed fields stay so on the way to the upstream', async (t) => {
  const seen: Buffer[] = []
  const server = (await import('node:net')).createServer((socket: Socket) => {
    socket.on('error', () => {})
    socket.write(Buffer.concat([settings(), settingsAck]))
    socket.on('data', (bytes: Buffer) => seen.push(bytes))
  })
  const sluice = await front({ host: '127.0.0.1', port: await listening(t, server) }, '')
  t.teardown(() => sluice.close())
  const stream = http2Client(t, sluice.address.port).request({
    ':path': '/',
    'x-secret': 'hush',
    [sensitiveHeaders]: ['x-secret'],
  })
  stream.on('error', () => {})
  const found = (): Buffer | undefined =>
    frames(Buffer.concat(seen).subarray(24)).find(({ type }) => type === FRAME.headers)?.payload
  while (found() === undefined) await new Promise((resolve) => setTimeout(resolve, 5))
  const block = found()!
  // A literal that is never indexed, with a new name: 0x10, then the length of the name, Huffman coded.
  const at = block.indexOf(Buffer.from([0x10, 0x80 | 6]))
  t.ok(at >= 0, block.toString('hex'))
  stream.close()
})

test('CONNECT passes from HTTP/2 to HTTP/1 and becomes a tunnel, whose halves end by themselves', async (t) => {
  const { sluice, server } = await beforeHttp1(t, (_, socket) => {
    socket.write('HTTP/1.1 200 Connected\r\nContent-Length: 0\r\n\r\n')
    socket.removeAllListeners('data')
    socket.on('data', (bytes: Buffer) => socket.write(bytes))
    return undefined
  })
  const stream = http2Client(t, sluice.address.port).request({ ':method': 'CONNECT', ':authority': 'db.example:5432' })
  t.match((await once(stream, 'response'))[0], { ':status': 200 })
  stream.write('through')
  t.equal(`${(await once(stream, 'data'))[0]}`, 'through')
  stream.end()
  stream.resume()
  await once(stream, 'end')
  t.match(server.received.join(''), /^CONNECT db\.example:5432 HTTP\/1\.1\r\n/)
})

test('behaviour 33: the limits are those of the policy', async (t) => {
  const sluice = await beforeHttp2(
    t,
    hello,
    'defaults: { http: { head: { maxFields: 5 } }, http2: { streams: 7, window: 2KiB } }',
  )
  const session = http2Client(t, sluice.address.port)
  await once(session, 'remoteSettings')
  t.match(session.remoteSettings, { maxConcurrentStreams: 7, initialWindowSize: 2048, maxHeaderListSize: 65_536 })
  const many = Object.fromEntries(Array.from({ length: 6 }, (_, at) => [`x-${at}`, 'y']))
  t.match(await fetchHttp2(session, many), { status: 431, headers: { 'sluice-error': 'headTooLarge' } })
})

test('an upstream that does not speak HTTP/2 is 502, and the Outcome says that it broke the protocol', async (t) => {
  const { sluice } = await beforeHttp1(t, 'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n', TO_HTTP2)
  t.match(await fetchHttp2(http2Client(t, sluice.address.port)), {
    status: 502,
    headers: { 'sluice-error': 'upstreamMalformed' },
  })
})

test('bodies stay whole when the client side is TLS', async (t) => {
  const { key, cert } = selfSigned('localhost')
  const open: Open = (_, __, answer) => {
    answer.head({ status: 200, reason: '', fields: [] }, false)
    return {
      data(chunk, last) {
        answer.data(chunk, last)
        answer.consumed(chunk.length)
      },
      ...{ trailers() {}, abort() {}, consumed() {} },
    }
  }
  const server = createTlsServer({ key, cert, ALPNProtocols: ['h2'] }, (socket) => {
    socket.on('error', () => {})
    const face = { limits: HTTP2_LIMITS, times: HTTP2_TIMES, clock: systemClock, count: { sent: 0, received: 0 } }
    serveHttp2(socket, { ...face, open, refuse() {}, refused() {}, ended() {} })
  })
  const port = await listening(t, server)
  const session = connectHttp2(`https://127.0.0.1:${port}`, { rejectUnauthorized: false })
  t.teardown(() => session.destroy())
  const body = randomBytes(500_000)
  const replies = await Promise.all(Array.from({ length: 8 }, () => fetchHttp2(session, { ':method': 'POST' }, body)))
  t.strictSame(
    replies.map((reply) => `${reply.status} ${reply.code} ${reply.body.equals(body)} ${reply.body.length}`),
    replies.map(() => '200 0 true 500000'),
  )
})

test('responses of many times the window of a connection pass one after another, to either version', async (t) => {
  const sluice = await beforeHttp2(
    t,
    (stream) => {
      stream.respond({ ':status': 200 })
      stream.end(Buffer.alloc(30_000))
    },
    'defaults: { upstream: { protocol: http2 }, http2: { connectionWindow: 128KiB } }',
  )
  const session = http2Client(t, sluice.address.port)
  for (let round = 0; round < 10; round++) {
    const replies = await Promise.all(Array.from({ length: 10 }, () => fetchHttp2(session)))
    if (!replies.every(({ body }) => body.length === 30_000)) t.fail('cut short')
  }
  const client = await raw(sluice.address)
  for (let nth = 0; nth < 20; nth++) {
    client.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await client.until(/\r\n0\r\n\r\n$/)
  }
  client.socket.destroy()
})

test('requests that wait for the SETTINGS of an upstream that goes away are answered', async (t) => {
  const clients: readonly (readonly [string, Buffer | string])[] = [
    [
      'HTTP/1',
      'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n',
    ],
    ['HTTP/2', Buffer.concat([preface, settingsAck, headers(1, WEBSOCKET, FLAG.endHeaders)])],
  ]
  for (const how of ['end', 'destroy'] as const)
    for (const [name, asked] of clients) {
      const server = createTcpServer((socket) => void socket.on('error', () => {})[how]())
      const policy =
        'defaults: { detect: { serverFirst: never }, upstream: { protocol: http2 }, http: { upgrade: { allow: [websocket] } } }'
      const sluice = await front({ host: '127.0.0.1', port: await listening(t, server) }, policy)
      t.teardown(() => sluice.close())
      const client = await raw(sluice.address)
      client.socket.write(asked)
      await client.until(/upstream closed the connection/)
      client.socket.destroy()
      t.same(
        sluice.requests.map(({ status, error }) => `${status} ${error}`),
        ['502 upstreamClosed'],
        `${name}, ${how}`,
      )
    }
})

test('the record of a request that was answered before it was over says how it was answered', async (t) => {
  const tooMuch = 'HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno'
  const server = await upstream((socket) => socket.once('data', () => socket.write(tooMuch)))
  const early = await front(server.address, TO_HTTP1)
  const nowhere = await front(server.address, TO_HTTP1, {
    dial: () => Promise.reject(Object.assign(new Error('no way there'), { code: 'EHOSTUNREACH' })),
  })
  t.teardown(() => {
    early.close()
    nowhere.close()
    server.close()
  })
  const begun = headers(1, [':method: POST', ':scheme: http', ':path: /', ':authority: a'], FLAG.endHeaders)
  const asked = [
    Buffer.from('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe'),
    Buffer.concat([preface, settingsAck, begun]),
  ]
  for (const [before, want] of [
    [early, '413 undefined'],
    [nowhere, '502 connectFailed'],
  ] as const) {
    for (const bytes of asked) {
      const client = await raw(before.address)
      client.socket.write(bytes)
      await client.until(/[\n\x01]no|reached/)
      client.socket.destroy()
    }
    t.same(
      before.requests.map(({ status, error }) => `${status} ${error}`),
      [want, want],
    )
  }
})
