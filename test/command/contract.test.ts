import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { test } from 'tap'
import { startTestConnector } from '../support/connector.ts'
import { manualClock } from '../support/manualClock.ts'
import { answer, type Behaviour, startRawUpstream } from '../support/rawUpstream.ts'

const P = (id: string, type: string, required = false) => ({ id, type, required })
const COMMON = [P('url', 'str', true), P('headers', 'any')]
const BASIC = [P('basic_auth_username', 'str'), P('basic_auth_password', 'str')]
const ok: Behaviour = (socket) => void socket.end(answer(200, 'application/json', '{}'))

/** Head fields of a request, in lower case, and its body. */
const parsed = (request: string): { line: string; fields: Record<string, string>; body: string } => {
  const [head = '', ...rest] = request.split('\r\n\r\n')
  const [line = '', ...fields] = head.split('\r\n')
  return {
    line,
    fields: Object.fromEntries(
      fields.map((field) => [
        field.slice(0, field.indexOf(':')).toLowerCase(),
        field.slice(field.indexOf(':') + 1).trim(),
      ]),
    ),
    body: rest.join('\r\n\r\n'),
  }
}

test('the first six commands are listed exactly as the contract has them', async (t) => {
  const { get } = await startTestConnector(t)
  const response = await get('/v1/commands')
  t.equal(response.headers.get('content-type'), 'application/json')
  const list = (await response.json()) as { id: string; parameters: unknown }[]
  const withParams = [...COMMON, P('params', 'any'), ...BASIC]
  const withData = [...COMMON, P('data', 'any'), ...BASIC]
  t.strictSame(list.slice(0, 6), [
    { id: 'http/DeleteRequest', parameters: withData },
    { id: 'http/GetRequest', parameters: withParams },
    { id: 'http/HeadRequest', parameters: withParams },
    { id: 'http/PatchRequest', parameters: withData },
    { id: 'http/PostRequest', parameters: withData },
    { id: 'http/PutRequest', parameters: withData },
  ])
  t.strictSame(
    list.slice(6).map(({ id }) => id),
    [
      'http/DeleteRequestV2',
      'http/GetRequestV2',
      'http/HeadRequestV2',
      'http/PatchRequestV2',
      'http/PostRequestV2',
      'http/PutRequestV2',
      'smtp/SendEmail',
    ],
  )
  t.strictSame(await (await get('/v1/auths')).json(), [])
})

interface Sent {
  readonly name: string
  readonly id?: string
  readonly args: Record<string, unknown>
  readonly line?: string
  readonly fields?: Record<string, string>
  readonly without?: readonly string[]
  readonly body?: string
}

const SENT: readonly Sent[] = [
  {
    name: 'GET',
    args: {},
    line: 'GET / HTTP/1.1',
    fields: { accept: '*/*', connection: 'close' },
    without: ['content-length', 'content-type', 'authorization', 'cookie'],
  },
  {
    name: 'params as an object',
    args: { params: { limit: 10, q: 'a b&c', yes: true, nothing: null, many: [1, 2], deep: { a: 1 } } },
    line: 'GET /?limit=10&q=a+b%26c&yes=true&nothing=&many=1&many=2&deep=%7B%22a%22%3A1%7D HTTP/1.1',
  },
  {
    name: 'params as pairs',
    args: {
      params: [
        ['a', 1],
        ['a', 2],
      ],
    },
    line: 'GET /?a=1&a=2 HTTP/1.1',
  },
  { name: 'params as text', args: { params: '?a=1&b' }, line: 'GET /?a=1&b HTTP/1.1' },
  { name: 'params beside a query', args: { query: '?x=1', params: { y: 2 } }, line: 'GET /?x=1&y=2 HTTP/1.1' },
  { name: 'empty params leave the query', args: { query: '?x=1', params: {} }, line: 'GET /?x=1 HTTP/1.1' },
  {
    name: 'headers keep their case, and numbers become text',
    args: { headers: { 'X-Case': 'a', 'X-Number': 3, 'X-Not': null } },
    fields: { 'x-case': 'a', 'x-number': '3' },
    without: ['x-not'],
  },
  {
    name: 'framing and hop-by-hop fields are ours',
    args: {
      headers: {
        'Content-Length': '99',
        'Transfer-Encoding': 'chunked',
        Connection: 'upgrade',
        Upgrade: 'x',
        TE: 'x',
        Expect: '100-continue',
      },
    },
    fields: { connection: 'close' },
    without: ['content-length', 'transfer-encoding', 'upgrade', 'te', 'expect'],
  },
  {
    name: 'basic authentication',
    args: { basic_auth_username: 'user', basic_auth_password: 'pässword' },
    fields: { authorization: `Basic ${Buffer.from('user:pässword').toString('base64')}` },
  },
  {
    name: 'basic authentication wins over a header',
    args: { headers: { authorization: 'Bearer x' }, basic_auth_username: 'u', basic_auth_password: 'p' },
    fields: { authorization: 'Basic dTpw' },
  },
  {
    name: 'half a basic authentication is none',
    args: { headers: { Authorization: 'Bearer x' }, basic_auth_username: 'u', basic_auth_password: '' },
    fields: { authorization: 'Bearer x' },
  },
  {
    name: 'user and password in the URL',
    args: { userinfo: 'u:p%40' },
    fields: { authorization: `Basic ${Buffer.from('u:p@').toString('base64')}` },
  },
  { name: 'GET has no body', args: { data: { a: 1 } }, line: 'GET / HTTP/1.1', without: ['content-length'], body: '' },
  {
    name: 'JSON',
    id: 'http/PostRequest',
    args: { data: { a: 'ü' } },
    fields: { 'content-type': 'application/json', 'content-length': '10' },
    body: Buffer.from('{"a":"ü"}').toString('latin1'),
  },
  {
    name: "the caller's content type stays",
    id: 'http/PostRequest',
    args: { headers: { 'content-type': 'application/vnd.x+json' }, data: [] },
    fields: { 'content-type': 'application/vnd.x+json' },
    body: '[]',
  },
  { name: 'false, text and numbers are JSON too', id: 'http/PutRequest', args: { data: false }, body: 'false' },
  { name: 'text is a JSON string', id: 'http/PatchRequest', args: { data: 'x' }, body: '"x"' },
  {
    name: 'no data',
    id: 'http/PostRequest',
    args: {},
    fields: { 'content-length': '0' },
    without: ['content-type'],
    body: '',
  },
  { name: 'null data', id: 'http/PostRequest', args: { data: null }, fields: { 'content-length': '0' }, body: '' },
  {
    name: 'DELETE without data has no length',
    id: 'http/DeleteRequest',
    args: {},
    without: ['content-length'],
    line: 'DELETE / HTTP/1.1',
  },
  { name: 'DELETE with data', id: 'http/DeleteRequest', args: { data: { a: 1 } }, body: '{"a":1}' },
  {
    name: 'POST takes params although it does not list them',
    id: 'http/PostRequest',
    args: { params: { a: 1 } },
    line: 'POST /?a=1 HTTP/1.1',
  },
  {
    name: 'form',
    id: 'http/PostRequest',
    args: { body_format: 'form', data: { a: [1, 2], b: true, c: null, d: 'x y' } },
    fields: { 'content-type': 'application/x-www-form-urlencoded' },
    body: 'a=1&a=2&b=true&c=&d=x+y',
  },
  {
    name: 'raw text has no content type of ours',
    id: 'http/PostRequestV2',
    args: { body_format: 'RAW', data: '<a/>' },
    body: '<a/>',
    without: ['content-type'],
  },
  {
    name: 'raw objects are JSON bytes',
    id: 'http/PostRequestV2',
    args: { body_format: 'raw', data: { a: 1 } },
    body: '{"a":1}',
    without: ['content-type'],
  },
  {
    name: 'base64',
    id: 'http/PostRequestV2',
    args: { body_format: 'base64', data: '/wD+' },
    fields: { 'content-type': 'application/octet-stream' },
    body: '\xff\x00\xfe',
  },
  {
    name: 'none',
    id: 'http/PostRequestV2',
    args: { body_format: 'none', data: { a: 1 } },
    fields: { 'content-length': '0' },
    body: '',
  },
]

test('what is sent upstream', async (t) => {
  const upstream = await startRawUpstream(t, { '/': ok })
  const { run } = await startTestConnector(t)
  for (const { name, id = 'http/GetRequest', args, line, fields = {}, without = [], body } of SENT) {
    const { userinfo, query = '', ...rest } = args
    const url = `http://${userinfo === undefined ? '' : `${userinfo}@`}127.0.0.1:${upstream.port}/${query}`
    const envelope = await run(id, { url, ...rest })
    t.equal(envelope.error, null, `${name}: ${envelope.error?.message}`)
    const got = parsed(upstream.requests.at(-1) ?? '')
    t.equal(got.fields.host, `127.0.0.1:${upstream.port}`)
    if (line !== undefined) t.equal(got.line, line, `${name}: line`)
    t.match(got.fields, fields, `${name}: fields`)
    for (const field of without) t.notOk(field in got.fields, `${name}: no ${field}`)
    if (body !== undefined) t.equal(got.body, body, `${name}: body`)
  }
  t.match(
    upstream.requests.find((request) => request.includes('X-Case')),
    'X-Case: a',
  )
})

const MISFITS: readonly (readonly [name: string, id: string, body: unknown, message: RegExp])[] = [
  ['no JSON', 'http/GetRequest', '{"url":', /not JSON/],
  ['nothing', 'http/GetRequest', '', /not JSON/],
  [
    'bytes that are not UTF-8',
    'http/GetRequest',
    Buffer.from([0x22, 0xff, 0x22]).toString('latin1').replace('ÿ', '\ud800'),
    /JSON/,
  ],
  ['a list', 'http/GetRequest', [], /JSON object/],
  ['null', 'http/GetRequest', null, /JSON object/],
  ['no url', 'http/GetRequest', {}, /url is required/],
  ['null as url', 'http/GetRequest', { url: null }, /url is required/],
  ['a number for headers', 'http/GetRequest', { url: 'http://x/', headers: 3 }, /headers must be an object/],
  ['an object for url', 'http/GetRequest', { url: {} }, /url must be a string, not a object|url must be a string/],
  ['a header name with a space', 'http/GetRequest', { url: 'http://x/', headers: { 'a b': '1' } }, /not a header name/],
  [
    'CR LF in a header value',
    'http/GetRequest',
    { url: 'http://x/', headers: { a: 'b\r\nInjected: 1' } },
    /the header a cannot/,
  ],
  ['an object as header value', 'http/GetRequest', { url: 'http://x/', headers: { a: {} } }, /the header a cannot/],
  [
    'an unknown body format',
    'http/PostRequest',
    { url: 'http://x/', body_format: 'yaml' },
    /body_format is one of json, form, raw, base64, none/,
  ],
  [
    'form data that is a number',
    'http/PostRequest',
    { url: 'http://x/', body_format: 'form', data: 3 },
    /data must be/,
  ],
  ['base64 that is not', 'http/PostRequestV2', { url: 'http://x/', body_format: 'base64', data: '***' }, /base64/],
  [
    'an unknown response format',
    'http/GetRequestV2',
    { url: 'http://x/', response_format: 'xml' },
    /response_format is one of/,
  ],
  ['params that are a number', 'http/GetRequest', { url: 'http://x/', params: 3 }, /params must be/],
  [
    'attempts that are no number',
    'http/GetRequestV2',
    { url: 'http://x/', attempts: 'many' },
    /attempts must be an integer/,
  ],
  [
    'a flag that is none',
    'http/GetRequestV2',
    { url: 'http://x/', include_response_headers: 3 },
    /must be true or false/,
  ],
]

test('a request that does not fit is 400 with an envelope, and nothing is dialled', async (t) => {
  const { post, dialled } = await startTestConnector(t)
  for (const [name, id, body, message] of MISFITS) {
    const response = await post(`/v1/do/${id}`, body)
    t.equal(response.status, 400, name)
    t.match(
      await response.json(),
      {
        command_response: { body: {}, http_status: 400 },
        command_response_version: 2,
        error: { error_code: 'invalid_parameters', message },
      },
      name,
    )
  }
  t.strictSame(dialled, [])
})

test('paths, verbs and bodies that lead nowhere', async (t) => {
  const { get, post, url } = await startTestConnector(t, { commands: 'maxRequest: 1KiB' })
  const unknown = await post('/v1/do/http/NoSuchRequest', {})
  t.equal(unknown.status, 404)
  t.match(await unknown.json(), {
    command_response: { body: {} },
    error: { error_code: 'command_not_found', message: /NoSuchRequest/ },
  })
  t.equal((await get('/v1/do/http/GetRequest')).status, 405)
  t.equal((await get('/v1/do/http/GetRequest')).headers.get('allow'), 'POST')
  t.strictSame(await (await get('/v1/nothing')).json(), { error: 'Not Found' })
  t.match(await (await get('/nothing')).json(), { message: /nothing at this path/, details: {} })
  t.equal((await post('/v1/commands', {})).status, 405)
  const large = await post('/v1/do/http/GetRequest', { url: 'x'.repeat(5_000) })
  t.equal(large.status, 413)
  t.match(await large.json(), { error: { error_code: 'request_too_large' } })
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  const chunk = `3e8\r\n${'x'.repeat(1_000)}\r\n`
  socket.write(`POST /v1/do/http/GetRequest HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n${chunk}${chunk}`)
  const [head] = (await once(socket, 'data')) as [Buffer]
  t.match(head.toString(), /^HTTP\/1\.1 413 /, 'a body without a length is measured as it comes')
  socket.destroy()
  const encoded = await post('/v1/do/http/GetRequest', 'x', { 'content-encoding': 'gzip' })
  t.equal(encoded.status, 415)
  for (const path of ['/liveness', '/v1/liveness'])
    t.strictSame(await (await get(path)).json(), { ok: true, status: 'ok' })
  t.equal(await (await get('/health')).text(), '')
  t.equal((await get('/')).status, 200)
  t.equal((await fetch(`${url}/v1/commands`, { method: 'HEAD' })).status, 200)
})

test('what the process engine adds is neither forwarded nor logged, and other strangers are told of', async (t) => {
  const upstream = await startRawUpstream(t, { '/': ok })
  const { run, said, outcomes } = await startTestConnector(t)
  const envelope = await run('http/PostRequest', {
    url: `${upstream.url('/')}?token=CANARY1`,
    headers: { Authorization: 'CANARY2' },
    data: { x: 'CANARY3' },
    basic_auth_username: null,
    spiff__task_data: { everything: 'CANARY4' },
    spiff__callback_url: 'http://CANARY5/',
    spiff__: 'CANARY6',
    parms: 'CANARY7',
  })
  t.equal(envelope.error, null)
  t.strictSame(envelope.spiff__logs, ["ignored the unknown parameter 'parms'"])
  t.notMatch(upstream.requests[0], /CANARY[4567]|spiff__/)
  t.notMatch(JSON.stringify([said, outcomes, envelope]), /CANARY/)
  t.match(
    said[0],
    /^command http\/PostRequest from 127\.0\.0\.1:\d+: ok 200 in \d+ ms; POST http:\/\/127\.0\.0\.1:\d+\/ \(127\.0\.0\.1\): 200$/,
  )
})

test('response headers and binary bodies, where asked for', async (t) => {
  const bytes = Buffer.from([0, 255, 254, 10])
  const upstream = await startRawUpstream(t, {
    '/': answer(200, 'image/png', bytes, 'X-One: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n'),
  })
  const { run } = await startTestConnector(t)
  const url = upstream.url('/')
  for (const id of ['http/GetRequest', 'http/GetRequestV2']) {
    const plain = await run(id, { url })
    t.notOk('headers' in plain.command_response, 'absent unless asked for')
    const full = await run(id, { url, include_response_headers: true, response_format: 'base64' })
    t.match(full.command_response.headers, { 'x-one': '1', 'set-cookie': 'a=1, b=2', 'content-type': 'image/png' })
    t.strictSame(full.command_response.body, { base64_response: bytes.toString('base64'), content_type: 'image/png' })
  }
  const json = await startRawUpstream(t, { '/': answer(200, 'application/json', '{"a":1}') })
  t.strictSame(
    (await run('http/GetRequestV2', { url: json.url('/'), response_format: 'text' })).command_response.body,
    { raw_response: '{"a":1}' },
  )
})

test('two calls share nothing: no cookie, no connection', async (t) => {
  const upstream = await startRawUpstream(t, {
    '/': answer(200, 'text/plain', 'x', 'Set-Cookie: session=1; Path=/\r\n'),
  })
  const { run, dialled } = await startTestConnector(t)
  for (const id of ['http/GetRequest', 'http/GetRequestV2', 'http/PostRequest'])
    await run(id, { url: upstream.url('/') })
  t.equal(dialled.length, 3)
  for (const request of upstream.requests) t.notMatch(request, /cookie/i)
})

test('a redirect to another origin takes no secret along, and 303 no body', async (t) => {
  const other = await startRawUpstream(t, { '/': ok })
  const first = await startRawUpstream(t, {
    '/303': `HTTP/1.1 303 x\r\nLocation: ${other.url('/')}\r\nContent-Length: 0\r\n\r\n`,
    '/302': `HTTP/1.1 302 x\r\nLocation: ${other.url('/')}\r\nContent-Length: 0\r\n\r\n`,
    '/307': `HTTP/1.1 307 x\r\nLocation: ${other.url('/')}\r\nContent-Length: 0\r\n\r\n`,
    '/same': 'HTTP/1.1 308 x\r\nLocation: /here\r\nContent-Length: 0\r\n\r\n',
    '/here': ok,
  })
  const { run } = await startTestConnector(t)
  const args = {
    headers: { 'X-Api-Key': 'SECRET', Cookie: 'SECRET', 'X-Plain': 'kept' },
    basic_auth_username: 'u',
    basic_auth_password: 'p',
    data: { a: 1 },
  }
  for (const [path, line, body] of [
    ['/303', 'GET / HTTP/1.1', ''],
    ['/302', 'GET / HTTP/1.1', ''],
    ['/307', 'POST / HTTP/1.1', '{"a":1}'],
  ] as const) {
    await run('http/PostRequestV2', { url: first.url(path), ...args })
    const got = parsed(other.requests.at(-1) ?? '')
    t.equal(got.line, line, path)
    t.equal(got.body, body, path)
    t.match(got.fields, { 'x-plain': 'kept' })
    t.notMatch(other.requests.at(-1), /SECRET|authorization/i, path)
  }
  await run('http/PostRequestV2', { url: first.url('/same'), ...args })
  t.match(parsed(first.requests.at(-1) ?? '').fields, { 'x-api-key': 'SECRET', authorization: 'Basic dTpw' })
})

test('only reading commands repeat, only where asked, and only what may pass', async (t) => {
  let left = 0
  const flaky: Behaviour = (socket) =>
    void (left-- > 0
      ? socket.end(answer(503, 'text/plain', 'busy', 'Retry-After: 0\r\n'))
      : socket.end(answer(200, 'text/plain', 'done')))
  const breaking: Behaviour = (socket) =>
    void (left-- > 0 ? socket.resetAndDestroy() : socket.end(answer(200, 'text/plain', 'done')))
  const upstream = await startRawUpstream(t, {
    '/flaky': flaky,
    '/breaking': breaking,
    '/404': answer(404, 'text/plain', 'no'),
  })
  const clock = manualClock()
  const soon = (run: () => void) => {
    setImmediate(run)
    return () => {}
  }
  const eager = {
    ...clock,
    after: (ms: number, run: () => void) => (ms <= 1_000 ? soon(run) : clock.after(ms, run)),
  }
  const { run } = await startTestConnector(t, { clock: eager })
  const cases = [
    { id: 'http/GetRequestV2', path: '/flaky', attempts: 3, fails: 2, tries: 3, error: undefined },
    { id: 'http/GetRequestV2', path: '/flaky', attempts: 2, fails: 2, tries: 2, error: 'HttpError503' },
    { id: 'http/GetRequestV2', path: '/flaky', attempts: 11, fails: 2, tries: 1, error: 'HttpError503' },
    { id: 'http/GetRequestV2', path: '/flaky', attempts: 0, fails: 2, tries: 1, error: 'HttpError503' },
    { id: 'http/GetRequestV2', path: '/flaky', attempts: undefined, fails: 1, tries: 1, error: 'HttpError503' },
    { id: 'http/HeadRequestV2', path: '/breaking', attempts: 2, fails: 1, tries: 2, error: undefined },
    { id: 'http/GetRequestV2', path: '/404', attempts: 5, fails: 0, tries: 1, error: 'HttpError404' },
    { id: 'http/GetRequest', path: '/flaky', attempts: 5, fails: 1, tries: 1, error: 'HttpError503' },
    { id: 'http/PostRequestV2', path: '/flaky', attempts: 5, fails: 1, tries: 1, error: 'HttpError503' },
    { id: 'http/PutRequestV2', path: '/breaking', attempts: 5, fails: 1, tries: 1, error: 'connection_reset' },
  ]
  for (const { id, path, attempts, fails, tries, error } of cases) {
    left = fails
    const before = upstream.requests.length
    const envelope = await run(id, { url: upstream.url(path), attempts })
    t.equal(envelope.error?.error_code, error, `${id} ${path} ${attempts}`)
    t.equal(upstream.requests.length - before, tries, `${id} ${path} ${attempts}: tries`)
  }
  left = 1
  t.strictSame((await run('http/GetRequestV2', { url: upstream.url('/flaky'), attempts: 2 })).spiff__logs, [
    'attempt 1 of 2: HTTP 503',
  ])
  t.equal(
    (await run('http/GetRequestV2', { url: 'http://10.0.0.1/', attempts: 9 })).spiff__logs.length,
    0,
    'what the policy blocks is not tried again',
  )
})

test('a caller that hangs up cancels the call upstream', async (t) => {
  let began = (): void => {}
  const beginning = new Promise<void>((resolve) => (began = resolve))
  const upstream = await startRawUpstream(t, { '/': () => began() })
  const { url, said } = await startTestConnector(t)
  const { port } = new URL(url)
  const socket = connect(Number(port), '127.0.0.1')
  const body = JSON.stringify({ url: upstream.url('/') })
  socket.write(`POST /v1/do/http/GetRequest HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n${body}`)
  await beginning
  t.equal(upstream.open(), 1)
  socket.destroy()
  while (upstream.open() > 0 || said.length === 0) await pause(1)
  t.match(said[0], /cancelled 499/)
})

test('200 commands at once', async (t) => {
  const waiting: (() => void)[] = []
  const upstream = await startRawUpstream(t, {
    '/': (socket, request) => {
      waiting.push(() => socket.end(answer(200, 'application/json', `{"path":"${request.split(' ')[1]}"}`)))
      if (waiting.length === 200) for (const go of waiting) go()
    },
  })
  const { run, dialled } = await startTestConnector(t)
  const all = await Promise.all(
    Array.from({ length: 200 }, (_, n) => run('http/GetRequest', { url: upstream.url('/'), params: { n } })),
  )
  t.strictSame(
    all.map(({ command_response: { body } }) => body),
    Array.from({ length: 200 }, (_, n) => ({ path: `/?n=${n}` })),
    'each got its own answer, all open at the same time',
  )
  t.equal(dialled.length, 200)
})

test('past maxInFlight a command is busy, and later it is not', async (t) => {
  let release = (): void => {}
  let began = (): void => {}
  const beginning = new Promise<void>((resolve) => (began = resolve))
  const upstream = await startRawUpstream(t, {
    '/': (socket) => {
      release = () => socket.end(answer(200, 'text/plain', 'x'))
      began()
    },
  })
  const { run, post } = await startTestConnector(t, { commands: 'maxInFlight: 1' })
  const first = run('http/GetRequest', { url: upstream.url('/') })
  await beginning
  const busy = await post('/v1/do/http/GetRequest', { url: upstream.url('/') })
  t.equal(busy.status, 503)
  t.equal(busy.headers.get('retry-after'), '1')
  t.match(await busy.json(), { error: { error_code: 'busy' } })
  release()
  t.equal((await first).error, null)
})

test('the timeout is in all, whatever the steps', async (t) => {
  const clock = manualClock()
  let hops = 0
  const upstream = await startRawUpstream(t, {
    '/': (socket) => {
      clock.advance(30_000)
      socket.end(`HTTP/1.1 302 x\r\nLocation: /?${hops++}\r\nContent-Length: 0\r\n\r\n`)
    },
  })
  const { run } = await startTestConnector(t, { clock })
  const { error, command_response } = await run('http/GetRequestV2', { url: upstream.url('/') })
  t.strictSame([error?.error_code, command_response.http_status], ['timeout', 504])
  t.equal(hops, 2, '40 s end in the second hop of 30 s')
})

test('a shutdown lets requests in flight finish, then cancels them', async (t) => {
  let release = (): void => {}
  let began = (): void => {}
  const held: Behaviour = (socket) => {
    release = () => socket.end(answer(200, 'text/plain', 'x'))
    began()
  }
  const upstream = await startRawUpstream(t, { '/': held })
  for (const isReleased of [true, false]) {
    const beginning = new Promise<void>((resolve) => (began = resolve))
    const { run, connector, get } = await startTestConnector(t)
    const running = run('http/GetRequest', { url: upstream.url('/') }).catch((error: Error) => error)
    await beginning
    const closing = connector.close(isReleased ? 60_000 : 20)
    await t.rejects(get('/health'), 'no new connection')
    if (isReleased) release()
    const ended = await running
    if (isReleased) t.match(ended, { error: null })
    else t.ok(ended instanceof Error, 'cut off when the drain time was over')
    await closing
  }
})

test('keep-alive, pipelining and a slow head do not confuse the server', async (t) => {
  const { url } = await startTestConnector(t)
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  let got = ''
  socket.on('data', (chunk) => (got += chunk))
  socket.write(
    'GET /liveness HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
  )
  await once(socket, 'close')
  t.strictSame(
    [...got.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status),
    ['200', '404', '200'],
  )
})
