import fc from 'fast-check'
import { test } from 'tap'
import { authorityOf, targetOf } from '../../src/codec/authority.ts'
import {
  type Http1Event,
  type RequestRead,
  type ResponseRead,
  requestReader,
  responseReader,
} from '../../src/codec/http1.ts'
import { HTTP1_LIMITS, type Http1Limits } from '../../src/codec/http1Head.ts'
import { chunkText, lastChunkText, requestHeadText, responseHeadText } from '../../src/codec/http1Write.ts'

interface Seen {
  heads: unknown[]
  body: string
  trailers: string[]
  ended: number
  error?: string
  rest: string
}

type Any = RequestRead | ResponseRead

/** Everything a reader says of `text`, cut into pieces that end at `cuts`. */
const read = (
  text: string,
  cuts: readonly number[],
  options: { response?: string; limits?: Http1Limits } = {},
): Seen => {
  const limits = options.limits ?? HTTP1_LIMITS
  const seen: Seen = { heads: [], body: '', trailers: [], ended: 0, rest: '' }
  const responses = responseReader(limits)
  if (options.response !== undefined) responses.expect(options.response)
  const reader = options.response === undefined ? requestReader(limits) : responses
  const take = (events: Http1Event<Any>[]): void => {
    for (const event of events) {
      if (event.is === 'data') seen.body += event.bytes.toString('latin1')
      else if (event.is === 'end') {
        seen.trailers.push(...event.trailers)
        seen.ended++
      } else if (event.is === 'failed') seen.error = event.error.code
      else seen.heads.push(event.is === 'request' ? summary(event) : [event.status, event.reason, event.framing])
    }
  }
  const bytes = Buffer.from(text, 'latin1')
  let from = 0
  for (const cut of [...cuts, bytes.length]) {
    take(reader.push(bytes.subarray(from, cut)))
    from = cut
  }
  take(reader.end())
  seen.rest = reader.rest().toString('latin1')
  return seen
}

const summary = (head: RequestRead): unknown => [head.method, head.target, head.minor, head.framing, ...head.fields]

const each = (text: string): number[] => Array.from({ length: text.length }, (_, at) => at)

/** Whole, byte by byte, and with bytes after it, which must be left alone. */
const delivered = (text: string, response?: string): Seen[] => {
  const options = response === undefined ? {} : { response }
  const trailing = read(`${text}TRAILING`, [], options)
  return [read(text, [], options), read(text, each(text), options), { ...trailing, rest: '' }]
}

test('a request keeps the case, the order and the duplicates of its fields', (t) => {
  const text = 'GET /a?b HTTP/1.1\r\nhOsT: x\r\nB: 1\r\nA:\t2 \r\nB: 3\r\nE:\r\n\r\n'
  const want = [['GET', '/a?b', 1, 'none', 'hOsT', 'x', 'B', '1', 'A', '2', 'B', '3', 'E', '']]
  for (const seen of delivered(text)) t.same(seen, { heads: want, body: '', trailers: [], ended: 1, rest: '' })
  t.end()
})

test('bodies are delimited by length, by chunks, and not by anything else', (t) => {
  const head = 'POST / HTTP/1.1\r\nHost: x\r\n'
  const cases: [string, string, string[]][] = [
    ['Content-Length: 5\r\n\r\nhello', 'hello', []],
    ['Content-Length: 0\r\n\r\n', '', []],
    ['Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n', 'hello', []],
    [
      'Transfer-Encoding: Chunked\r\n\r\n5 ; a = "x;\\"y" ;b\r\nhello\r\n01\r\n!\r\n00\r\nX: y\r\nZ:\r\n\r\n',
      'hello!',
      ['X', 'y', 'Z', ''],
    ],
    ['Transfer-Encoding: chunked\r\n\r\nA;e=f\r\n0123456789\r\n0;last\r\n\r\n', '0123456789', []],
  ]
  for (const [text, body, trailers] of cases) {
    for (const seen of delivered(head + text)) {
      t.equal(seen.body, body, text)
      t.same(seen.trailers, trailers, text)
      t.equal(seen.ended, 1, text)
      t.equal(seen.error, undefined, text)
    }
  }
  t.end()
})

test('what RFC 9112 calls faulty is refused, each with its code', (t) => {
  const post = (rest: string): string => `POST / HTTP/1.1\r\nHost: x\r\n${rest}`
  const chunked = (rest: string): string => post(`Transfer-Encoding: chunked\r\n\r\n${rest}`)
  const cases: [string, string][] = [
    ['GET  / HTTP/1.1\r\n\r\n', 'HTTP1_REQUEST_LINE'],
    ['GET / HTTP/1.1 \r\n\r\n', 'HTTP1_REQUEST_LINE'],
    ['GET /a b HTTP/1.1\r\n\r\n', 'HTTP1_REQUEST_LINE'],
    [' GET / HTTP/1.1\r\n\r\n', 'HTTP1_REQUEST_LINE'],
    ['G\0T / HTTP/1.1\r\n\r\n', 'HTTP1_REQUEST_LINE'],
    ['GET /\x7f HTTP/1.1\r\n\r\n', 'HTTP1_REQUEST_LINE'],
    ['GET /\xe9 HTTP/1.1\r\n\r\n', 'HTTP1_REQUEST_LINE'],
    ['GET /open#/../closed HTTP/1.1\r\n\r\n', 'HTTP1_REQUEST_LINE'],
    ['GET /?a#b HTTP/1.1\r\n\r\n', 'HTTP1_REQUEST_LINE'],
    ['GET / HTTP/2.0\r\n\r\n', 'HTTP1_VERSION'],
    ['GET / HTTP/1.2\r\n\r\n', 'HTTP1_VERSION'],
    ['GET / http/1.1\r\n\r\n', 'HTTP1_REQUEST_LINE'],
    ['GET / HTTP/1.1\n\n', 'HTTP1_LINE_END'],
    ['GET / HTTP/1.1\r\nA: b\n\r\n', 'HTTP1_LINE_END'],
    ['GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n', 'HTTP1_LINE_END'],
    ['GET / HTTP/1.1\r\n A: b\r\n\r\n', 'HTTP1_FOLDED'],
    ['GET / HTTP/1.1\r\nA: b\r\n\tc\r\n\r\n', 'HTTP1_FOLDED'],
    ['GET / HTTP/1.1\r\nA : b\r\n\r\n', 'HTTP1_FIELD_NAME'],
    ['GET / HTTP/1.1\r\n: b\r\n\r\n', 'HTTP1_FIELD_NAME'],
    ['GET / HTTP/1.1\r\nA\r\n\r\n', 'HTTP1_LINE_END'],
    ['GET / HTTP/1.1\r\nA: \0\r\n\r\n', 'HTTP1_FIELD_VALUE'],
    [post('Content-Length: 1\r\nContent-Length: 2\r\n\r\n'), 'HTTP1_TWO_LENGTHS'],
    [post('Content-Length: 1\r\nContent-Length: 1\r\n\r\nx'), 'HTTP1_TWO_LENGTHS'],
    [post('Content-Length: 1, 1\r\n\r\nx'), 'HTTP1_LENGTH'],
    [post('Content-Length: +1\r\n\r\nx'), 'HTTP1_LENGTH'],
    [post('Content-Length: 0x1\r\n\r\nx'), 'HTTP1_LENGTH'],
    [post('Content-Length: 99999999999999999999\r\n\r\nx'), 'HTTP1_LENGTH'],
    [post('Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'), 'HTTP1_LENGTH_AND_CODING'],
    [post('Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n'), 'HTTP1_CODING'],
    [post('Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n'), 'HTTP1_CODING'],
    [post('Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n'), 'HTTP1_CODING'],
    [post('Transfer-Encoding: \xa0chunked\r\n\r\n0\r\n\r\n'), 'HTTP1_CODING'],
    [post('Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n'), 'HTTP1_FIELD_VALUE'],
    [post('Transfer-Encoding:\r\n\r\n0\r\n\r\n'), 'HTTP1_CODING'],
    ['POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', 'HTTP1_CODING'],
    [chunked('x\r\n'), 'HTTP1_CHUNK_SIZE'],
    [chunked('\r\n'), 'HTTP1_CHUNK_SIZE'],
    [chunked('-1\r\n'), 'HTTP1_CHUNK_SIZE'],
    [chunked('0x1\r\n'), 'HTTP1_CHUNK_SIZE'],
    [chunked('1_0\r\n'), 'HTTP1_CHUNK_SIZE'],
    [chunked('20000000000000\r\n'), 'HTTP1_CHUNK_SIZE'],
    [chunked('1\n'), 'HTTP1_CHUNK_SIZE'],
    [chunked('1;a\n'), 'HTTP1_CHUNK_EXTENSION'],
    [chunked('1 \r\n'), 'HTTP1_CHUNK_EXTENSION'],
    [chunked('1;\r\n'), 'HTTP1_CHUNK_EXTENSION'],
    [chunked(`1;a=${'x'.repeat(5000)}\r\n`), 'HTTP1_CHUNK_EXTENSION'],
    [chunked('1\r\nxy\r\n'), 'HTTP1_CHUNK_END'],
    [chunked('1\r\nx\ry'), 'HTTP1_CHUNK_END'],
    [chunked('0\r\nContent-Length: 5\r\n\r\n'), 'HTTP1_TRAILER'],
    [chunked('0\r\nX : y\r\n\r\n'), 'HTTP1_FIELD_NAME'],
    [chunked('5\r\nhel'), 'HTTP1_CUT_SHORT'],
    [post('Content-Length: 5\r\n\r\nhel'), 'HTTP1_CUT_SHORT'],
    ['GET / HT', 'HTTP1_CUT_SHORT'],
  ]
  for (const [text, code] of cases) {
    t.equal(read(text, []).error, code, JSON.stringify(text))
    t.same(read(text, each(text)), read(text, []), `byte by byte: ${JSON.stringify(text.slice(0, 99))}`)
  }
  t.end()
})

test('limits hold wherever the bytes are cut', (t) => {
  const limits = { headBytesMax: 100, fieldsMax: 3 }
  const cases: [string, string][] = [
    [`GET /${'x'.repeat(100)} HTTP/1.1\r\n\r\n`, 'HTTP1_TARGET_BYTES'],
    [`GET / HTTP/1.1\r\nA: ${'x'.repeat(100)}\r\n\r\n`, 'HTTP1_HEAD_BYTES'],
    [`GET / HTTP/1.1\r\n${'A: b\r\n'.repeat(4)}\r\n`, 'HTTP1_HEAD_FIELDS'],
    [`POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: ${'x'.repeat(100)}\r\n\r\n`, 'HTTP1_HEAD_BYTES'],
    [`POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n${'A: b\r\n'.repeat(4)}\r\n`, 'HTTP1_HEAD_FIELDS'],
    ['\r\n'.repeat(20), 'HTTP1_REQUEST_LINE'],
  ]
  for (const [text, code] of cases) {
    t.equal(read(text, [], { limits }).error, code, text)
    t.equal(read(text, each(text), { limits }).error, code, `byte by byte: ${text}`)
  }
  t.equal(read('GET / HTTP/1.1\r\nA: b\r\nA: b\r\nA: b\r\n\r\n', [], { limits }).error, undefined)
  t.end()
})

test('a response is delimited as RFC 9112 section 6.3 orders', (t) => {
  const cases: [string, string, string, string][] = [
    ['GET', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi', 'length', 'hi'],
    ['GET', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi', 'length', 'hi'],
    ['GET', 'HTTP/1.0 200\r\n\r\nhi', 'close', 'hi'],
    ['GET', 'HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n', 'chunked', 'hi'],
    ['HEAD', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n', 'none', ''],
    ['HEAD', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', 'none', ''],
    ['GET', 'HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n', 'none', ''],
    ['GET', 'HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n', 'none', ''],
    ['CONNECT', 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nraw', 'tunnel', 'raw'],
    ['CONNECT', 'HTTP/1.1 403 No\r\nContent-Length: 1\r\n\r\nx', 'length', 'x'],
    ['GET', 'HTTP/1.1 101 Switching Protocols\r\n\r\nraw', 'tunnel', 'raw'],
  ]
  for (const [method, text, framing, body] of cases) {
    for (const seen of [read(text, [], { response: method }), read(text, each(text), { response: method })]) {
      t.equal((seen.heads[0] as unknown[])[2], framing, text)
      t.equal(seen.body, body, text)
      t.equal(seen.error, undefined, text)
    }
  }
  const interim = 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx'
  t.same(
    read(interim, each(interim), { response: 'GET' }).heads,
    [
      [100, 'Continue', 'none'],
      [103, 'Early Hints', 'none'],
      [200, 'OK', 'close'],
    ],
    '1xx come before the response',
  )
  t.end()
})

test('a faulty response is refused, each with its code', (t) => {
  const cases: [string, string][] = [
    ['HTTP/1.1 20 OK\r\n\r\n', 'HTTP1_STATUS_LINE'],
    ['HTTP/1.1 2000 OK\r\n\r\n', 'HTTP1_STATUS_LINE'],
    ['HTTP/1.1 099 OK\r\n\r\n', 'HTTP1_STATUS_LINE'],
    ['HTTP/1.1  200 OK\r\n\r\n', 'HTTP1_STATUS_LINE'],
    ['HTTP/1.1 200 O\0K\r\n\r\n', 'HTTP1_STATUS_LINE'],
    ['HTTP/2.0 200 OK\r\n\r\n', 'HTTP1_VERSION'],
    ['ICY 200 OK\r\n\r\n', 'HTTP1_REQUEST_LINE'],
    ['\r\nHTTP/1.1 200 OK\r\n\r\n', 'HTTP1_REQUEST_LINE'],
    ['HTTP/1.1 200 OK\n\r\n', 'HTTP1_LINE_END'],
    ['HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n', 'HTTP1_LENGTH_AND_CODING'],
    ['HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n', 'HTTP1_TWO_LENGTHS'],
    ['HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n', 'HTTP1_CODING'],
    ['HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', 'HTTP1_CODING'],
    ['HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel', 'HTTP1_CUT_SHORT'],
  ]
  for (const [text, code] of cases) {
    t.equal(read(text, [], { response: 'GET' }).error, code, JSON.stringify(text))
    t.same(read(text, each(text), { response: 'GET' }), read(text, [], { response: 'GET' }), 'byte by byte')
  }
  t.end()
})

test('the target and Host say where a request goes, or it is refused', (t) => {
  const head = (method: string, target: string, host?: string, minor = 1, hosts = host === undefined ? 0 : 1) =>
    ({ method, target, host, minor, hosts, framing: 'none' }) as unknown as RequestRead
  const good: [RequestRead, unknown][] = [
    [head('GET', '/a', 'Ex.Example:8080'), { authority: 'ex.example:8080', target: '/a', absolute: false }],
    [head('GET', 'http://U.example?x', 'other'), { authority: 'u.example', target: '/?x', absolute: true }],
    [head('GET', 'HTTPS://u:0443/a#b', 'u'), { scheme: 'https', authority: 'u:443', target: '/a#b', absolute: true }],
    [head('OPTIONS', 'http://u', 'u'), { target: '*', absolute: true }],
    [head('OPTIONS', '*', 'u'), { target: '*', absolute: false }],
    [head('CONNECT', '[::1]:443', 'x'), { authority: '[::1]:443', target: '[::1]:443' }],
    [head('GET', '/', undefined, 0), { authority: '' }],
    [head('GET', '/', '', 0), { authority: '' }],
  ]
  for (const [request, want] of good) t.hasStrict(targetOf(request), want, request.target)
  const bad: [RequestRead, string][] = [
    [head('GET', '/'), 'HTTP1_HOST_MISSING'],
    [head('GET', '/', ''), 'HTTP1_HOST'],
    [head('GET', '/', 'a b'), 'HTTP1_HOST'],
    [head('GET', '/', 'a@b'), 'HTTP1_HOST'],
    [head('GET', '/', 'a/b'), 'HTTP1_HOST'],
    [head('GET', '/', 'a:b'), 'HTTP1_HOST'],
    [head('GET', '/', 'a', 1, 2), 'HTTP1_TWO_HOSTS'],
    [head('GET', '/', 'a', 0, 2), 'HTTP1_TWO_HOSTS'],
    [head('GET', '*', 'a'), 'HTTP1_TARGET'],
    [head('GET', 'test', 'a'), 'HTTP1_TARGET'],
    [head('GET', 'a:1', 'a'), 'HTTP1_TARGET'],
    [head('GET', 'http://', 'a'), 'HTTP1_TARGET'],
    [head('GET', 'http://u@a/', 'a'), 'HTTP1_TARGET'],
    [head('GET', 'ftp://a/', 'a'), 'HTTP1_TARGET'],
    ...['/x', '/', 'http://test/bar', 'http://test', '*', 'a', 'a:', 'a:0', 'a:65536'].map(
      (target): [RequestRead, string] => [head('CONNECT', target, 'a'), 'HTTP1_CONNECT'],
    ),
    [head('CONNECT', 'a:1', 'a', 0), 'HTTP1_CONNECT'],
  ]
  for (const [request, code] of bad) t.throws(() => targetOf(request), { code }, `${request.method} ${request.target}`)
  t.end()
})

test('an authority is a host and perhaps a port', (t) => {
  for (const text of ['[::1]', '[fd00::a:1]:80', '[::ffff:1.2.3.4]', 'a_b', 'x%20y', '1.2.3.4:9'])
    t.ok(authorityOf(text), text)
  for (const text of [
    '[::1',
    '[1:2]',
    '[::1%25eth0]',
    '[::ffff:1.2.3.400]',
    '%zz',
    ':80',
    'a:b:c',
    'a\tb',
    '[1::2::3]',
  ]) {
    t.equal(authorityOf(text), undefined, text)
  }
  t.end()
})

const token = fc.stringMatching(/^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,12}$/)
const value = fc.stringMatching(/^([!-~\x80-\xff]([ \t!-~\x80-\xff]{0,20}[!-~\x80-\xff])?)?$/)
const DERIVED = /^(host|content-length|transfer-encoding|connection|upgrade|te|trailer|expect)$/i
const fieldList = fc
  .array(fc.tuple(token, value), { maxLength: 8 })
  .map((pairs) => pairs.filter(([name]) => !DERIVED.test(name)).flat())
const chunkList = fc.array(fc.string({ minLength: 1, maxLength: 40, unit: 'binary-ascii' }), { maxLength: 5 })
const cutsOf = (length: number) => fc.array(fc.nat(length), { maxLength: 12 }).map((cuts) => cuts.sort((a, b) => a - b))

const chunkedText = (chunks: string[], trailers: string[]): string =>
  chunks.map((chunk) => `${chunkText(chunk.length)}${chunk}\r\n`).join('') + lastChunkText(trailers)

test('what the writer writes the reader reads, wherever it is cut', (t) => {
  fc.assert(
    fc.property(
      token,
      fieldList,
      chunkList,
      fieldList,
      fc.infiniteStream(fc.nat(1000)),
      (method, fields, chunks, trailers, dice) => {
        const coding = 'Transfer-Encoding: chunked\r\n'
        const request =
          requestHeadText(method, '/a', 1, ['Host', 'x', ...fields], coding) + chunkedText(chunks, trailers)
        const response = responseHeadText(1, 200, 'OK', fields, coding) + chunkedText(chunks, trailers)
        const cuts = (text: string): number[] =>
          [dice.next().value, dice.next().value, dice.next().value].map((at) => at % text.length).sort((a, b) => a - b)
        const seen = read(request, cuts(request))
        const wanted = { body: chunks.join(''), trailers, ended: 1, rest: '' }
        const head = [method, '/a', 1, 'chunked', 'Host', 'x', ...fields, 'Transfer-Encoding', 'chunked']
        t.strictSame(seen, { heads: [head], ...wanted })
        t.strictSame(read(response, cuts(response), { response: 'GET' }), {
          heads: [[200, 'OK', 'chunked']],
          ...wanted,
        })
      },
    ),
    { numRuns: 200 },
  )
  t.end()
})

test('any bytes give the same events wherever they are cut', (t) => {
  const pieces = fc.constantFrom(
    'GET / HTTP/1.1\r\n',
    'POST /a HTTP/1.0\r\n',
    'Host: x\r\n',
    'Content-Length: 3\r\n',
    'Transfer-Encoding: chunked\r\n',
    '\r\n',
    '\n',
    '\r',
    '3\r\n',
    'abc\r\n',
    '0\r\n',
    ' ',
    ';a=b',
    '"',
    'X: y\r\n',
    '\0',
    'HTTP/1.1 200 OK\r\n',
    'ffff',
  )
  const text = fc.array(pieces, { maxLength: 14 }).map((parts) => parts.join(''))
  const scene = text.chain((all) =>
    fc.tuple(fc.constant(all), cutsOf(all.length), fc.constantFrom(undefined, 'GET', 'HEAD')),
  )
  fc.assert(
    fc.property(scene, ([all, cuts, response]) => {
      const options = response === undefined ? {} : { response }
      t.strictSame(read(all, cuts, options), read(all, [], options))
    }),
    { numRuns: 2000 },
  )
  t.end()
})
