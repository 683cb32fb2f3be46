import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect as connectHttp2, createServer as createHttp2 } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { connect } from 'node:tls'
import t, { type Test, test } from 'tap'
import { taskHash } from '../../src/codec/taskHash.ts'
import { formatAddress } from '../../src/net/address.ts'
import { parsePolicy } from '../../src/policy/parsePolicy.ts'
import type { World } from '../../src/proxy.ts'
import { testDialer } from '../support/direct.ts'
import { type ToldDiscovery, toldDiscovery } from '../support/discovery.ts'
import { asked, closeWorkshop, DOMAIN, dialled, type Gateway, gateway, nameOf, root } from '../support/exposed.ts'
import { type Scripted, scripted } from '../support/http.ts'
import { readAll, upstream } from '../support/peers.ts'
import { forge, KEYS_TEXT, tokenCases } from '../support/tokenCases.ts'
import { policyOf } from '../support/world.ts'

// Tasks that run in other pods: their endpoints are what discovery says.

const NAME = 'acme-in.farm.svc.cluster.local'
const saying = (text: string) => `HTTP/1.1 200 OK\r\nContent-Length: ${text.length}\r\n\r\n${text}`
const status = (answer: string): number => Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1] ?? 0)
const said = (answer: string): string => answer.split('\r\n\r\n')[1] ?? ''
const IN_TURN = 'defaults: { balance: { algorithm: roundRobin, failfast: 50ms } }'
/** The document has to say that somebody knows names; who does is the test's affair. */
const SOURCES = 'discovery: { sources: [{ static: {} }] }\n'
const now = () => Math.floor(Date.now() / 1000)
const bearer = () => [
  `Authorization: Bearer ${forge({
    ...{ cap: 262_154, iat: now() - 1, exp: now() + 600 },
    sel: { include: { labels: [{ name: 'estuary.dev/task-name', value: 'acmeCo/in' }] } },
  })}`,
]

// Something listens on the exposed port of this host: nothing may ever come there.
const stray = await upstream((socket) => socket.end('stray'))
const PORT = stray.address.port
const PUBLIC = `{ acmeCo/in: { authority: ${NAME}, ports: { ${PORT}: { public: true } } } }`
const PRIVATE = `{ acmeCo/in: { authority: ${NAME}, ports: { ${PORT}: {} } } }`
const RAW = `{ acmeCo/in: { authority: ${NAME}, ports: { ${PORT}: { public: true, protocol: ftp } } } }`
const ASKED = `${NAME}:${PORT}`

t.teardown(() => {
  stray.close()
  closeWorkshop()
})

interface Scene {
  readonly gate: Gateway
  readonly names: ToldDiscovery
  /** Every address that was dialled. */
  readonly dials: string[]
}

/** A gateway whose discovery knows what it is told. */
const scene = async (
  t: Test,
  tasks: string,
  { rules = IN_TURN, changes = {} as Partial<World> } = {},
): Promise<Scene> => {
  const names = toldDiscovery()
  const dials: string[] = []
  const dial = testDialer()
  const gate = await gateway(tasks, {
    keys: KEYS_TEXT,
    rules: `${SOURCES}${rules}`,
    changes: {
      discovery: names,
      dial: (to, signal) => {
        dials.push(formatAddress(to))
        return dial(to, signal)
      },
      ...changes,
    },
  })
  t.teardown(() => {
    gate.close()
    gate.world.http.balancers.close()
  })
  return { gate, names, dials }
}

const servers = async (t: Test, ...texts: string[]): Promise<Scripted[]> => {
  const all = await Promise.all(texts.map((text) => scripted(saying(text))))
  t.teardown(() => {
    for (const each of all) each.close()
  })
  return all
}

/** Servers of bytes: each says its name, then what it was sent, once the client has ended. */
const speakers = async (t: Test, ...texts: string[]) => {
  const all = await Promise.all(
    texts.map((text) =>
      upstream((socket) => {
        let heard = ''
        socket.write(`${text}:`)
        socket.on('data', (chunk) => {
          heard += chunk
        })
        socket.on('end', () => socket.end(heard))
      }),
    ),
  )
  t.teardown(() => {
    for (const each of all) each.close()
  })
  return all
}

const many = async <T>(count: number, act: () => Promise<T>): Promise<T[]> => {
  const all: T[] = []
  for (let i = 0; i < count; i++) all.push(await act())
  return all
}

/** Whoever listened here does so no more. */
const dead = async ({ close, server }: Scripted | Awaited<ReturnType<typeof upstream>>) => {
  close()
  if (server.listening) await once(server, 'close')
}

/** What comes back for bytes to a public port; undefined when it is closed. */
const bytes = async (gate: Gateway, said: string): Promise<string | undefined> => {
  const socket = await dialled(gate, { servername: nameOf(PORT), ALPNProtocols: ['ftp'] })
  socket.end(said)
  const text = await readAll(socket).catch(() => '')
  socket.destroy()
  return text === '' ? undefined : text
}

const session = (gate: Gateway) => {
  const opened = connectHttp2(`https://${nameOf(PORT)}`, {
    createConnection: () =>
      connect({ ...gate.address, ca: root.cert, servername: nameOf(PORT), ALPNProtocols: ['h2'] }),
  })
  const get = async (fields: Record<string, string> = {}) => {
    const stream = opened.request({ ':path': '/', ...fields })
    stream.on('error', () => {})
    const [head] = await once(stream, 'response')
    let text = ''
    for await (const chunk of stream) text += chunk
    return { status: head[':status'] as number, text }
  }
  return { get, close: () => opened.destroy() }
}

test('requests to a port go to the endpoints of the name, with the port that is exposed, in turn', async (t) => {
  const { gate, names, dials } = await scene(t, PUBLIC)
  const [a, b] = await servers(t, 'a', 'b')
  names.at(ASKED, a!.address, b!.address)
  const answers = await many(6, () => asked(gate, nameOf(PORT)))
  t.same(answers.map(said).sort(), ['a', 'a', 'a', 'b', 'b', 'b'])
  t.same([...names.watched.keys()], [ASKED])
  t.same([...new Set(dials)].sort(), [a!.address, b!.address].map(formatAddress).sort())
  t.match(
    a!.received[0],
    new RegExp(`\\r\\nhost: ${nameOf(PORT)}\\r\\n[^]*x-forwarded-for: 127\\.0\\.0\\.1\\r\\n`, 'i'),
  )
  while (gate.outcomes.length < 6) await new Promise(setImmediate)
  t.match(gate.outcomes[0], {
    result: 'forwarded',
    upstream: { host: '127.0.0.1' },
    exposed: { task: 'acmeCo/in', port: PORT },
  })
  t.match(gate.requests[0], { status: 200, name: 'acme-in.farm.svc.cluster.local.farm.svc.cluster.local.' })
})

test('HTTP/2 too: to connectors of HTTP/1.1, and of HTTP/2 in the clear where the label says so', async (t) => {
  const { gate, names } = await scene(t, PUBLIC)
  const [a, b] = await servers(t, 'a', 'b')
  names.at(ASKED, a!.address, b!.address)
  const one = session(gate)
  t.same((await many(4, one.get)).map(({ text }) => text).sort(), ['a', 'a', 'b', 'b'])
  one.close()
  const h2c = createHttp2((request, response) => response.end(`h2 ${request.authority}`)).listen(0, '127.0.0.1')
  await once(h2c, 'listening')
  const other = await scene(t, PUBLIC.replace('public: true', 'public: true, protocol: h2'))
  other.names.at(ASKED, { host: '127.0.0.1', port: (h2c.address() as AddressInfo).port })
  const two = session(other.gate)
  t.same(await two.get(), { status: 200, text: `h2 ${nameOf(PORT)}:443` })
  two.close()
  other.gate.world.http.pool.close()
  h2c.close()
})

test('bytes go to an endpoint as well, half-close included, and so does a server that speaks first', async (t) => {
  const { gate, names } = await scene(t, RAW)
  const [a, b] = await speakers(t, 'a', 'b')
  names.at(ASKED, a!.address, b!.address)
  const answers = await many(4, () => bytes(gate, 'x\xff'))
  t.same(answers.sort(), ['a:x\xc3\xbf', 'a:x\xc3\xbf', 'b:x\xc3\xbf', 'b:x\xc3\xbf'])
  const silent = await scene(t, PUBLIC)
  silent.names.at(ASKED, a!.address)
  const socket = await dialled(silent.gate, { servername: nameOf(PORT) })
  t.equal(String((await once(socket, 'data'))[0]), 'a:', 'no client that is silent waits for it in vain')
  socket.destroy()
})

test('an endpoint that dies is passed over, by requests and by bytes', async (t) => {
  const { gate, names } = await scene(t, PUBLIC)
  const [a, b] = await servers(t, 'a', 'b')
  names.at(ASKED, a!.address, b!.address)
  await many(2, () => asked(gate, nameOf(PORT)))
  await dead(a!)
  const answers = await many(8, () => asked(gate, nameOf(PORT)))
  t.same(new Set(answers.map(said)), new Set(['b']))
  const raw = await scene(t, RAW)
  const [c, d] = await speakers(t, 'c', 'd')
  raw.names.at(ASKED, c!.address, d!.address)
  await dead(c!)
  t.same(new Set(await many(6, () => bytes(raw.gate, 'x'))), new Set(['d:x']))
  await dead(d!)
  t.equal(await bytes(raw.gate, 'x'), undefined, 'none is left: it is closed')
  await dead(b!)
  t.match(await asked(gate, nameOf(PORT)), /^HTTP\/1\.1 503 /)
})

test('a set that is replaced counts from the next request on, also on a connection that is open', async (t) => {
  const { gate, names } = await scene(t, PUBLIC)
  const [a, b] = await servers(t, 'a', 'b')
  names.at(ASKED, a!.address)
  const one = session(gate)
  t.equal((await one.get()).text, 'a')
  names.at(ASKED, b!.address)
  t.same(
    (await many(3, one.get)).map(({ text }) => text),
    ['b', 'b', 'b'],
  )
  names.at(ASKED)
  t.equal((await one.get()).status, 503, 'nothing serves it now')
  names.at(ASKED, a!.address)
  t.equal((await one.get()).text, 'a', 'and it is back')
  one.close()
})

const unknown: readonly (readonly [what: string, say: (names: ToldDiscovery) => void, more: string])[] = [
  ['a name that does not exist', (names) => names.absent(ASKED), ''],
  ['the same, told at once', (names) => names.absent(ASKED), ', otherwise: notFound'],
  ['the same, where others go to the original destination', (names) => names.absent(ASKED), ', otherwise: original'],
  ['a name without endpoints', (names) => names.at(ASKED), ''],
  ['the same, with the original destination', (names) => names.at(ASKED), ', otherwise: original'],
  ['a source that has said nothing', () => {}, ''],
]

for (const [what, say, more] of unknown) {
  test(`${what} is a connector that is away: 503, or closed, and nothing is dialled`, async (t) => {
    const rules = `defaults: { balance: { failfast: 10ms${more} } }`
    for (const tasks of [PUBLIC, RAW]) {
      const { gate, names, dials } = await scene(t, tasks, { rules })
      say(names)
      if (tasks === RAW) t.equal(await bytes(gate, 'x'), undefined)
      else for (const _ of [1, 2]) t.match(await asked(gate, nameOf(PORT)), /^HTTP\/1\.1 503 /)
      t.same(dials, [])
    }
  })
}

test('without any discovery it is 503 as well', async (t) => {
  for (const tasks of [PUBLIC, RAW]) {
    const { gate, dials } = await scene(t, tasks, { changes: { discovery: undefined } })
    if (tasks === RAW) t.equal(await bytes(gate, 'x'), undefined)
    else t.match(await asked(gate, nameOf(PORT)), /^HTTP\/1\.1 503 /)
    t.same(dials, [])
  }
})

test('discovery that comes with a reload is there for connections that are open', async (t) => {
  const names = toldDiscovery()
  let known: ToldDiscovery | undefined
  const world = Object.defineProperty({} as Partial<World>, 'discovery', { get: () => known, enumerable: true })
  const gate = await gateway(PUBLIC, { rules: `${SOURCES}${IN_TURN}` })
  Object.defineProperties(gate.world, Object.getOwnPropertyDescriptors(world))
  const [a] = await servers(t, 'a')
  names.at(ASKED, a!.address)
  const one = session(gate)
  t.equal((await one.get()).status, 503)
  known = names
  t.same(await one.get(), { status: 200, text: 'a' })
  one.close()
  gate.close()
})

test('rules cannot lead to the original destination, and can lead elsewhere', async (t) => {
  const [a, other] = await servers(t, 'a', 'other')
  const cases: [rule: string, expected: string][] = [
    [`when: { port: ${PORT} }, then: { upstream: { address: original } }`, 'a'],
    [`when: { path: / }, then: { upstream: { address: original }, balance: { otherwise: original } }`, 'a'],
    ['then: { upstream: { address: original } }', 'a'],
    [`when: { direction: inbound }, then: { upstream: { address: "${formatAddress(other!.address)}" } }`, 'other'],
  ]
  for (const [rule, expected] of cases) {
    const { gate, names } = await scene(t, PUBLIC, { rules: `rules:\n  - { name: r, ${rule} }` })
    names.at(ASKED, a!.address)
    t.equal(said(await asked(gate, nameOf(PORT))), expected, rule)
    if (rule.includes('otherwise')) {
      names.absent(ASKED)
      t.match(await asked(gate, nameOf(PORT)), /^HTTP\/1\.1 503 /, rule)
    }
  }
  const { gate, names, dials } = await scene(t, PUBLIC, {
    rules: `rules:\n  - { name: r, when: { direction: inbound, port: ${PORT} }, then: { deny: true } }`,
  })
  names.at(ASKED, a!.address)
  await asked(gate, nameOf(PORT))
  while (gate.outcomes.length === 0) await new Promise(setImmediate)
  t.match(gate.outcomes[0], { result: 'denied' })
  t.same(dials, [])
})

test('rules in dry run are told of what they would change, and of nothing else', async (t) => {
  const { gate, names } = await scene(t, PUBLIC, {
    rules: 'rules:\n  - { name: dry, dryRun: true, when: { port: 1-65535 }, then: { http: { timeout: 7s } } }',
  })
  const [a] = await servers(t, 'a')
  names.at(ASKED, a!.address)
  await asked(gate, nameOf(PORT))
  while (gate.outcomes.length === 0) await new Promise(setImmediate)
  t.same(
    gate.outcomes[0]!.dryRun?.map(({ key }) => key),
    ['http.timeout'],
  )
})

test('a PROXY header tells an endpoint who called, and its own address', async (t) => {
  const { gate, names } = await scene(t, RAW, {
    rules: 'defaults: { upstream: { proxyProtocol: v1 } }',
  })
  const [a] = await speakers(t, 'a')
  names.at(ASKED, a!.address)
  const { port } = a!.address
  t.match(await bytes(gate, 'x'), new RegExp(`^a:PROXY TCP4 127\\.0\\.0\\.1 127\\.0\\.0\\.1 \\d+ ${port}\\r\\nx$`))
})

test('a private port: the token is checked before the name is even asked for', async (t) => {
  const { gate, names, dials } = await scene(t, PRIVATE)
  const [a] = await servers(t, 'a')
  names.at(ASKED, a!.address)
  const refused: [what: string, fields: string[]][] = tokenCases(now())
    .filter(([, , expected]) => expected !== 'opens')
    .map(([what, value]) => [what, [`Authorization: Bearer ${value}`]])
  for (const [what, fields] of [['nothing', []] as [string, string[]], ...refused])
    t.ok([401, 403].includes(status(await asked(gate, nameOf(PORT), fields))), what)
  const one = session(gate)
  t.equal((await one.get()).status, 401)
  t.equal((await one.get({ authorization: 'Bearer x' })).status, 401)
  const silent = await dialled(gate, { servername: nameOf(PORT) })
  silent.end('SSH-2.0-x\r\n')
  await readAll(silent).catch(() => {})
  t.same([dials, names.watched.size, a!.connections.length], [[], 0, 0])
  t.equal(status(await asked(gate, nameOf(PORT), bearer())), 200)
  t.same(await one.get({ authorization: bearer()[0]!.slice('Authorization: '.length) }), { status: 200, text: 'a' })
  one.close()
  t.equal(a!.received.join().includes('uthorization'), false)
})

test('one of several shards has a name, another an address', async (t) => {
  const [low, high] = await servers(t, 'low', 'high')
  // What runs at an address has the exposed port there, so the second task is exposed at the port of its server.
  const shards = `[{ keyBegin: "00000000", rClockBegin: "00000000", authority: low }, { keyBegin: "80000000", rClockBegin: "00000000", host: 127.0.0.1 }]`
  const port = high!.address.port
  const { gate, names } = await scene(t, `{ acmeCo/in: { shards: ${shards}, ports: { ${port}: { public: true } } } }`)
  names.at(`low:${port}`, low!.address)
  const at = (range: string) => asked(gate, `${taskHash('acmeCo/in')}-${range}${port}.${DOMAIN}`, [], 'GET / HTTP/1.1')
  t.equal(said(await at('00000000-00000000-')), 'low')
  t.equal(said(await at('80000000-00000000-')), 'high')
  t.equal(status(await at('40000000-00000000-')), 404)
  t.equal(said(await at('')), 'high', 'any of them: the dice of this test fall on the second')
  const whole = await scene(t, PUBLIC)
  whole.names.at(ASKED, low!.address)
  const name = `${taskHash('acmeCo/in')}-00000000-00000000-${PORT}.${DOMAIN}`
  t.equal(said(await asked(whole.gate, name)), 'low', 'a task in one shard has the whole range')
})

test('a task that moves with a reload has moved for open connections too', async (t) => {
  const [here, there] = await servers(t, 'here', 'there')
  const { port } = here!.address
  const at = (where: string) => `{ acmeCo/in: { ${where}, ports: { ${port}: { public: true } } } }`
  const { gate, names } = await scene(t, at(`authority: ${NAME}`))
  names.at(`${NAME}:${port}`, there!.address)
  const socket = await dialled(gate, { servername: nameOf(port), ALPNProtocols: ['http/1.1'] })
  const say = async () => {
    socket.write(`GET / HTTP/1.1\r\nHost: ${nameOf(port)}\r\n\r\n`)
    return said(String((await once(socket, 'data'))[0]))
  }
  t.equal(await say(), 'there')
  gate.use(at('host: 127.0.0.1'))
  t.equal(await say(), 'here')
  gate.use(at(`authority: ${NAME}`))
  t.equal(await say(), 'there')
  socket.destroy()
})

test('the document: a place is written once, and a name needs somebody who knows it', (t) => {
  const found = (task: string, more = 'discovery: { sources: [{ dns: {} }] }') => {
    const text = `apiVersion: sluice/v1\ngateway:\n  tasks:\n    a:\n      ports: { 80: {} }\n      ${task}\n${more}\n`
    const read = parsePolicy([{ path: 'p.yaml', text }])
    const all = read.is === 'policy' ? read.warnings : read.diagnostics
    return all.map(
      ({ place, severity, code, message }) => `${place.line}:${place.column} ${severity} ${code} ${message}`,
    )
  }
  const shard = (where: string) => `shards: [{ keyBegin: "00000000", rClockBegin: "00000000"${where} }]`
  const twice = /^6:18 error bad-value host already says where it runs; keep one of the two$/
  const cases: [task: string, more: string | undefined, says: RegExp | undefined][] = [
    [`authority: ${NAME}`, undefined, undefined],
    [shard(`, authority: ${NAME}`), undefined, undefined],
    [shard(', host: 10.0.0.1'), '', undefined],
    [`authority: ${NAME}\n      host: 10.0.0.1`, undefined, twice],
    [`authority: ${NAME}\n      host: 127.0.0.1`, undefined, twice],
    [`authority: ${NAME}\n      ${shard(', host: 10.0.0.1')}`, undefined, /shards already says where it runs/],
    [shard(''), undefined, /^6:16 error bad-value expected either `host` or `authority`$/],
    [shard(`, host: 10.0.0.1, authority: ${NAME}`), undefined, /expected either `host` or `authority`$/],
    [
      'authority: 10.0.0.1',
      undefined,
      /^6:18 error bad-value "10\.0\.0\.1" is an address, not a name; write it under host/,
    ],
    ['authority: "acme-in:80"', undefined, /has a port; the one that is exposed counts, so write acme-in$/],
    ['authority: "a b"', undefined, /is not a name such as/],
    [
      `authority: ${NAME}`,
      '',
      /^6:18 error dangling-reference nobody knows where acme-in\.farm\.svc\.cluster\.local is: .*discovery/,
    ],
    [`authority: ${NAME}`, 'discovery: {}', /dangling-reference nobody knows/],
    [`authority: ${NAME}`, 'discovery: { sources: [] }', /dangling-reference nobody knows/],
    [shard(`, authority: ${NAME}`), '', /^6:\d+ error dangling-reference nobody knows where/],
  ]
  for (const [task, more, says] of cases) {
    const all = found(task, more)
    t.equal(all.length, says === undefined ? 0 : 1, `${task} ${more}: ${all}`)
    if (says !== undefined) t.match(all[0], says)
  }
  t.end()
})

test('the document on the page about exposed ports is one', (t) => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/exposed-ports.md'), 'utf8')
  const text = [...page.matchAll(/```yaml\n([\s\S]*?)```/g)]
    .map(([, yaml]) => yaml!)
    .find((it) => it.includes('authority:'))
  const { gateway: section } = policyOf(text!).sections
  t.match(section.tasks['acmeCo/in'], { authority: NAME, ports: [{ port: 8080, isPublic: false }] })
  t.end()
})

test('in all of this nothing came to the exposed port of this host', (t) => {
  t.equal(stray.connections.length, 0)
  t.end()
})

t.end()
