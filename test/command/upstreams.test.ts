import { type AddressInfo, createServer, type Socket } from 'node:net'
import { createServer as createTls } from 'node:tls'
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib'
import { test } from 'tap'
import { startTestConnector } from '../support/connector.ts'
import { answer, type Behaviour, startRawUpstream } from '../support/rawUpstream.ts'
import { selfSigned } from '../support/selfSigned.ts'

const JSON_TYPE = 'application/json'
const raw = (text: string) => ({ raw_response: text })

interface Case {
  readonly name: string
  readonly does: Behaviour
  readonly status: number
  readonly body: unknown
  /** error_code; absent: no error. */
  readonly error?: string
  readonly id?: string
}

const chunked = (type: string, body: string): string =>
  `HTTP/1.1 200 OK\r\nContent-Type: ${type}\r\nTransfer-Encoding: chunked\r\n\r\n${body}`
const gzipped = (body: Buffer, coding = 'gzip'): Buffer =>
  answer(200, JSON_TYPE, body, `Content-Encoding: ${coding}\r\n`)
const OBJECT = '{"a":1}'

const CASES: readonly Case[] = [
  // Statuses: data to us, never our own status.
  ...[200, 201, 202, 203, 206, 207, 226].map(
    (status): Case => ({ name: `status ${status}`, does: answer(status, JSON_TYPE, OBJECT), status, body: { a: 1 } }),
  ),
  { name: 'status 204 has no body', does: 'HTTP/1.1 204 No Content\r\n\r\n', status: 204, body: raw('') },
  { name: 'status 205', does: 'HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n', status: 205, body: raw('') },
  ...[400, 401, 403, 404, 409, 410, 418, 422, 429, 451, 500, 501, 502, 503, 504, 599].map(
    (status): Case => ({
      name: `status ${status}`,
      does: answer(status, JSON_TYPE, OBJECT),
      status,
      body: { a: 1 },
      error: `HttpError${status}`,
    }),
  ),
  {
    name: 'a redirect is not followed by the first version',
    does: 'HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n',
    status: 302,
    body: raw(''),
    error: 'HttpError302',
  },
  {
    name: '304 without a body',
    does: 'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n',
    status: 304,
    body: raw(''),
    error: 'HttpError304',
  },
  {
    name: 'the second version follows a redirect',
    id: 'http/GetRequestV2',
    does: 'HTTP/1.1 302 Found\r\nLocation: /landed\r\nContent-Length: 0\r\n\r\n',
    status: 200,
    body: { landed: true },
  },
  {
    name: 'a redirect without a Location is the answer',
    id: 'http/GetRequestV2',
    does: 'HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n',
    status: 302,
    body: raw(''),
  },
  {
    name: 'a redirect to itself for ever',
    id: 'http/GetRequestV2',
    does: (socket, request) =>
      socket.end(`HTTP/1.1 307 Again\r\nLocation: ${request.split(' ')[1]}\r\nContent-Length: 0\r\n\r\n`),
    status: 502,
    body: {},
    error: 'too_many_redirects',
  },
  {
    name: 'a redirect to a scheme that is not HTTP',
    id: 'http/GetRequestV2',
    does: 'HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n',
    status: 400,
    body: {},
    error: 'invalid_url',
  },
  {
    name: 'a redirect to what is no URL',
    id: 'http/GetRequestV2',
    does: 'HTTP/1.1 302 Found\r\nLocation: http://[oops/\r\nContent-Length: 0\r\n\r\n',
    status: 502,
    body: {},
    error: 'invalid_response',
  },
  // Content types.
  {
    name: 'JSON with a charset',
    does: answer(200, 'application/json; charset=utf-8', '{"ü":1}'),
    status: 200,
    body: { ü: 1 },
  },
  { name: 'JSON in any case', does: answer(200, 'Application/JSON', OBJECT), status: 200, body: { a: 1 } },
  {
    name: 'problem+json is text, as documented',
    does: answer(200, 'application/problem+json', OBJECT),
    status: 200,
    body: raw(OBJECT),
  },
  { name: 'text', does: answer(200, 'text/plain', 'hello'), status: 200, body: raw('hello') },
  { name: 'HTML', does: answer(200, 'text/html; charset=UTF-8', '<p>ö</p>'), status: 200, body: raw('<p>ö</p>') },
  { name: 'XML', does: answer(200, 'application/xml', '<a/>'), status: 200, body: raw('<a/>') },
  {
    name: 'no content type',
    does: 'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}',
    status: 200,
    body: raw(OBJECT),
  },
  {
    name: 'two content types',
    does: 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}',
    status: 200,
    body: raw(OBJECT),
  },
  { name: 'an empty JSON body', does: answer(200, JSON_TYPE, ''), status: 200, body: raw('') },
  { name: 'a JSON string', does: answer(200, JSON_TYPE, '"just a string"'), status: 200, body: 'just a string' },
  { name: 'a JSON number', does: answer(200, JSON_TYPE, '12'), status: 200, body: 12 },
  { name: 'JSON null', does: answer(200, JSON_TYPE, 'null'), status: 200, body: null },
  { name: 'JSON false', does: answer(200, JSON_TYPE, 'false'), status: 200, body: false },
  { name: 'a JSON list', does: answer(200, JSON_TYPE, '[1,2]'), status: 200, body: [1, 2] },
  { name: 'JSON with white space around', does: answer(200, JSON_TYPE, ' \r\n{"a":1}\n'), status: 200, body: { a: 1 } },
  { name: 'JSON after a byte order mark', does: answer(200, JSON_TYPE, '\uFEFF{"a":1}'), status: 200, body: { a: 1 } },
  { name: 'duplicate keys: the last wins', does: answer(200, JSON_TYPE, '{"a":1,"a":2}'), status: 200, body: { a: 2 } },
  {
    name: 'a key named __proto__ is a key',
    does: answer(200, JSON_TYPE, '{"__proto__":{"x":1}}'),
    status: 200,
    body: JSON.parse('{"__proto__":{"x":1}}'),
  },
  {
    name: 'broken JSON',
    does: answer(200, JSON_TYPE, '{"a":'),
    status: 200,
    body: raw('{"a":'),
    error: 'invalid_json',
  },
  {
    name: 'NaN is not JSON',
    does: answer(200, JSON_TYPE, '{"a":NaN}'),
    status: 200,
    body: raw('{"a":NaN}'),
    error: 'invalid_json',
  },
  {
    name: 'broken JSON under an error status',
    does: answer(500, JSON_TYPE, '<oops>'),
    status: 500,
    body: raw('<oops>'),
    error: 'HttpError500',
  },
  // Charsets.
  {
    name: 'latin-1',
    does: answer(200, 'text/plain; charset=ISO-8859-1', Buffer.from([0xe9])),
    status: 200,
    body: raw('é'),
  },
  {
    name: 'windows-1252',
    does: answer(200, 'text/plain; charset=windows-1252', Buffer.from([0x80])),
    status: 200,
    body: raw('€'),
  },
  {
    name: 'Shift_JIS',
    does: answer(200, 'text/plain; charset=Shift_JIS', Buffer.from([0x93, 0xfa])),
    status: 200,
    body: raw('日'),
  },
  {
    name: 'UTF-16',
    does: answer(200, 'text/plain; charset=utf-16le', Buffer.from('hé', 'utf16le')),
    status: 200,
    body: raw('hé'),
  },
  {
    name: 'JSON in latin-1',
    does: answer(200, 'application/json; charset=latin1', Buffer.from('{"a":"é"}', 'latin1')),
    status: 200,
    body: { a: 'é' },
  },
  {
    name: 'an unknown charset is read as UTF-8',
    does: answer(200, 'text/plain; charset=klingon', 'ö'),
    status: 200,
    body: raw('ö'),
  },
  { name: 'a quoted charset', does: answer(200, 'text/plain; charset="utf-8"', 'ö'), status: 200, body: raw('ö') },
  {
    name: 'bytes that are no text',
    does: answer(200, 'text/plain', Buffer.from([0x66, 0xff, 0xfe])),
    status: 200,
    body: raw('f\uFFFD\uFFFD'),
  },
  // Content encodings.
  { name: 'gzip', does: gzipped(gzipSync(OBJECT)), status: 200, body: { a: 1 } },
  { name: 'x-gzip', does: gzipped(gzipSync(OBJECT), 'x-gzip'), status: 200, body: { a: 1 } },
  { name: 'deflate', does: gzipped(deflateSync(OBJECT), 'deflate'), status: 200, body: { a: 1 } },
  {
    name: 'deflate without its zlib header',
    does: gzipped(deflateRawSync(OBJECT), 'deflate'),
    status: 200,
    body: { a: 1 },
  },
  { name: 'brotli', does: gzipped(brotliCompressSync(OBJECT), 'br'), status: 200, body: { a: 1 } },
  { name: 'zstd', does: gzipped(zstdCompressSync(OBJECT), 'zstd'), status: 200, body: { a: 1 } },
  { name: 'gzip twice', does: gzipped(gzipSync(gzipSync(OBJECT)), 'gzip, gzip'), status: 200, body: { a: 1 } },
  { name: 'identity', does: gzipped(Buffer.from(OBJECT), 'identity'), status: 200, body: { a: 1 } },
  { name: 'an empty gzip body', does: gzipped(Buffer.alloc(0)), status: 200, body: raw('') },
  { name: 'gzip that is not', does: gzipped(Buffer.from('hello')), status: 502, body: {}, error: 'invalid_response' },
  {
    name: 'gzip cut short',
    does: gzipped(gzipSync('x'.repeat(5000)).subarray(0, 20)),
    status: 502,
    body: {},
    error: 'invalid_response',
  },
  {
    name: 'an unknown encoding',
    does: gzipped(Buffer.from('x'), 'snappy'),
    status: 502,
    body: {},
    error: 'invalid_response',
  },
  {
    name: 'four encodings',
    does: gzipped(Buffer.from('x'), 'gzip, gzip, gzip, gzip'),
    status: 502,
    body: {},
    error: 'invalid_response',
  },
  // Framing.
  { name: 'chunked', does: chunked(JSON_TYPE, '3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n'), status: 200, body: { a: 1 } },
  {
    name: 'chunked with extensions and trailers',
    does: chunked(JSON_TYPE, '7;x=y\r\n{"a":1}\r\n0\r\nX-Sum: 1\r\n\r\n'),
    status: 200,
    body: { a: 1 },
  },
  {
    name: 'a body that ends with the connection',
    does: `HTTP/1.1 200 OK\r\nContent-Type: ${JSON_TYPE}\r\n\r\n{"a":1}`,
    status: 200,
    body: { a: 1 },
  },
  {
    name: 'HTTP/1.0',
    does: `HTTP/1.0 200 OK\r\nContent-Type: ${JSON_TYPE}\r\n\r\n{"a":1}`,
    status: 200,
    body: { a: 1 },
  },
  {
    name: '100 Continue before the answer',
    does: `HTTP/1.1 100 Continue\r\n\r\n${answer(200, JSON_TYPE, OBJECT)}`,
    status: 200,
    body: { a: 1 },
  },
  {
    name: '102 and 103 before the answer',
    does: `HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </s>\r\n\r\n${answer(200, JSON_TYPE, OBJECT)}`,
    status: 200,
    body: { a: 1 },
  },
  {
    name: "bytes after the answer are nobody's",
    does: `${answer(200, JSON_TYPE, OBJECT)}HTTP/1.1 200 OK\r\n\r\nextra`,
    status: 200,
    body: { a: 1 },
  },
  {
    name: 'segment by segment',
    does: (socket) => byteByByte(socket, answer(200, JSON_TYPE, OBJECT)),
    status: 200,
    body: { a: 1 },
  },
  {
    name: 'closed before any answer',
    does: (socket) => socket.end(),
    status: 502,
    body: {},
    error: 'connection_reset',
  },
  {
    name: 'reset before any answer',
    does: (socket) => socket.resetAndDestroy(),
    status: 502,
    body: {},
    error: 'connection_reset',
  },
  {
    name: 'reset in the body',
    does: (socket) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf', () =>
        setImmediate(() => socket.resetAndDestroy()),
      )
    },
    status: 502,
    body: {},
    error: 'connection_reset',
  },
  {
    name: 'closed in the body',
    does: 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf',
    status: 502,
    body: {},
    error: 'connection_reset',
  },
  {
    name: 'closed in a chunk',
    does: chunked(JSON_TYPE, '10\r\n{"a"'),
    status: 502,
    body: {},
    error: 'connection_reset',
  },
  { name: 'not HTTP', does: 'SSH-2.0-OpenSSH_9.2\r\n', status: 502, body: {}, error: 'invalid_response' },
  {
    name: 'a chunk size that is none',
    does: chunked(JSON_TYPE, 'zz\r\n'),
    status: 502,
    body: {},
    error: 'invalid_response',
  },
  {
    name: 'two differing lengths',
    does: 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab',
    status: 502,
    body: {},
    error: 'invalid_response',
  },
  {
    name: 'a length and chunks',
    does: 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    status: 502,
    body: {},
    error: 'invalid_response',
  },
  {
    name: 'a head without end',
    does: (socket) => {
      socket.write(`HTTP/1.1 200 OK\r\nX: ${'x'.repeat(100_000)}`)
    },
    status: 502,
    body: {},
    error: 'invalid_response',
  },
  { name: 'slow: nothing ever', does: () => {}, status: 504, body: {}, error: 'timeout' },
  {
    name: 'slow: a head and then nothing',
    does: (socket) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n')
    },
    status: 504,
    body: {},
    error: 'timeout',
  },
  { name: 'endless', does: (socket) => endless(socket), status: 502, body: {}, error: 'response_too_large' },
  {
    name: 'huge by its own word',
    does: 'HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx',
    status: 502,
    body: {},
    error: 'response_too_large',
  },
  {
    name: 'one byte more than the limit',
    does: answer(200, 'text/plain', 'x'.repeat(100_001)),
    status: 502,
    body: {},
    error: 'response_too_large',
  },
  {
    name: 'just the limit',
    does: answer(200, 'text/plain', 'x'.repeat(100_000)),
    status: 200,
    body: raw('x'.repeat(100_000)),
  },
  {
    name: 'a bomb',
    does: gzipped(gzipSync(Buffer.alloc(50_000_000))),
    status: 502,
    body: {},
    error: 'response_too_large',
  },
  {
    name: 'a bomb in a bomb',
    does: gzipped(gzipSync(gzipSync(Buffer.alloc(50_000_000))), 'gzip, gzip'),
    status: 502,
    body: {},
    error: 'response_too_large',
  },
]

const byteByByte = (socket: Socket, bytes: Buffer, at = 0): void => {
  if (at === bytes.length) return void socket.end()
  socket.write(bytes.subarray(at, at + 1), () => setImmediate(() => byteByByte(socket, bytes, at + 1)))
}

const endless = (socket: Socket): void => {
  socket.write('HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n')
  const more = (): void => {
    while (!socket.destroyed && socket.write(Buffer.alloc(16_384)));
  }
  socket.on('drain', more)
  more()
}

test('what upstreams do, and what their callers learn', async (t) => {
  const behaviours: Record<string, Behaviour> = { '/landed': answer(200, JSON_TYPE, '{"landed":true}') }
  for (const [index, { does }] of CASES.entries()) behaviours[`/${index}`] = does
  const upstream = await startRawUpstream(t, behaviours)
  const { run, post, errors } = await startTestConnector(t, { commands: 'maxResponse: 100kB, timeout: 3s' })
  t.ok(CASES.length >= 60, `${CASES.length} behaviours`)
  await Promise.all(
    CASES.map(async ({ name, status, body, error, id = 'http/GetRequest' }, index) => {
      const response = await post(`/v1/do/${id}`, { url: upstream.url(`/${index}`) })
      const envelope = (await response.json()) as Awaited<ReturnType<typeof run>>
      t.equal(response.status, 200, `${name}: our own status is 200`)
      t.strictSame(envelope.command_response.body, body, `${name}: body`)
      t.equal(envelope.command_response.http_status, status, `${name}: http_status`)
      t.equal(envelope.command_response.mimetype, 'application/json')
      t.equal(envelope.command_response_version, 2)
      t.equal(envelope.error?.error_code, error, `${name}: error`)
      if (error !== undefined) t.ok(envelope.error?.message, `${name}: message`)
      t.strictSame(envelope.spiff__logs, [], `${name}: no logs`)
    }),
  )
  t.strictSame(errors, [], 'no defect was found')
})

test('every method against answers without a body', async (t) => {
  const upstream = await startRawUpstream(t, {
    '/head': 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n',
    '/gzip':
      'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 99999999999\r\n\r\n',
  })
  const { run } = await startTestConnector(t)
  for (const path of ['/head', '/gzip']) {
    const { command_response, error } = await run('http/HeadRequest', { url: upstream.url(path) })
    t.strictSame([command_response.http_status, command_response.body, error], [200, { raw_response: '' }, null])
  }
})

test('integers that no double holds arrive digit for digit', async (t) => {
  const text = '{"id":12345678901234567890,"small":-9007199254740993,"big":1e999,"float":0.1}'
  const upstream = await startRawUpstream(t, {
    '/': answer(200, JSON_TYPE, text),
    '/echo': (socket, request) => socket.end(answer(200, JSON_TYPE, request.slice(request.indexOf('\r\n\r\n') + 4))),
  })
  const { post } = await startTestConnector(t)
  const got = await (await post('/v1/do/http/GetRequest', { url: upstream.url('/') })).text()
  t.match(got, `"body":${text}`)
  const sent = await (await post('/v1/do/http/PostRequest', `{"url":"${upstream.url('/echo')}","data":${text}}`)).text()
  t.match(sent, `"body":${text}`)
})

test('JSON is read down to 500 levels, and what is deeper is text', async (t) => {
  const nested = (depth: number): string => `${'['.repeat(depth)}"[\\"["${']'.repeat(depth)}`
  const upstream = await startRawUpstream(t, {
    '/500': answer(200, JSON_TYPE, nested(500)),
    '/501': answer(200, JSON_TYPE, nested(501)),
    '/1000000': answer(200, JSON_TYPE, nested(1e6)),
  })
  const { run, post } = await startTestConnector(t)
  t.equal((await run('http/GetRequest', { url: upstream.url('/500') })).error, null)
  for (const path of ['/501', '/1000000']) {
    const { error, command_response } = await run('http/GetRequest', { url: upstream.url(path) })
    t.equal(error?.error_code, 'invalid_json')
    t.match(command_response.body, { raw_response: /^\[\[/ })
  }
  t.equal((await post('/v1/do/http/GetRequest', `{"url":${nested(600)}}`)).status, 400)
})

test('a bomb costs the limit and not what it would become', async (t) => {
  const bomb = gzipSync(Buffer.alloc(512 * 2 ** 20), { level: 1 })
  const upstream = await startRawUpstream(t, { '/': gzipped(bomb) })
  const { run } = await startTestConnector(t, { commands: 'maxResponse: 1MiB' })
  const before = process.memoryUsage.rss()
  const all = await Promise.all(Array.from({ length: 20 }, () => run('http/GetRequest', { url: upstream.url('/') })))
  t.strictSame([...new Set(all.map(({ error }) => error?.error_code))], ['response_too_large'])
  const grown = (process.memoryUsage.rss() - before) / 2 ** 20
  t.ok(grown < 200, `20 bombs of 512 MiB grew the process by ${grown.toFixed(0)} MiB`)
})

test('answers share a budget of memory', async (t) => {
  const upstream = await startRawUpstream(t, {
    '/': answer(200, 'text/plain', 'x'.repeat(900_000)),
    '/slow': (socket) => void socket.write(`HTTP/1.1 200 OK\r\nContent-Length: 900001\r\n\r\n${'x'.repeat(900_000)}`),
  })
  const { run } = await startTestConnector(t, { commands: 'maxMemory: 1MiB, timeout: 1s' })
  const slow = run('http/GetRequest', { url: upstream.url('/slow') })
  let busy: string | undefined
  while (busy === undefined) busy = (await run('http/GetRequest', { url: upstream.url('/') })).error?.error_code
  t.equal(busy, 'busy', 'while one answer holds most of it')
  t.equal((await slow).error?.error_code, 'timeout')
  t.equal((await run('http/GetRequest', { url: upstream.url('/') })).error, null, 'and given back afterwards')
})

test('TLS: trusted, and every way not to be', async (t) => {
  const good = selfSigned('good.example')
  const server = createTls({ key: good.key, cert: good.cert }, (socket) => {
    socket.on('error', () => {})
    socket.once('data', () => socket.end(answer(200, JSON_TYPE, '{"alpn":true}')))
  })
  server.on('tlsClientError', () => {})
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const port = (server.address() as AddressInfo).port
  const plain = createServer((socket) => {
    socket.on('error', () => {})
    socket.end('220 not.tls.example ESMTP\r\n')
  })
  await new Promise<void>((resolve) => plain.listen(0, '127.0.0.1', resolve))
  t.teardown(() => plain.close())
  const resolve = async (): Promise<string[]> => ['127.0.0.1']
  const trusting = await startTestConnector(t, { resolve, ca: good.cert })
  const strict = await startTestConnector(t, { resolve })
  const cases = [
    { name: 'trusted', by: trusting, url: `https://good.example:${port}/`, error: undefined },
    { name: 'another name', by: trusting, url: `https://bad.example:${port}/`, error: 'tls_failed' },
    { name: 'not trusted', by: strict, url: `https://good.example:${port}/`, error: 'tls_failed' },
    { name: 'by address', by: trusting, url: `https://127.0.0.1:${port}/`, error: 'tls_failed' },
    {
      name: 'not TLS at all',
      by: trusting,
      url: `https://good.example:${(plain.address() as AddressInfo).port}/`,
      error: 'tls_failed',
    },
  ]
  for (const { name, by, url, error } of cases) {
    const envelope = await by.run('http/GetRequest', { url })
    t.equal(envelope.error?.error_code, error, `${name}: ${envelope.error?.message}`)
  }
  t.strictSame(trusting.outcomes.map(({ ended, sni }) => [ended, sni]).slice(0, 2), [
    ['closed', 'good.example'],
    ['tlsFailed', 'bad.example'],
  ])
})
