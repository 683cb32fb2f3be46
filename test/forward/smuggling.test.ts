import { type Test, test } from 'tap'
import { receive } from '../../src/codec/http2.ts'
import { FLAG, FRAME } from '../../src/codec/http2Codes.ts'
import { type Front, front } from '../support/front.ts'
import { ask, raw, type Scripted, scripted } from '../support/http.ts'
import { block, describeFrame, frame, frames, headers, preface, record, settingsAck } from '../support/http2.ts'
import { upstream } from '../support/peers.ts'
import { parseStrictly } from '../support/strictHttp1.ts'

/** What an adversary tried: each case once passed, or is one of a kind that has passed elsewhere. */

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const WEBSOCKETS = 'http: { loopMarker: false, upgrade: { allow: [websocket] } }'

const before = async (
  t: Test,
  answer: Parameters<typeof scripted>[0] = OK,
  defaults = WEBSOCKETS,
): Promise<{ sluice: Front; server: Scripted }> => {
  const server = await scripted(answer)
  const sluice = await front(server.address, `defaults: { detect: { serverFirst: never }, ${defaults} }`)
  t.teardown(() => {
    sluice.close()
    server.close()
  })
  return { sluice, server }
}

/** Sluice before an HTTP/2 server that ends each answer by an empty DATA frame, as RFC 9113 8.1 lets it. */
const beforeLateEnd = async (t: Test, answer: () => readonly string[]): Promise<Front> => {
  const server = await upstream((socket) => {
    const asked: number[] = []
    const peer = record('server', { handler: { requestRead: ({ id }) => void asked.push(id) } })
    socket.on('data', (bytes: Buffer) => {
      receive(peer.h2, bytes, 0)
      const ends = asked.splice(0).flatMap((id) => [headers(id, answer(), OPEN), frame(FRAME.data, FLAG.endStream, id)])
      socket.write(Buffer.concat([peer.taken(), ...ends]))
    })
  })
  const sluice = await front(
    server.address,
    'defaults: { detect: { serverFirst: never }, upstream: { protocol: http2 } }',
  )
  t.teardown(() => {
    sluice.close()
    server.close()
  })
  return sluice
}

/** Sends frames after the preface, and gives what came back until the frame that is waited for. */
const speak = async (sluice: Front, sent: readonly Buffer[], until: RegExp): Promise<string[]> => {
  const client = await raw(sluice.address)
  client.socket.write(Buffer.concat([preface, settingsAck, ...sent]))
  let bytes = Buffer.alloc(0)
  const seen = await new Promise<string[]>((resolve, reject) => {
    client.socket.on('data', (chunk: Buffer) => {
      bytes = Buffer.concat([bytes, chunk])
      let end = 0
      while (bytes.length >= end + 9 && bytes.length >= end + 9 + bytes.readUIntBE(end, 3))
        end += 9 + bytes.readUIntBE(end, 3)
      const all = frames(bytes.subarray(0, end)).map(describeFrame)
      if (all.some((one) => until.test(one))) resolve(all)
    })
    client.socket.on('close', () => reject(new Error(`ended before ${until}: ${frames(bytes).map(describeFrame)}`)))
  })
  client.socket.destroy()
  return seen
}

const OPEN = FLAG.endHeaders
const ENDED = FLAG.endHeaders | FLAG.endStream

test('an Upgrade with a body is not an upgrade: its body stays framed', async (t) => {
  const { sluice, server } = await before(t)
  const upgrade = 'Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\n'
  const bodies = [
    'Content-Length: 5\r\n\r\nhello',
    'Transfer-Encoding: chunked\r\n\r\n23\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n',
  ]
  for (const body of bodies)
    for (const to of ['websocket', 'h2c\r\nHTTP2-Settings: AAMAAABk', 'h2c'])
      t.match(
        await ask(sluice.address, `POST /up HTTP/1.1\r\n${upgrade}Upgrade: ${to}\r\n${body}`),
        /^HTTP\/1.1 200 /,
        to,
      )
  const { requests, fault } = parseStrictly(server.received.join(''))
  t.equal(fault, undefined)
  t.same(
    requests.map(({ method, target, size }) => `${method} ${target} ${size}`),
    [5, 5, 5, 35, 35, 35].map((size) => `POST /up ${size}`),
  )
  t.notMatch(server.received.join(''), /upgrade|http2-settings/i)
})

test('h2c that RFC 7540 section 3.2 does not let us upgrade goes on as HTTP/1.1, and faulty settings end nothing but their own connection', async (t) => {
  const { sluice, server } = await before(t)
  const asking = (more: string) =>
    ask(
      sluice.address,
      `GET /h2c HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n${more}\r\n`,
    )
  for (const more of ['', 'HTTP2-Settings: AAMAAABk\r\nHTTP2-Settings: AAMAAABk\r\n'])
    t.match(await asking(more), /^HTTP\/1.1 200 /, more)
  t.notMatch(server.received.join(''), /upgrade|http2-settings/i)
  const faulty = [
    '0002000000ff', // ENABLE_PUSH 255
    '0004ffffffff', // INITIAL_WINDOW_SIZE over 2^31-1
    '000500000001', // MAX_FRAME_SIZE 1
    '00030000', // not six bytes
  ]
  for (const settings of [...faulty.map((hex) => Buffer.from(hex, 'hex').toString('base64url')), '!!', 'AAMAAABk='])
    t.match(await asking(`HTTP2-Settings: ${settings}\r\n`), /^HTTP\/1.1 400 /, settings)
  t.match(await ask(sluice.address, 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'), /^HTTP\/1.1 200 /)
})

test('what is no HTTP by its first line reaches nobody where the policy denies what is opaque', async (t) => {
  const server = await scripted(OK)
  const rules = '[{ name: only HTTP, when: { protocol: opaque }, then: { deny: true } }]'
  const sluice = await front(server.address, `defaults: { detect: { serverFirst: never } }\nrules: ${rules}`)
  t.teardown(() => {
    sluice.close()
    server.close()
  })
  for (const first of [
    'GET  / HTTP/1.1',
    '\r\nGET / HTTP/1.1',
    'GET / HTTP/1.2',
    'GET /',
    'GET\t/ HTTP/1.1',
    'GET / HTTP/1.1 ',
  ])
    t.equal(await ask(sluice.address, `${first}\r\nHost: a\r\n\r\n`), '', JSON.stringify(first))
  t.equal(server.connections.length, 0)
  t.match(await ask(sluice.address, 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'), /^HTTP\/1.1 200 /)
})

test('CONNECT with an Upgrade is a CONNECT', async (t) => {
  const { sluice, server } = await before(t, 'HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno')
  for (const to of ['websocket', 'h2c\r\nHTTP2-Settings: AAMAAABk'])
    t.match(
      await ask(sluice.address, `CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: Upgrade\r\nUpgrade: ${to}\r\n\r\n`),
      /^HTTP\/1.1 403 /,
    )
  t.match(
    await ask(
      sluice.address,
      'CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET /sent-for-the-tunnel HTTP/1.1\r\nHost: a\r\n\r\n',
    ),
    /^HTTP\/1.1 403 [\s\S]*Connection: close\r\n\r\nno$/,
    'what was sent for a tunnel that never was is no request',
  )
  t.match(
    server.received.join(''),
    /^(CONNECT a:80 HTTP\/1.1\r\nHost: a:80\r\n(HTTP2-Settings: AAMAAABk\r\n)?\r\n){3}$/,
  )
})

test('an answer that has no body has none, however its HTTP/2 server ends the stream', async (t) => {
  let answer: string[] = []
  const sluice = await beforeLateEnd(t, () => answer)
  const client = await raw(sluice.address)
  for (const [method, status, ...more] of [
    ['HEAD', 200],
    ['HEAD', 200, 'content-length: 5'],
    ['GET', 304],
    ['GET', 304, 'content-length: 5'],
    ['GET', 204],
    ['HEAD', 204, 'content-length: 0'],
  ] as const) {
    answer = [`:status: ${status}`, ...more, 'x: y']
    client.send(`${method} / HTTP/1.1\r\nHost: a\r\n\r\n`)
    const head = await client.until(/\r\n\r\n/)
    t.match(head, new RegExp(`^HTTP/1.1 ${status} `), `${method} ${status} ${more}`)
    t.notMatch(head, /transfer-encoding/i)
    if (status === 204) t.notMatch(head, /content-length/i)
  }
  answer = [':status: 200', 'last: yes']
  client.send('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
  t.match(await client.rest(), /^HTTP\/1.1 200 OK\r\nlast: yes\r\n/, 'and nothing is left to be read as another answer')
})

test('a transfer coding that we did not ask for is a fault of the server, and never passed on as if it was not there', async (t) => {
  const { sluice } = await before(
    t,
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n\x1f\x8b\r\n0\r\n\r\n',
  )
  t.match(await ask(sluice.address, 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'), /^HTTP\/1.1 502 [\s\S]*upstreamMalformed/)
})

test('a transfer coding that we do not know is 501, with a length that is true', async (t) => {
  const { sluice, server } = await before(t)
  for (const coding of ['gzip, chunked', '\xe9\xe9, chunked', '"a", chunked', 'chunked;q=1, chunked']) {
    const got = await ask(sluice.address, `POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ${coding}\r\n\r\n0\r\n\r\n`)
    const [head = '', body = ''] = got.split('\r\n\r\n')
    t.match(head, /^HTTP\/1.1 (501|400) /, coding)
    t.match(head, new RegExp(`Content-Length: ${body.length}\\r\\n`), coding)
  }
  t.equal(server.connections.length, 0)
})

test('a fault after a HEAD is answered with a body of the length that is announced', async (t) => {
  const { sluice } = await before(t, 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n')
  const client = await raw(sluice.address)
  client.send('HEAD / HTTP/1.1\r\nHost: a\r\n\r\n')
  await client.until(/\r\n\r\n/)
  client.send('GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n')
  const [head = '', body = ''] = (await client.rest()).split('\r\n\r\n')
  t.match(head, new RegExp(`^HTTP/1.1 400 [\\s\\S]*Content-Length: ${body.length}\\r\\n`))
})

test('HTTP/2 to HTTP/1: what has no place in a request of one connection is gone, or the request is', async (t) => {
  const { sluice, server } = await before(t, OK, 'upstream: { protocol: http1 }, http: { loopMarker: false }')
  const post = [':method: POST', ':scheme: http', ':path: /', ':authority: a']
  for (const field of [
    'transfer-encoding: chunked',
    'connection: close',
    'upgrade: websocket',
    'keep-alive: 1',
    'proxy-connection: keep-alive',
    'te: gzip',
    'x: a\r\nTransfer-Encoding: chunked',
    'x: a\0b',
    'x\r\ny: z',
    'x y: z',
    'X-Upper: z',
    'x: trailing ',
    'content-length: 5, 5',
    'content-length: +5',
    'host: b',
  ]) {
    const seen = await speak(sluice, [headers(1, [...post, field])], /rstStream 1/)
    t.ok(seen.includes('rstStream 1 PROTOCOL_ERROR'), JSON.stringify(field))
  }
  for (const [name, value] of [
    [':path', '/ HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled'],
    [':path', '/a b'],
    [':path', ''],
    [':path', 'http://b/'],
    [':method', 'GET / HTTP/1.1\r\nx: y'],
    [':method', 'G T'],
    [':scheme', 'http\r\n'],
  ] as const) {
    const fields = post
      .filter((one) => !one.startsWith(`${name}:`))
      .map((one) => one.split(/: (.*)/s).slice(0, 2) as [string, string])
    const bytes = frame(FRAME.headers, ENDED, 1, block([name, value], ...fields))
    const seen = await speak(sluice, [bytes], /rstStream 1/)
    t.ok(seen.includes('rstStream 1 PROTOCOL_ERROR'), JSON.stringify([name, value]))
  }
  t.equal(server.connections.length, 0, 'nothing was dialled')
  const refused: (readonly string[])[] = [
    [':method: GET', ':scheme: http', ':path: /', ':authority: a@b'],
    [':method: GET', ':scheme: http', ':path: /', ':authority: a b'],
    [':method: GET', ':scheme: http', ':path: /', ':authority: a:99999'],
    [':method: CONNECT', ':authority: a'],
    [':method: CONNECT', ':authority: a:'],
  ]
  for (const fields of refused)
    await speak(sluice, [headers(1, fields, fields[0]!.endsWith('CONNECT') ? OPEN : ENDED)], /headers 1/)
  t.same(
    sluice.requests.slice(-refused.length).map(({ status }) => status),
    refused.map(() => 400),
  )
  t.equal(server.connections.length, 0, 'nor was it here')
})

test('HTTP/2 to HTTP/1: authority, credentials of a hop, and trailers arrive as one server can read them', async (t) => {
  const { sluice, server } = await before(t, OK, 'upstream: { protocol: http1 }, http: { loopMarker: false }')
  const ask2 = (authority: string, ...fields: string[]) =>
    speak(
      sluice,
      [headers(1, [':method: GET', ':scheme: http', ':path: /', `:authority: ${authority}`, ...fields])],
      /data 1 2 end/,
    )
  await ask2('A.example:0080')
  await ask2('a.example:', 'proxy-authorization: secret', 'x: y')
  t.match(
    server.received.join(''),
    /^GET \/ HTTP\/1.1\r\nhost: a.example:80\r\n\r\nGET \/ HTTP\/1.1\r\nhost: a.example\r\nx: y\r\n\r\n$/,
  )
  t.same(
    sluice.requests.map(({ authority }) => authority),
    ['a.example:80', 'a.example'],
  )
  const length = server.received.join('').length
  const trailers = [
    'content-length: 9',
    'host: b',
    'authorization: c',
    'cookie: d',
    'sluice-identity: e',
    'x-check: f',
    'te: trailers',
    'trailer: x',
  ]
  await speak(
    sluice,
    [
      headers(1, [':method: POST', ':scheme: http', ':path: /', ':authority: a'], OPEN),
      frame(FRAME.data, 0, 1, Buffer.from('hello')),
      headers(1, trailers, ENDED),
    ],
    /data 1 2 end/,
  )
  t.match(
    server.received.join('').slice(length),
    /\r\n\r\n5\r\nhello\r\n0\r\n(authorization: c\r\ncookie: d\r\n)?x-check: f\r\n\r\n$/,
  )
})

test('an extended CONNECT has no length and no key of its own on the way to HTTP/1', async (t) => {
  const { sluice, server } = await before(
    t,
    'HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno',
    `upstream: { protocol: http1 }, ${WEBSOCKETS}`,
  )
  const fields = [':method: CONNECT', ':protocol: websocket', ':scheme: http', ':path: /ws', ':authority: a']
  await speak(sluice, [headers(1, [...fields, 'content-length: 5', 'sec-websocket-key: mine'], OPEN)], /data 1 2/)
  t.match(
    server.received.join(''),
    /^GET \/ws HTTP\/1.1\r\nhost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: [\w+/]{22}==\r\n\r\n$/,
  )
})

test('trailers of an HTTP/1 message hold no field of framing, routing or connection', async (t) => {
  const { sluice, server } = await before(t)
  for (const name of [
    'Content-Length',
    'Transfer-Encoding',
    'Host',
    'Connection',
    'Upgrade',
    'TE',
    'Trailer',
    'Keep-Alive',
    'Proxy-Connection',
  ]) {
    const text = `POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n${name}: 1\r\n\r\n`
    t.match(await ask(sluice.address, text), /^HTTP\/1.1 400 /, name)
  }
  t.equal(server.connections.length, 0)
})
