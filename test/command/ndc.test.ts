import { test } from 'tap'
import { NDC_VERSION, versionMistake } from '../../src/command/ndcSchema.ts'
import { startTestConnector } from '../support/connector.ts'
import { ndcMistakes } from '../support/jsonSchemas.ts'
import { answer, startRawUpstream } from '../support/rawUpstream.ts'

interface Type {
  readonly type: string
  readonly name?: string
  readonly underlying_type?: Type
  readonly element_type?: Type
}
interface Operation {
  readonly name: string
  readonly arguments: Record<string, { type: Type }>
  readonly result_type: Type
}
interface Schema {
  readonly scalar_types: Record<string, unknown>
  readonly object_types: Record<string, { fields: Record<string, { type: Type }> }>
  readonly functions: Operation[]
  readonly procedures: Operation[]
  readonly collections: unknown[]
}

const literal = (value: unknown) => ({ type: 'literal', value })
const VALUE = { __value: { type: 'column', column: '__value' } }
const ask = (collection: string, args: object, more: object = {}) => ({
  collection,
  query: { fields: VALUE },
  arguments: args,
  collection_relationships: {},
  ...more,
})
const operation = (name: string, args: object, fields: unknown = null) => ({
  operations: [{ type: 'procedure', name, arguments: args, fields }],
  collection_relationships: {},
})

test('capabilities and schema fit the published schema, and every type named is declared', async (t) => {
  const { get } = await startTestConnector(t)
  const capabilities = (await (await get('/capabilities')).json()) as { version: string }
  t.equal(ndcMistakes('CapabilitiesResponse', capabilities), '')
  t.equal(capabilities.version, '0.2.13')
  const schema = (await (await get('/schema')).json()) as Schema
  t.equal(ndcMistakes('SchemaResponse', schema), '')
  const declared = [...Object.keys(schema.scalar_types), ...Object.keys(schema.object_types)]
  t.equal(new Set(declared).size, declared.length, 'no name is a scalar and an object')
  const named = (type: Type): string[] =>
    type.name === undefined
      ? [type.underlying_type, type.element_type].flatMap((inner) => (inner === undefined ? [] : named(inner)))
      : [type.name]
  const operations = [...schema.functions, ...schema.procedures]
  const used = [
    ...operations.flatMap((each) => [
      ...Object.values(each.arguments).flatMap(({ type }) => named(type)),
      ...named(each.result_type),
    ]),
    ...Object.values(schema.object_types).flatMap(({ fields }) =>
      Object.values(fields).flatMap(({ type }) => named(type)),
    ),
  ]
  t.strictSame(
    [...new Set(used)].filter((name) => !declared.includes(name)),
    [],
  )
  t.strictSame(
    schema.functions.map(({ name }) => name),
    ['http_GetRequest', 'http_HeadRequest', 'http_GetRequestV2', 'http_HeadRequestV2'],
  )
  t.equal(schema.procedures.length, 9)
  t.strictSame(schema.collections, [])
  for (const { name } of operations) t.match(name, /^[A-Za-z_]\w*$/, 'a name GraphQL can have')
  t.match(schema.functions[0]?.arguments, {
    url: { type: { type: 'named', name: 'String' } },
    params: { type: { type: 'nullable', underlying_type: { name: 'JSON' } } },
  })
})

test('functions and procedures', async (t) => {
  const upstream = await startRawUpstream(t, {
    '/': (socket, request) =>
      socket.end(answer(200, 'application/json', JSON.stringify({ line: request.split('\r\n')[0] }))),
    '/404': answer(404, 'text/plain', 'no such thing'),
  })
  const { post } = await startTestConnector(t)
  const url = upstream.url('/')
  const whole = (line: string) => ({
    body: { line },
    mimetype: 'application/json',
    http_status: 200,
    headers: null,
    error: null,
    logs: [],
  })
  const cases = [
    {
      name: 'a function',
      body: ask('http_GetRequest', { url: literal(url) }),
      rows: [[{ __value: whole('GET / HTTP/1.1') }]],
    },
    {
      name: 'null arguments',
      body: ask('http_GetRequest', { url: literal(url), params: literal(null) }),
      rows: [[{ __value: whole('GET / HTTP/1.1') }]],
    },
    {
      name: 'another alias',
      body: ask('http_GetRequest', { url: literal(url) }, { query: { fields: { it: VALUE.__value } } }),
      rows: [[{ it: whole('GET / HTTP/1.1') }]],
    },
    {
      name: 'variables, in their order',
      body: ask(
        'http_GetRequest',
        { url: literal(url), params: { type: 'variable', name: 'p' } },
        { variables: Array.from({ length: 20 }, (_, n) => ({ p: { n } })) },
      ),
      rows: Array.from({ length: 20 }, (_, n) => [{ __value: whole(`GET /?n=${n} HTTP/1.1`) }]),
    },
    { name: 'no sets of variables', body: ask('http_GetRequest', { url: literal(url) }, { variables: [] }), rows: [] },
    {
      name: 'a selection within',
      body: ask(
        'http_GetRequest',
        { url: literal(upstream.url('/404')) },
        {
          query: {
            fields: {
              v: {
                type: 'column',
                column: '__value',
                fields: {
                  type: 'object',
                  fields: {
                    status: { type: 'column', column: 'http_status' },
                    error: {
                      type: 'column',
                      column: 'error',
                      fields: { type: 'object', fields: { code: { type: 'column', column: 'error_code' } } },
                    },
                  },
                },
              },
            },
          },
        },
      ),
      rows: [[{ v: { status: 404, error: { code: 'HttpError404' } } }]],
    },
    {
      name: 'limit 0',
      body: ask('http_GetRequest', { url: literal(url) }, { query: { fields: VALUE, limit: 0 } }),
      rows: [[]],
    },
    {
      name: 'offset 1',
      body: ask('http_GetRequest', { url: literal(url) }, { query: { fields: VALUE, offset: 1 } }),
      rows: [[]],
    },
  ]
  for (const { name, body, rows } of cases) {
    const response = await post('/query', body)
    const got = (await response.json()) as { rows: unknown }[]
    t.equal(response.status, 200, `${name}: ${JSON.stringify(got)}`)
    t.equal(ndcMistakes('QueryResponse', got), '', name)
    t.strictSame(
      got.map((set) => set.rows),
      rows,
      name,
    )
  }
  const noFields = await (await post('/query', ask('http_GetRequest', { url: literal(url) }, { query: {} }))).json()
  t.strictSame(noFields, [{}], 'nothing selected, nothing called')

  const selection = { type: 'object', fields: { status: { type: 'column', column: 'http_status' } } }
  for (const [fields, result] of [
    [null, whole('POST / HTTP/1.1')],
    [undefined, whole('POST / HTTP/1.1')],
    [selection, { status: 200 }],
  ]) {
    const got = (await (
      await post('/mutation', operation('http_PostRequest', { url, data: { a: 1 } }, fields))
    ).json()) as object
    t.equal(ndcMistakes('MutationResponse', got), '')
    t.strictSame(got, { operation_results: [{ type: 'procedure', result }] })
  }
  t.strictSame(await (await post('/mutation', { operations: [], collection_relationships: {} })).json(), {
    operation_results: [],
  })
})

test('explaining calls nothing and shows no secret', async (t) => {
  const { post, dialled } = await startTestConnector(t)
  const args = {
    url: 'https://u:CANARY1@api.example/path?token=CANARY2&x=CANARY3',
    headers: { Authorization: 'CANARY4', 'X-Api-Key': 'CANARY5', Accept: 'text/plain' },
    basic_auth_username: 'u',
    basic_auth_password: 'CANARY6',
  }
  const asQuery = await (
    await post(
      '/query/explain',
      ask('http_GetRequest', Object.fromEntries(Object.entries(args).map(([name, value]) => [name, literal(value)]))),
    )
  ).json()
  const asMutation = await (
    await post(
      '/mutation/explain',
      operation('http_PostRequest', { ...args, data: { password: 'CANARY7', name: 'x' } }),
    )
  ).json()
  for (const explained of [asQuery, asMutation]) {
    t.equal(ndcMistakes('ExplainResponse', explained), '')
    t.notMatch(JSON.stringify(explained), /CANARY/)
    t.match(explained, {
      details: { 'argument.url': 'https://api.example/path?token=***&x=***', 'argument.headers': /text\/plain/ },
    })
  }
  t.match(asMutation, { details: { command: 'http/PostRequest', 'argument.data': '{"password":"***","name":"x"}' } })
  t.strictSame(dialled, [])
})

const WRONG: readonly (readonly [name: string, path: string, body: unknown, status: number, message: RegExp])[] = [
  ['no JSON', '/query', '{', 400, /not JSON/],
  ['a list', '/query', [], 400, /must be an object/],
  ['no function', '/query', ask('nothing', {}), 400, /no function 'nothing'/],
  ['a procedure is no function', '/query', ask('http_PostRequest', {}), 400, /no function/],
  ['query is missing', '/query', { collection: 'http_GetRequest', arguments: {} }, 400, /query must be/],
  [
    'aggregates',
    '/query',
    ask('http_GetRequest', {}, { query: { aggregates: {} } }),
    501,
    /aggregates is not supported/,
  ],
  ['a predicate', '/query', ask('http_GetRequest', {}, { query: { predicate: {} } }), 501, /predicate/],
  ['fields of the wrong kind', '/query', ask('http_GetRequest', {}, { query: { fields: [] } }), 400, /fields/],
  ['a negative limit', '/query', ask('http_GetRequest', {}, { query: { fields: VALUE, limit: -1 } }), 400, /limit/],
  [
    'an unknown column',
    '/query',
    ask('http_GetRequest', {}, { query: { fields: { x: { type: 'column', column: 'x' } } } }),
    400,
    /no column 'x'/,
  ],
  [
    'a relationship',
    '/query',
    ask('http_GetRequest', {}, { query: { fields: { x: { type: 'relationship' } } } }),
    501,
    /relationships/,
  ],
  [
    'a selection from a scalar',
    '/query',
    ask(
      'http_GetRequest',
      {},
      {
        query: {
          fields: {
            v: {
              type: 'column',
              column: '__value',
              fields: {
                type: 'object',
                fields: { b: { type: 'column', column: 'body', fields: { type: 'object', fields: {} } } },
              },
            },
          },
        },
      },
    ),
    400,
    /scalar/,
  ],
  ['an unknown argument', '/query', ask('http_GetRequest', { nothing: literal(1) }), 400, /no argument 'nothing'/],
  [
    'an argument of no known kind',
    '/query',
    ask('http_GetRequest', { url: { type: 'other' } }),
    400,
    /literal or variable/,
  ],
  [
    'a missing variable',
    '/query',
    ask('http_GetRequest', { url: { type: 'variable', name: 'v' } }),
    400,
    /no variable 'v'/,
  ],
  [
    'a variable named __proto__',
    '/query',
    ask('http_GetRequest', { url: { type: 'variable', name: '__proto__' } }),
    400,
    /no variable/,
  ],
  ['variables of the wrong kind', '/query', ask('http_GetRequest', {}, { variables: [1] }), 400, /variables/],
  ['a missing argument', '/query', ask('http_GetRequest', {}), 422, /url is required/],
  [
    'an argument of the wrong type',
    '/query',
    ask('http_GetRequest', { url: literal({}) }),
    422,
    /url must be a string/,
  ],
  ['a bad URL', '/query', ask('http_GetRequest', { url: literal('ftp://x/') }), 422, /only http and https/],
  [
    'a destination that is closed',
    '/query',
    ask('http_GetRequest', { url: literal('http://10.0.0.1/') }),
    403,
    /closed to commands/,
  ],
  [
    'an upstream that is not there',
    '/query',
    ask('http_GetRequest', { url: literal('http://127.0.0.1:1/') }),
    502,
    /ECONNREFUSED/,
  ],
  ['no operations', '/mutation', {}, 400, /operations must be a list/],
  ['two operations', '/mutation', { operations: [{}, {}] }, 501, /one operation/],
  ['an operation of no known kind', '/mutation', { operations: [{ type: 'x' }] }, 400, /procedure/],
  ['no procedure', '/mutation', operation('nothing', {}), 400, /no procedure 'nothing'/],
  ['a function is no procedure', '/mutation', operation('http_GetRequest', {}), 400, /no procedure/],
  ['arguments that are a list', '/mutation', operation('http_PostRequest', []), 400, /arguments/],
  ['an unknown argument of a procedure', '/mutation', operation('http_PostRequest', { x: 1 }), 400, /no argument/],
  [
    'a selection of no known kind',
    '/mutation',
    operation('http_PostRequest', { url: 'http://x/' }, { type: 'array' }),
    400,
    /type: object/,
  ],
  ['explaining what is not there', '/query/explain', ask('nothing', {}), 400, /no function/],
  ['explaining without an argument', '/mutation/explain', operation('http_PostRequest', {}), 422, /url is required/],
]

test('every error has its status and fits the published schema; nothing runs before the request is read whole', async (t) => {
  const { post, get, dialled, errors } = await startTestConnector(t)
  for (const [name, path, body, status, message] of WRONG) {
    const response = await post(path, body)
    const got = (await response.json()) as { message: string }
    t.equal(response.status, status, `${name}: ${got.message}`)
    t.equal(ndcMistakes('ErrorResponse', got), '', name)
    t.match(got.message, message, name)
  }
  for (const response of [await get('/query'), await post('/schema', {}), await get('/nowhere')])
    t.equal(ndcMistakes('ErrorResponse', await response.json()), '')
  t.strictSame(dialled, [{ host: '127.0.0.1', port: 1 }])
  t.strictSame(errors, [])
})

test('the version header', async (t) => {
  const cases: [string, boolean][] = [
    ['0.2.13', true],
    ['0.2.0', true],
    ['0.2.13+build', true],
    ['0.2.0-rc.1', true],
    ['0.2.14', false],
    ['0.3.0', false],
    ['0.1.6', false],
    ['1.0.0', false],
    ['v0.2.0', false],
    ['0.2', false],
    ['', false],
    ['0.2.0, 0.2.0', false],
    ['latest', false],
  ]
  for (const [version, isGood] of cases) t.equal(versionMistake(version) === undefined, isGood, version)
  t.equal(versionMistake(undefined), undefined)
  const { get, post } = await startTestConnector(t)
  for (const path of ['/capabilities', '/schema', '/metrics']) {
    const refused = await get(path, { 'x-hasura-ndc-version': '0.3.0' })
    t.equal(refused.status, 400)
    t.equal(ndcMistakes('ErrorResponse', await refused.json()), '')
    t.equal((await get(path, { 'x-hasura-ndc-version': NDC_VERSION })).status, 200)
  }
  t.equal((await post('/query', '{', { 'x-hasura-ndc-version': '9.0.0' })).status, 400)
  t.equal((await get('/health', { 'x-hasura-ndc-version': '9.0.0' })).status, 200, 'health is asked by probes')
})

test('metrics', async (t) => {
  const { get, run } = await startTestConnector(t)
  await run('http/GetRequest', { url: 'http://127.0.0.1:1/' })
  await run('http/GetRequest', {})
  const response = await get('/metrics')
  t.match(response.headers.get('content-type'), /^text\/plain/)
  const text = await response.text()
  t.match(text, 'sluice_commands_total{command="http/GetRequest",outcome="connection_refused"} 1')
  t.match(text, 'sluice_commands_total{command="http/GetRequest",outcome="invalid_parameters"} 1')
  t.match(text, 'sluice_command_requests_total{class="failed"} 1')
  t.match(text, 'sluice_commands_in_flight 0')
  t.notMatch(text, /^hasura_/m, 'a reserved prefix')
})
