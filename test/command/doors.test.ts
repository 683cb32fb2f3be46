import { once } from 'node:events'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'tap'
import { readEnvironment } from '../../src/command/environment.ts'
import { FAILURES } from '../../src/command/failure.ts'
import { startTestConnector } from '../support/connector.ts'
import { ndcMistakes, openApiMistakes } from '../support/jsonSchemas.ts'
import { answer, startRawUpstream } from '../support/rawUpstream.ts'

const ROUTES = [
  '/',
  '/capabilities',
  '/schema',
  '/metrics',
  '/openapi.json',
  '/liveness',
  '/v1/liveness',
  '/v1/commands',
  '/v1/auths',
  '/nowhere',
  '/v1/nowhere',
  '/v1/do/x/Y',
  '/query',
]
const GUARDED = ['/v1/commands', '/v1/auths', '/v1/do/http/GetRequest', '/v1/do/no/Such']
const KEY = 'Spiff-Connector-Proxy-Api-Key'

test('with a service token everything but /health asks for it', async (t) => {
  const { get, dialled } = await startTestConnector(t, { environment: { HASURA_SERVICE_TOKEN_SECRET: 'sécret' } })
  t.equal((await get('/health')).status, 200)
  for (const path of ROUTES)
    for (const authorization of [
      undefined,
      'Bearer wrong',
      'Bearer',
      'sécret',
      'Basic sécret',
      'Bearer sécre',
      'Bearer séCret',
      'Bearer sécret x',
    ]) {
      const response = await get(
        path,
        authorization === undefined ? {} : { authorization: Buffer.from(authorization).toString('latin1') },
      )
      t.equal(response.status, 401, `${path} ${authorization}`)
      t.equal(response.headers.get('www-authenticate'), 'Bearer')
      const body = await response.json()
      if (/^\/(v1|liveness)/.test(path)) t.strictSame(body, { error: 'Unauthorized' })
      else t.equal(ndcMistakes('ErrorResponse', body), '')
    }
  t.strictSame(dialled, [])
})

test('the right token, in any case of its scheme; and without a secret a token is ignored', async (t) => {
  const locked = await startTestConnector(t, { environment: { HASURA_SERVICE_TOKEN_SECRET: 'secret' } })
  for (const scheme of ['Bearer', 'bearer', 'BEARER'])
    t.equal((await locked.get('/schema', { authorization: `${scheme} secret` })).status, 200, scheme)
  for (const environment of [{}, { HASURA_SERVICE_TOKEN_SECRET: '' }]) {
    const open = await startTestConnector(t, { environment })
    t.equal((await open.get('/schema')).status, 200)
    t.equal(
      (await open.get('/schema', { authorization: 'Bearer whatever' })).status,
      200,
      'an Authorization header is no reason to refuse',
    )
  }
})

test('who lacks the token is told so before a byte of the body is read', async (t) => {
  const { url } = await startTestConnector(t, {
    environment: { HASURA_SERVICE_TOKEN_SECRET: 's', CONNECTOR_PROXY_API_KEY: 'k' },
  })
  for (const [path, more] of [
    ['/query', ''],
    ['/v1/do/http/GetRequest', 'Authorization: Bearer s\r\n'],
    ['/mutation', 'Expect: 100-continue\r\n'],
  ]) {
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    socket.write(`POST ${path} HTTP/1.1\r\nHost: x\r\n${more}Content-Length: 1000\r\n\r\n`)
    const [head] = (await once(socket, 'data')) as [Buffer]
    t.match(head.toString(), /^HTTP\/1\.1 401 /, `${path}`)
    socket.destroy()
  }
})

test('Expect: 100-continue is answered once the body is wanted', async (t) => {
  const { url } = await startTestConnector(t)
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  socket.write('POST /v1/do/http/GetRequest HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n')
  const [first] = (await once(socket, 'data')) as [Buffer]
  t.match(first.toString(), /^HTTP\/1\.1 100 /)
  socket.write('{}')
  const [second] = (await once(socket, 'data')) as [Buffer]
  t.match(second.toString(), /^HTTP\/1\.1 400 /)
  socket.destroy()
})

test('the API key opens commands, auths and do, and nothing else asks for it', async (t) => {
  const file = join(mkdtempSync(join(tmpdir(), 'sluice-key-')), 'key')
  writeFileSync(file, 'key of calls\n')
  const ways = [
    { environment: { CONNECTOR_PROXY_API_KEY: 'key of calls' } },
    { environment: { OTHER: 'key of calls' }, commands: 'apiKey: { env: OTHER }' },
    { commands: `apiKey: { file: ${file} }` },
  ]
  for (const way of ways) {
    const { get, post } = await startTestConnector(t, way)
    for (const path of GUARDED)
      for (const key of [undefined, '', 'wrong', 'key of call', 'key of callss', 'Key of calls']) {
        const headers: Record<string, string> = key === undefined ? {} : { [KEY]: key }
        const response = path.includes('/do/') ? await post(path, {}, headers) : await get(path, headers)
        t.equal(response.status, 401, `${path} ${key}`)
        t.strictSame(await response.json(), { error: 'Unauthorized' })
      }
    for (const path of ['/liveness', '/v1/liveness', '/health', '/', '/schema', '/openapi.json'])
      t.equal((await get(path)).status, 200, `${path}`)
    const right = { [KEY.toLowerCase()]: 'key of calls' }
    t.equal((await get('/v1/commands', right)).status, 200)
    t.equal((await post('/v1/do/no/Such', {}, right)).status, 404)
  }
})

test('both locks: commands ask for both', async (t) => {
  const { get } = await startTestConnector(t, {
    environment: { HASURA_SERVICE_TOKEN_SECRET: 's', CONNECTOR_PROXY_API_KEY: 'k' },
  })
  t.equal((await get('/v1/commands', { [KEY]: 'k' })).status, 401)
  t.equal((await get('/v1/commands', { authorization: 'Bearer s' })).status, 401)
  t.equal((await get('/v1/commands', { [KEY]: 'k', authorization: 'Bearer s' })).status, 200)
  t.equal((await get('/schema', { authorization: 'Bearer s' })).status, 200)
})

test('a key that is meant and empty keeps it from starting', async (t) => {
  t.match(readEnvironment({ CONNECTOR_PROXY_API_KEY: '' }).mistakes, [/CONNECTOR_PROXY_API_KEY is set and empty/])
  const empty = join(mkdtempSync(join(tmpdir(), 'sluice-key-')), 'key')
  writeFileSync(empty, '\n')
  await t.rejects(startTestConnector(t, { commands: `apiKey: { file: ${empty} }` }), { message: /is empty/ })
  await t.rejects(startTestConnector(t, { commands: 'apiKey: { env: NOT_SET }' }), { message: /NOT_SET is not set/ })
})

test('CORS: allowed origins, and no page of another one may run a command', async (t) => {
  const origin = 'https://flows.example'
  const preflight = { 'access-control-request-method': 'POST', 'access-control-request-headers': 'content-type' }
  const { url, post, get } = await startTestConnector(t, {
    commands: `cors: ["${origin}"]`,
    environment: { CONNECTOR_PROXY_API_KEY: 'k' },
  })
  const options = (from: string) =>
    fetch(`${url}/v1/do/http/GetRequest`, { method: 'OPTIONS', headers: { origin: from, ...preflight } })
  const allowed = await options(origin)
  t.equal(allowed.status, 204)
  t.equal(allowed.headers.get('access-control-allow-origin'), origin)
  t.match(allowed.headers.get('access-control-allow-headers'), 'spiff-connector-proxy-api-key')
  const foreign = await options('https://evil.example')
  t.not(foreign.status, 204)
  t.equal(foreign.headers.get('access-control-allow-origin'), null)
  t.equal((await get('/v1/commands', { origin, [KEY]: 'k' })).headers.get('access-control-allow-origin'), origin)
  const open = await startTestConnector(t)
  for (const path of ['/v1/do/http/GetRequest', '/query', '/mutation']) {
    const refused = await open.post(path, '{"url":"http://127.0.0.1:1/"}', {
      origin: 'https://evil.example',
      'content-type': 'text/plain',
    })
    t.equal(refused.status, 403, `${path}: a text/plain POST needs no preflight`)
  }
  t.equal((await open.post('/v1/do/http/GetRequest', {}, { origin: open.url })).status, 400, 'a page of our own')
  t.strictSame(open.dialled, [])
  const all = await startTestConnector(t, { commands: 'cors: ["*"]' })
  t.equal(
    (await all.post('/v1/do/http/GetRequest', {}, { origin: 'https://any.example' })).headers.get(
      'access-control-allow-origin',
    ),
    '*',
  )
  t.equal((await post('/v1/do/http/GetRequest', {}, { origin, [KEY]: 'k' })).status, 400)
})

test('the environment, as the packaging contract has it', (t) => {
  const cases: [Record<string, string>, object, RegExp[], RegExp[]][] = [
    [{}, { port: undefined, host: undefined, serviceToken: undefined, otlp: undefined }, [], []],
    [{ HASURA_CONNECTOR_PORT: '' }, { port: undefined }, [], []],
    [{ HASURA_CONNECTOR_PORT: '9000', HASURA_CONNECTOR_HOST: '0.0.0.0' }, { port: 9000, host: '0.0.0.0' }, [], []],
    [{ HASURA_CONNECTOR_PORT: 'http' }, {}, [/HASURA_CONNECTOR_PORT must be a port/], []],
    [{ HASURA_CONNECTOR_PORT: '65536' }, {}, [/HASURA_CONNECTOR_PORT/], []],
    [{ HASURA_CONFIGURATION_DIRECTORY: '/x' }, { configurationDirectory: '/x' }, [], []],
    [{ HASURA_LOG_LEVEL: 'debug', HASURA_X: '' }, {}, [], [/HASURA_LOG_LEVEL is reserved/, /HASURA_X/]],
    [
      { HASURA_OTLP_ENDPOINT: 'http://c:4317', HASURA_OTEL_SERVICE_NAME: 'n' },
      { otlp: { endpoint: 'http://c:4317', protocol: 'grpc', serviceName: 'n' } },
      [],
      [],
    ],
    [
      {
        HASURA_OTLP_ENDPOINT: 'http://old:4317',
        OTEL_EXPORTER_OTLP_ENDPOINT: 'http://new:4318/',
        OTEL_SERVICE_NAME: 'new',
        HASURA_OTEL_SERVICE_NAME: 'old',
      },
      { otlp: { endpoint: 'http://new:4318', protocol: 'http/protobuf', serviceName: 'new' } },
      [],
      [],
    ],
    [
      { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://c:1', OTEL_EXPORTER_OTLP_PROTOCOL: 'http/protobuf' },
      { otlp: { protocol: 'http/protobuf', serviceName: 'sluice' } },
      [],
      [],
    ],
    [{ OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json' }, { otlp: undefined }, [/OTEL_EXPORTER_OTLP_PROTOCOL/], []],
    [{ HASURA_OTLP_ENDPOINT: 'collector' }, {}, [/HASURA_OTLP_ENDPOINT must be an http or https URL/], []],
  ]
  for (const [env, environment, mistakes, warnings] of cases) {
    const read = readEnvironment(env)
    t.match(read.environment, environment, JSON.stringify(env))
    t.equal(read.mistakes.length, mistakes.length, JSON.stringify(read.mistakes))
    t.match(read.mistakes, mistakes)
    t.equal(read.warnings.length, warnings.length)
    t.match(read.warnings, warnings)
  }
  t.end()
})

interface Operation {
  readonly requestBody?: { content: { 'application/json': { schema: object } } }
  readonly responses: Record<string, { content?: Record<string, { schema: object }> }>
}

test('the OpenAPI document says what the server does', async (t) => {
  const upstream = await startRawUpstream(t, {
    '/': answer(200, 'application/json', '{"a":1}'),
    '/500': answer(500, 'text/plain', 'no'),
  })
  const { get, post, url } = await startTestConnector(t, { commands: 'maxRequest: 100kB' })
  const document = (await (await get('/openapi.json')).json()) as {
    openapi: string
    paths: Record<string, Record<string, Operation>>
  }
  t.equal(document.openapi, '3.1.0')
  const mistakes = openApiMistakes(document)
  const check = async (method: string, path: string, sent: unknown, headers = {}): Promise<number> => {
    const response = method === 'get' ? await get(path) : await post(path, sent, headers)
    const described = document.paths[path]?.[method]?.responses[String(response.status)]
    t.ok(described, `${method} ${path} answers ${response.status}, which the document knows`)
    const type = (response.headers.get('content-type') ?? '').split(';')[0] ?? ''
    const schema = described?.content?.[type]?.schema
    const text = await response.text()
    if (schema !== undefined)
      t.equal(
        mistakes(schema, type === 'application/json' ? JSON.parse(text) : text),
        '',
        `${method} ${path} ${response.status}`,
      )
    else t.notOk(described?.content, `${path}: ${type} is in the document`)
    return response.status
  }
  const commands = (await (await get('/v1/commands')).json()) as {
    id: string
    parameters: { id: string; required: boolean }[]
  }[]
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const method of Object.keys(methods)) {
      if (method === 'get') {
        t.equal(await check('get', path, undefined), 200)
        continue
      }
      await check('post', path, {})
      await check('post', path, 'not JSON')
      await check('post', path, {}, { origin: 'https://evil.example' })
      await check('post', path, { x: 'x'.repeat(200_000) })
    }
  }
  for (const { id, parameters } of commands) {
    const path = `/v1/do/${id}`
    const schema = document.paths[path]?.post?.requestBody?.content['application/json'].schema as {
      properties: object
      required: string[]
    }
    t.ok(schema, `${path} is in the document`)
    t.strictSame(
      schema.required,
      parameters.filter(({ required }) => required).map((parameter) => parameter.id),
    )
    for (const parameter of parameters) t.ok(parameter.id in schema.properties)
    const bodies = id.startsWith('smtp')
      ? [
          {
            smtp_host: '127.0.0.1',
            smtp_port: '1',
            email_subject: 's',
            email_body: 'b',
            email_to: 'a@b.example',
            email_from: 'c@d.example',
            smtp_starttls: 'false',
          },
        ]
      : ['/', '/500'].map((leaf) => ({
          url: upstream.url(leaf),
          include_response_headers: true,
          headers: null,
          spiff__x: 1,
        }))
    for (const body of bodies) {
      t.equal(mistakes(schema, body), '', 'what the document allows')
      t.equal(await check('post', path, body), 200, 'is taken')
    }
    for (const body of [{}, { url: {} }, { url: null }, [], 3]) {
      t.not(mistakes(schema, body), '', 'what the document does not allow')
      t.equal((await post(path, body)).status, 400, 'is not')
    }
  }
  const query = {
    collection: 'http_GetRequest',
    query: { fields: { v: { type: 'column', column: '__value' } } },
    arguments: { url: { type: 'literal', value: upstream.url('/') } },
    collection_relationships: {},
  }
  t.equal(await check('post', '/query', query), 200)
  t.equal(await check('post', '/query/explain', query), 200)
  t.equal((await fetch(`${url}/openapi.json`, { method: 'HEAD' })).status, 200)
  for (const code of Object.keys(FAILURES)) t.match(JSON.stringify(document), code, `${code} is in its list`)
})
