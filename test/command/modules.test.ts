import { mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { test } from 'tap'
import { loadModules } from '../../src/command/modules.ts'
import { startTestConnector } from '../support/connector.ts'
import { ndcMistakes } from '../support/jsonSchemas.ts'
import { answer, startRawUpstream } from '../support/rawUpstream.ts'

const folderOf = (files: Readonly<Record<string, string>>): string => {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-modules-'))
  mkdirSync(join(directory, 'commands'))
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, 'commands', name), text)
  return directory
}

const one = (run: string, more = ''): string =>
  `export const commands = [{ id: 'my/Command', parameters: [{ id: 'url', type: 'str' }, { id: 'n', type: 'int' }], ${more} async run(args, tools) { ${run} } }]`

test('the example of the documentation', async (t) => {
  const upstream = await startRawUpstream(t, {
    '/': (socket, request) => {
      const isKnown = request.includes('Bearer CANARY') || request.includes('bearer CANARY')
      if (!isKnown) socket.end(answer(401, 'text/plain', 'who?'))
      else if (request.includes('city=Atlantis')) socket.end(answer(404, 'text/plain', 'no'))
      else socket.end(answer(200, 'application/json', JSON.stringify({ asked: request.split(' ')[1] })))
    },
  })
  const environment = { WEATHER_URL: upstream.url('/'), WEATHER_TOKEN: 'CANARY' }
  const { get, post, run, said, outcomes } = await startTestConnector(t, {
    configurationDirectory: resolve('examples'),
    environment,
  })
  const listed = (await (await get('/v1/commands')).json()) as { id: string }[]
  t.match(listed.at(-1), {
    id: 'weather/Today',
    parameters: [
      { id: 'city', type: 'str', required: true },
      { id: 'units', type: 'str', required: false },
    ],
  })
  t.match(await run('weather/Today', { city: 'Köln' }), {
    command_response: { body: { asked: '/?city=K%C3%B6ln&units=metric' }, http_status: 200 },
    error: null,
  })
  t.match(await run('weather/Today', { city: 'Atlantis' }), {
    command_response: { http_status: 404 },
    error: { error_code: 'CityNotFound' },
  })
  t.equal((await post('/v1/do/weather/Today', {})).status, 400)
  const schema = (await (await get('/schema')).json()) as { functions: { name: string }[] }
  t.equal(ndcMistakes('SchemaResponse', schema), '')
  t.ok(schema.functions.some(({ name }) => name === 'weather_Today'))
  const query = {
    collection: 'weather_Today',
    query: { fields: { v: { type: 'column', column: '__value' } } },
    arguments: { city: { type: 'literal', value: 'Rom' } },
    collection_relationships: {},
  }
  t.match(await (await post('/query', query)).json(), [
    { rows: [{ v: { body: { asked: '/?city=Rom&units=metric' } } }] },
  ])
  t.match(await (await get('/openapi.json')).json(), { paths: { '/v1/do/weather/Today': {} } })
  t.notMatch(JSON.stringify([said, outcomes]), /CANARY/)
})

test('what a module does wrong is its own failure, with a code', async (t) => {
  const cases: readonly (readonly [run: string, code: string, message: RegExp])[] = [
    ['throw new Error("oops")', 'command_failed', /oops/],
    ['throw "text"', 'command_failed', /text/],
    ['null.x', 'command_failed', /null/],
    ['return 3', 'command_failed', /not \{ body/],
    ['return {}', 'command_failed', /not \{ body/],
    ['return undefined', 'command_failed', /not \{ body/],
    ['return { body: 1, http_status: "200" }', 'command_failed', /http_status/],
    ['return { body: 1, error: "x" }', 'command_failed', /error_code/],
    ['const a = {}; a.a = a; return { body: a }', 'command_failed', /written as JSON/],
    ['return { body: 1n }', 'command_failed', /written as JSON/],
    ['tools.fail("MyCode", "mine", 418)', 'MyCode', /mine/],
    ['return { body: tools.secret("HOME") }', 'missing_secret', /HOME/],
    ['return { body: tools.secret("DECLARED_NOT_SET") }', 'missing_secret', /DECLARED_NOT_SET/],
    ['throw new Error("leaked " + tools.secret("DECLARED"))', 'command_failed', /^leaked \*\*\*$/],
    ['await new Promise(() => {})', 'timeout', /longer than 300 ms/],
    ['await tools.wait(60000)', 'timeout', /longer/],
    ['await tools.fetch("http://10.0.0.1/")', 'blocked_by_policy', /private/],
    ['await tools.fetch("file:///etc/passwd")', 'invalid_url', /only http/],
    ['await tools.connect("169.254.169.254", 80)', 'blocked_by_policy', /link-local/],
    ['await tools.connect("127.0.0.1", 1)', 'connection_refused', /ECONNREFUSED/],
  ]
  const text = cases.map(
    ([run], n) =>
      `{ id: 'my/C${n}', parameters: [], secrets: ['DECLARED', 'DECLARED_NOT_SET'], async run(args, tools) { ${run} } }`,
  )
  const configurationDirectory = folderOf({ 'all.js': `export const commands = [${text.join(',\n')}]` })
  const { run, post, errors } = await startTestConnector(t, {
    configurationDirectory,
    environment: { DECLARED: 'CANARY', HOME: '/x' },
    commands: 'timeout: 300ms',
  })
  for (const [n, [source, code, message]] of cases.entries()) {
    const envelope = await run(`my/C${n}`, {})
    t.equal(envelope.error?.error_code, code, `${source}: ${envelope.error?.message}`)
    t.match(envelope.error?.message, message)
    t.notMatch(JSON.stringify(envelope), /CANARY/)
  }
  t.equal((await post('/v1/do/my/C0', {})).status, 200, 'our own status is about the request')
  t.strictSame(errors, [])
})

test('fetch is as the standard has it, and held to the limits', async (t) => {
  const upstream = await startRawUpstream(t, {
    '/json': answer(200, 'application/json', '{"a":1}', 'X-One: 1\r\n'),
    '/204': 'HTTP/1.1 204 No Content\r\n\r\n',
    '/302': 'HTTP/1.1 302 Found\r\nLocation: /json\r\nContent-Length: 0\r\n\r\n',
    '/hang': () => {},
    '/large': answer(200, 'text/plain', 'x'.repeat(5_000)),
    '/echo': (socket, request) => socket.end(answer(200, 'text/plain', request)),
  })
  const cases: readonly (readonly [run: string, body: unknown])[] = [
    [
      'const r = await tools.fetch(b + "/json"); return { body: [r.status, r.ok, r.url === b + "/json", r.redirected, r.headers.get("x-one"), await r.json()] }',
      [200, true, true, false, '1', { a: 1 }],
    ],
    ['const r = await tools.fetch(new URL("/204", b)); return { body: [r.status, await r.text()] }', [204, '']],
    [
      'const r = await tools.fetch(b + "/302"); return { body: [r.status, r.redirected, r.url === b + "/json"] }',
      [200, true, true],
    ],
    [
      'const r = await tools.fetch(b + "/302", { redirect: "manual" }); return { body: [r.status, r.headers.get("location")] }',
      [302, '/json'],
    ],
    ['return { body: await tools.fetch(b + "/302", { redirect: "error" }).catch((e) => e.name) }', 'TypeError'],
    [
      'return { body: await tools.fetch(b + "/large").catch((e) => [e.name, e.cause.code]) }',
      ['TypeError', 'response_too_large'],
    ],
    [
      'return { body: await tools.fetch(b + "/hang", { signal: AbortSignal.timeout(20) }).catch((e) => e.constructor.name) }',
      'TypeError',
    ],
    [
      'const r = await tools.fetch(new Request(b + "/echo", { method: "PUT", body: "hello", headers: { "X-Mine": "1" } })); const x = await r.text(); return { body: [x.startsWith("PUT /echo"), /x-mine: 1/i.test(x), x.endsWith("hello")] }',
      [true, true, true],
    ],
  ]
  const text = cases.map(
    ([run], n) =>
      `{ id: 'my/C${n}', parameters: [{ id: 'b', type: 'str', required: true }], async run({ b }, tools) { ${run} } }`,
  )
  const { run } = await startTestConnector(t, {
    configurationDirectory: folderOf({ 'all.mjs': `export const commands = [${text.join(',\n')}]` }),
    commands: 'maxResponse: 1KiB',
  })
  for (const [n, [source, body]] of cases.entries()) {
    const envelope = await run(`my/C${n}`, { b: upstream.url('') })
    t.strictSame([envelope.error, envelope.command_response.body], [null, body], source)
  }
})

test('which files are modules', async (t) => {
  const good = (id: string): string =>
    `export const commands = [{ id: '${id}', parameters: [], run: async () => ({ body: 1 }) }]`
  const directory = folderOf({
    'a.js': good('a/A'),
    'b.ts': `${good('b/B')}\nexport const typed: number = 1`,
    'c.mjs': good('c/C'),
    '_shared.js': 'throw new Error("imported only by others")',
    '.hidden.js': 'throw new Error("never")',
    'a.test.js': 'throw new Error("never")',
    'types.d.ts': 'throw new Error("never")',
    'notes.txt': 'never',
  })
  mkdirSync(join(directory, 'commands', '.hasura'))
  mkdirSync(join(directory, 'commands', 'folder.js'))
  symlinkSync(join(directory, 'commands', 'a.js'), join(directory, 'd.js'))
  t.strictSame(
    (await loadModules(join(directory, 'commands'))).map(({ id }) => id),
    ['a/A', 'b/B', 'c/C'],
  )
  t.strictSame(await loadModules(join(directory, 'nothing')), [])
})

test('all mistakes of all modules at once, by file', async (t) => {
  const directory = folderOf({
    'a.js': 'export const commands = 3',
    'b.js': 'syntax error here',
    'c.js':
      "export const commands = [3, { id: 'no slash' }, { id: 'x/Y', run() {}, reads: 1, summary: 2, secrets: ['HASURA_X', 3], parameters: [3, { id: 'spiff__x', type: 'str' }, { id: 'a', type: 'string' }, { id: 'b', type: 'any', required: 'yes' }, { id: 'b', type: 'any' }] }]",
    'd.js': 'export const other = []',
  })
  await t.rejects(startTestConnector(t, { configurationDirectory: directory }), {
    message:
      /a\.js: exports no list[\s\S]*b\.js: [\s\S]*c\.js: commands\[0\] is not an object[\s\S]*commands\[1\]\.id must be like[\s\S]*commands\[1\]\.run must be a function[\s\S]*commands\[1\]\.parameters must be a list[\s\S]*commands\[2\]\.summary[\s\S]*commands\[2\]\.reads[\s\S]*parameters\[0\] is not an object[\s\S]*spiff__[\s\S]*type must be one of str, any, int, bool[\s\S]*required must be true or false[\s\S]*'b' is there twice[\s\S]*HASURA_X[\s\S]*d\.js: exports no list/,
  })
  for (const id of ['http/GetRequest', 'http/Get_Request']) {
    const twice = folderOf({
      'a.js': one('return { body: 1 }').replace('my/Command', id),
      'b.js': one('').replace('my/Command', id.replace('_', '-')),
    })
    await t.rejects(startTestConnector(t, { configurationDirectory: twice }), { message: /two commands have the name/ })
  }
})

test('the connectors that come with Sluice can be left out', async (t) => {
  const { get } = await startTestConnector(t, {
    commands: 'builtIn: []',
    configurationDirectory: folderOf({ 'a.js': one('return { body: 1 }') }),
  })
  t.strictSame(await (await get('/v1/commands')).json(), [
    {
      id: 'my/Command',
      parameters: [
        { id: 'url', type: 'str', required: false },
        { id: 'n', type: 'int', required: false },
      ],
    },
  ])
})
