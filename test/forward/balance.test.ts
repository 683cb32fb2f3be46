import assert from 'node:assert/strict'
import { connect, type Socket } from 'node:net'
import { test } from 'tap'
import { newMember } from '../../src/balance/member.ts'
import { Use } from '../../src/balance/use.ts'
import { Attempt } from '../../src/forward/attempt.ts'
import type { Service } from '../../src/forward/balancers.ts'
import type { HttpExchange } from '../../src/forward/httpExchange.ts'
import { type Address, formatAddress } from '../../src/net/address.ts'
import { codedError } from '../../src/net/codedError.ts'
import type { Dial } from '../../src/net/connection.ts'
import { tcpDialer } from '../../src/net/dial.ts'
import { HandshakeError } from '../../src/net/tls/failure.ts'
import { type ToldDiscovery, toldDiscovery } from '../support/discovery.ts'
import { type Front, front } from '../support/front.ts'
import { ask, type Raw, raw, type Scripted, scripted } from '../support/http.ts'
import { manualClock } from '../support/manualClock.ts'
import { caller, readAll, upstream } from '../support/peers.ts'

const HTTP1 = 'protocol: http1, detect: { serverFirst: never }'
const OPAQUE = 'protocol: opaque'
const IN_TURN = `${HTTP1}, balance: { algorithm: roundRobin }`
const saying = (text: string): string => `HTTP/1.1 200 OK\r\nContent-Length: ${text.length}\r\n\r\n${text}`
const get = (host = 'orders', more = ''): string => `GET / HTTP/1.1\r\nHost: ${host}\r\n${more}\r\n`
const NOWHERE = { host: '127.0.0.1', port: 9 }
const NAME = 'orders:80'
const FOUND = 'orders.farm.svc.cluster.local.'

interface Scene {
  readonly sluice: Front
  readonly names: ToldDiscovery
  /** Servers that say their own number, and hear what they are asked. */
  readonly servers: readonly Scripted[]
  /** Where the client goes by its address; nobody may come there unless a policy says so. */
  readonly original: Scripted
}

/** Sluice with names, some servers behind one of them, and an original destination that is something else. */
const among = async (
  { answers = [], policy = '', defaults = HTTP1, dial }: Partial<Setting>,
  run: (scene: Scene) => Promise<void>,
): Promise<void> => {
  const servers = await Promise.all(answers.map((answer) => scripted(answer)))
  const original = await scripted(saying('original'))
  const names = toldDiscovery()
  if (servers.length > 0) names.at(NAME, ...servers.map(({ address }) => address))
  const sluice = await front(original.address, `defaults: { ${defaults} }\n${policy}`, {
    discovery: names,
    ...(dial && { dial }),
  })
  try {
    await run({ sluice, names, servers, original })
  } finally {
    sluice.close()
    for (const server of [...servers, original]) server.close()
  }
}

interface Setting {
  readonly answers: readonly Parameters<typeof scripted>[0][]
  readonly policy: string
  readonly defaults: string
  readonly dial: Dial
}

const service = ({ sluice }: Scene): Service => [...sluice.world.http.balancers.services][0]!

/** Takes `n` answers on one connection, one after the other. */
const several = async (client: Raw, n: number, request = get()): Promise<string[]> => {
  const heard: string[] = []
  for (let i = 0; i < n; i++) {
    client.send(request)
    heard.push((await client.until(/\r\n\r\n\w+$/)).split('\r\n\r\n')[1]!)
  }
  return heard
}

/** Refuses connects to these at once, and lets the others through. */
const refusing = (): { readonly dial: Dial; readonly to: Set<string>; readonly tries: string[] } => {
  const tcp = tcpDialer()
  const to = new Set<string>()
  const tries: string[] = []
  const dial: Dial = (address, signal) => {
    tries.push(formatAddress(address))
    if (to.has(formatAddress(address))) return Promise.reject(codedError('ECONNREFUSED', 'refused'))
    return tcp(address, signal)
  }
  return { dial, to, tries }
}

test('behaviour 1: HTTP/1 goes to what its authority names, not to where the client went', () =>
  among({ answers: [saying('one'), saying('two')], defaults: IN_TURN }, async ({ sluice, original }) => {
    const client = await raw(sluice.address)
    const heard = await several(client, 40)
    client.socket.destroy()
    assert.deepEqual([...new Set(heard)].sort(), ['one', 'two'])
    assert.equal(original.received.length, 0)
    assert.equal(sluice.requests[0]!.name, FOUND)
  }))

test('behaviour 22: a name that exists and has no endpoint, or does not exist, is 504 after failfast, and the original destination is left alone', async () => {
  for (const say of ['at', 'absent'] as const) {
    await among({ defaults: `${HTTP1}, balance: { failfast: 150ms }` }, async ({ sluice, names, original }) => {
      names[say](NAME)
      const began = performance.now()
      const got = await ask(sluice.address, get())
      assert.ok(performance.now() - began >= 140)
      assert.match(got, /^HTTP\/1.1 504 /)
      assert.match(got, /sluice-error: failfast\r\n/)
      assert.equal(original.received.length, 0)
      assert.equal(sluice.requests[0]!.attempts, 0)
    })
  }
})

test('what the policy says of a name that is served nowhere: 404 at once, or the original destination', async () => {
  const otherwise = (what: string) => ({ defaults: `${HTTP1}, balance: { otherwise: ${what}, failfast: 5m }` })
  await among(otherwise('notFound'), async ({ sluice, names, original }) => {
    const client = await raw(sluice.address)
    client.send(get())
    // It waits for as long as nobody knows.
    names.absent(NAME)
    assert.match(await client.until(/noRoute/), /^HTTP\/1.1 404 /)
    client.socket.destroy()
    assert.equal(original.received.length, 0)
  })
  for (const say of ['at', 'absent'] as const) {
    await among(otherwise('original'), async ({ sluice, names, original }) => {
      names[say](NAME)
      assert.match(await ask(sluice.address, get()), /original$/)
      assert.equal(original.received.length, 1)
    })
  }
})

test('behaviour 23: a name that nobody can look up at first is answered once it is known', () =>
  among({ defaults: `${HTTP1}, balance: { failfast: 5m }` }, async ({ sluice, names }) => {
    const server = await scripted(saying('late'))
    const client = await raw(sluice.address)
    client.send(get())
    while (names.watched.get(NAME) !== 1) await new Promise(setImmediate)
    names.at(NAME, server.address)
    assert.match(await client.until(/late$/), /^HTTP\/1.1 200 /)
    client.socket.destroy()
    server.close()
  }))

test('behaviour 24: the only endpoint dies while a request waits, and the new one answers it', async () => {
  const { dial, to, tries } = refusing()
  await among({ dial, defaults: `${HTTP1}, limits: { connect: 5m }, balance: { failfast: 5m }` }, async (scene) => {
    const { sluice, names } = scene
    const server = await scripted(saying('new'))
    const dead = { host: '127.0.0.1', port: 9 }
    to.add(formatAddress(dead))
    names.at(NAME, dead)
    const client = await raw(sluice.address)
    client.send('POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\n\r\nhello')
    while (tries.length === 0) await new Promise(setImmediate)
    names.at(NAME, server.address)
    assert.match(await client.until(/new$/), /^HTTP\/1.1 200 /)
    assert.match(server.received[0]!, /hello$/)
    assert.equal(sluice.requests[0]!.attempts, 1, 'what was refused was not sent')
    client.socket.destroy()
    server.close()
  })
})

test('behaviour 29: an endpoint of weight 0 gets nothing', () =>
  among({ answers: [saying('one'), saying('two')] }, async ({ sluice, names, servers }) => {
    const [one, two] = servers.map(({ address }) => address) as [Address, Address]
    names.at(NAME, { address: one, weight: 0, labels: {} }, { address: two, weight: 1, labels: {} })
    const client = await raw(sluice.address)
    assert.deepEqual([...new Set(await several(client, 50))], ['two'])
    client.socket.destroy()
    assert.equal(servers[0]!.received.length, 0)
  }))

test('an endpoint that refuses costs nothing: the next one gets the request at once, whatever its method', async () => {
  const { dial, to } = refusing()
  await among({ answers: [saying('one'), saying('two')], dial }, async (scene) => {
    to.add(formatAddress(scene.servers[0]!.address))
    const client = await raw(scene.sluice.address)
    const post = 'POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\n\r\nhello'
    assert.deepEqual([...new Set(await several(client, 20, post))], ['two'])
    client.socket.destroy()
    assert.ok(scene.sluice.requests.every(({ attempts, status }) => attempts === 1 && status === 200))
    const [dead] = service(scene).balancer.members
    assert.equal(dead!.circuit.is, 'resting')
  })
})

test('when all refuse, it is 502 once a connect would have had its time, and 504 at once after failfast', async () => {
  const { dial, to } = refusing()
  const defaults = `${HTTP1}, limits: { connect: 100ms }, balance: { failfast: 300ms }`
  await among({ answers: [saying('one'), saying('two')], dial, defaults }, async ({ sluice, servers }) => {
    for (const { address } of servers) to.add(formatAddress(address))
    const first = await ask(sluice.address, get())
    assert.match(first, /^HTTP\/1.1 50[24] /)
    assert.match(first, /sluice-error: connectFailed/)
    while (!/failfast/.test(await ask(sluice.address, get())));
    assert.match(await ask(sluice.address, get()), /^HTTP\/1.1 504 [\s\S]*sluice-error: failfast/)
    // Nobody but our own probes finds out that it is back.
    to.clear()
    while (!/ 200 /.test(await ask(sluice.address, get())));
  })
})

test('seven failures eject an endpoint, and it is told once', async () => {
  const failing = 'HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno'
  const defaults = `${HTTP1}, balance: { algorithm: roundRobin, outlier: { ejection: 10m, maxEjection: 1h } }`
  await among({ answers: [failing, saying('two')], defaults }, async (scene) => {
    const events: string[] = []
    scene.sluice.world.http.balancers.subscribe((event) => {
      if (event.is === 'circuit') events.push(event.member.circuit.is)
    })
    const client = await raw(scene.sluice.address)
    const heard = await several(client, 40)
    client.socket.destroy()
    assert.equal(heard.filter((it) => it === 'no').length, 7)
    assert.deepEqual(events, ['resting'])
  })
})

test('an endpoint that leaves finishes what it has, gets nothing new, and its idle connections are closed', () => {
  const waiting: Socket[] = []
  const slow = (_: string, socket: Socket) => {
    waiting.push(socket)
    return undefined
  }
  return among({ answers: [slow] }, async (scene) => {
    const { sluice, names, servers } = scene
    const [old] = servers as [Scripted]
    const client = await raw(sluice.address)
    client.send(get())
    while (waiting.length === 0) await new Promise(setImmediate)
    const fresh = await scripted(saying('new'))
    names.at(NAME, fresh.address)
    assert.match(await ask(sluice.address, get()), /new$/)
    waiting[0]!.write(saying('old'))
    assert.match(await client.until(/old$/), / 200 /)
    client.socket.destroy()
    assert.equal(old.received.length, 1)
    // An idle one: closed at once, not after its idle time.
    const last = await scripted(saying('last'))
    const [idle] = fresh.connections as [Socket]
    const closed = new Promise((resolve) => idle.once('end', resolve))
    names.at(NAME, last.address)
    await closed
    for (const server of [fresh, last]) server.close()
  })
})

test('no request is lost while all endpoints are replaced, again and again', () =>
  among({ answers: [saying('a'), saying('b'), saying('c')] }, async ({ sluice, names, servers }) => {
    const clients = await Promise.all(Array.from({ length: 4 }, () => raw(sluice.address)))
    let isOver = false
    const working = clients.map(async (client) => {
      let answered = 0
      while (!isOver) answered += (await several(client, 5)).length
      return answered
    })
    for (let i = 0; i < 12; i++) {
      names.at(NAME, servers[i % 3]!.address)
      for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate)
    }
    isOver = true
    const answered = await Promise.all(working)
    for (const client of clients) client.socket.destroy()
    assert.ok(answered.every((n) => n > 0))
    assert.ok(sluice.requests.every(({ status }) => status === 200))
  }))

test('the authority and the protocol that an endpoint is known by are used for it', async () => {
  await among({ answers: [saying('one')] }, async ({ sluice, names, servers }) => {
    const [server] = servers as [Scripted]
    names.at(NAME, { address: server.address, weight: 1, labels: {}, authority: 'real.example:8080' })
    await ask(sluice.address, get())
    assert.match(server.received[0]!, /^GET \/ HTTP\/1.1\r\nHost: real.example:8080\r\n/)
    assert.equal(sluice.requests[0]!.authority, 'orders')
    names.at(NAME, { address: server.address, weight: 1, labels: {}, protocol: 'http2' })
    await raw(sluice.address).then(async (client) => {
      client.send(get())
      while (!server.received.join('').includes('PRI * HTTP/2.0')) await new Promise(setImmediate)
      client.socket.destroy()
    })
  })
})

test('a list of addresses is balanced as well, by request and by connection', async () => {
  const echo = () =>
    upstream((socket) => {
      socket.write(`${socket.localPort} `)
      socket.pipe(socket)
    })
  const servers = await Promise.all([echo(), echo(), echo()])
  const list = servers.map(({ address }) => formatAddress(address)).join(', ')
  const policy = `rules: [{ name: some, then: { upstream: { address: [${list}] } } }]`
  await among({ policy, defaults: `${OPAQUE}, balance: { algorithm: roundRobin }` }, async ({ sluice, original }) => {
    servers[0]!.close()
    const heard = new Set<string>()
    for (let i = 0; i < 30; i++) {
      const client = await caller(sluice.address)
      client.end('hello')
      heard.add(await readAll(client))
    }
    const ports = servers.map(({ address }) => `${address.port} hello`)
    assert.deepEqual([...heard].sort(), ports.slice(1).sort(), 'one is gone, and nobody noticed')
    assert.equal(original.connections.length, 0)
    const [{ balancer }] = [...sluice.world.http.balancers.services] as [Service]
    while (balancer.inFlight > 0) await new Promise(setImmediate)
  })
  for (const server of servers) server.close()
})

test('a server that speaks first is heard through a name as well, and what was dialled for nothing is given back', async () => {
  const greeting = await upstream((socket) => {
    socket.write('220 ready\r\n')
    socket.resume().on('end', () => socket.end())
  })
  const policy = 'rules: [{ name: mail, then: { upstream: { address: [LIST] } } }]'
  const list = [greeting.address, greeting.address].map(formatAddress).join(', ')
  await among({ policy: policy.replace('LIST', list), defaults: 'detect: { timeout: 10s }' }, async (scene) => {
    const client = await raw(scene.sluice.address)
    assert.equal(await client.until(/ready\r\n/), '220 ready\r\n')
    client.socket.destroy()
    while (scene.sluice.outcomes.length === 0) await new Promise(setImmediate)
    assert.equal(scene.sluice.outcomes[0]!.reason, 'serverFirst')
    assert.deepEqual(scene.sluice.outcomes[0]!.upstream, greeting.address)
    while (service(scene).balancer.inFlight > 0) await new Promise(setImmediate)
  })
  greeting.close()
})

test('that nobody answers where the client went is no matter, where its request goes to a name', async () => {
  const { dial, to, tries } = refusing()
  await among({ answers: [saying('one')], defaults: 'detect: { timeout: 5m }', dial }, async ({ sluice, original }) => {
    to.add(formatAddress(original.address))
    const client = await raw(sluice.address)
    // Silent for a moment, so that it was dialled early.
    while (!tries.includes(formatAddress(original.address))) await new Promise((resolve) => setTimeout(resolve, 1))
    await new Promise(setImmediate)
    client.send(get())
    assert.match(await client.until(/one$/), /^HTTP\/1.1 200 /)
    client.socket.destroy()
  })
})

test('the same cookie goes to the same endpoint', () =>
  among(
    {
      answers: ['one', 'two', 'three', 'four'].map(saying),
      defaults: `${HTTP1}, balance: { algorithm: hash, hash: { cookie: session } }`,
    },
    async ({ sluice }) => {
      const client = await raw(sluice.address)
      const seen = new Set<string>()
      for (let user = 0; user < 20; user++) {
        const request = get('orders', `Cookie: theme=dark; session=u${user}\r\n`)
        const heard = new Set(await several(client, 3, request))
        assert.equal(heard.size, 1)
        seen.add([...heard][0]!)
      }
      client.socket.destroy()
      assert.ok(seen.size > 1)
    },
  ))

test('a name of the policy without a port is at 80, at 443 where TLS is spoken to it, and for bytes where the client went', async () => {
  const server = await scripted(saying('there'))
  const { port } = server.address
  const cases: readonly (readonly [defaults: string, upstream: string, watched: string])[] = [
    [HTTP1, '{ authority: cows }', 'cows:80'],
    [HTTP1, '{ authority: "cows:8080" }', 'cows:8080'],
    [HTTP1, '{ authority: cows, tls: { verify: false } }', 'cows:443'],
    [OPAQUE, '{ authority: cows }', `cows:${port}`],
  ]
  for (const [defaults, to, watched] of cases) {
    const names = toldDiscovery()
    const policy = `defaults: { ${defaults}, balance: { failfast: 10ms } }\nrules: [{ name: cows, then: { upstream: ${to} } }]`
    const sluice = await front(server.address, policy, { discovery: names })
    await ask(sluice.address, get()).catch(() => {})
    while (names.watched.size === 0) await new Promise(setImmediate)
    assert.deepEqual([...names.watched.keys()], [watched])
    sluice.close()
  }
  server.close()
})

test('inbound, addresses, and rules that say where: names count for none of them', async () => {
  const server = await scripted(saying('there'))
  const names = toldDiscovery()
  const cases: readonly (readonly [direction: 'inbound' | 'outbound', host: string, policy: string])[] = [
    ['inbound', 'orders', ''],
    ['outbound', '10.1.2.3', ''],
    ['outbound', '[fd00::1]:8080', ''],
    ['outbound', 'orders', 'rules: [{ name: as is, then: { upstream: { address: original } } }]'],
  ]
  for (const [direction, host, policy] of cases) {
    const sluice = await front(server.address, policy, { discovery: names }, { direction })
    assert.match(await ask(sluice.address, get(host)), /there$/)
    sluice.close()
  }
  assert.equal(names.watched.size, 0)
  server.close()
})

test('a thousand names cost bounded memory, and idle ones are forgotten', async () => {
  const clock = manualClock()
  const { Balancers } = await import('../../src/forward/balancers.ts')
  const { balancingOf } = await import('../../src/forward/balancing.ts')
  const { policyOf } = await import('../support/world.ts')
  const balancing = balancingOf(policyOf('').base)
  const balancers = new Balancers(
    clock,
    () => 0.5,
    () => {},
  )
  const names = toldDiscovery()
  const kept: (() => void)[] = []
  for (let i = 0; i < 5_000; i++) {
    names.at(`n${i}:80`, { host: '10.0.0.1', port: 80 })
    const found = balancers.ofName({ host: `n${i}`, port: 80 }, balancing, names)!
    found.take({ hash: undefined, tried: [] }, { taken: (use) => kept.push(() => use.released()), refused: () => {} })
    if (i > 10) kept.pop()!()
    clock.advance(1)
  }
  assert.equal(balancers.size, 1_000)
  assert.ok(balancers.ofName({ host: 'n0', port: 80 }, balancing, names)!.balancer.inFlight === 1, 'who is used stays')
  clock.advance(400_000)
  assert.equal(balancers.size, 11)
  for (const release of kept) release()
  clock.advance(400_000)
  assert.equal(balancers.size, 0)
  assert.ok([...names.watched.values()].every((n) => n === 0))
  assert.equal(clock.pending(), 0)
})

test('active checks take an endpoint out, and bring it back', async () => {
  let isWell = true
  const answer = (request: string) =>
    request.startsWith('GET /healthz') && !isWell ? 'HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n' : saying('one')
  const health = 'health: { check: /healthz, interval: 100ms, failures: 2 }'
  await among({ answers: [answer, saying('two')], defaults: `${HTTP1}, balance: { ${health} }` }, async (scene) => {
    const news: string[] = []
    scene.sluice.world.http.balancers.subscribe((event) => {
      if (event.is === 'circuit') news.push(event.member.circuit.is)
    })
    await ask(scene.sluice.address, get())
    isWell = false
    while (news.length < 1) await new Promise((resolve) => setTimeout(resolve, 10))
    const client = await raw(scene.sluice.address)
    assert.deepEqual([...new Set(await several(client, 20))], ['two'])
    client.socket.destroy()
    isWell = true
    while (news.length < 2) await new Promise((resolve) => setTimeout(resolve, 10))
    assert.deepEqual(news, ['resting', 'ready'])
  })
})

test('a client that gives up while it waits for an endpoint leaves nothing behind', () =>
  among({ defaults: `${HTTP1}, balance: { failfast: 5m }` }, async (scene) => {
    const { sluice, names } = scene
    names.at(NAME)
    const client = connect(sluice.address.port, sluice.address.host)
    client.write(get())
    while ([...sluice.world.http.balancers.services].length === 0) await new Promise(setImmediate)
    while (service(scene).balancer.queued === 0) await new Promise(setImmediate)
    client.resetAndDestroy()
    while (service(scene).balancer.queued > 0) await new Promise(setImmediate)
  }))

test('what an answer says of its endpoint', async () => {
  const head = (status: number, ...fields: string[]): Step => [(it) => it.head({ status, reason: '', fields }, false)]
  const grpc = (status: string, code = 200): Step => [
    (it) => it.head({ status: code, reason: '', fields: ['content-type', 'application/grpc'] }, false),
    (it) => it.trailers(['grpc-status', status]),
  ]
  const cases: readonly (readonly [steps: Step, says: string])[] = [
    [head(200), 'good'],
    [head(404), 'good'],
    [head(429), 'good'],
    [head(501), 'good'],
    [head(500), 'bad'],
    [head(503), 'bad'],
    [head(200, 'grpc-status', '5'), 'good'],
    [head(200, 'grpc-status', '14'), 'bad'],
    [grpc('0'), 'good released'],
    [grpc('7'), 'good released'],
    ...['2', '4', '8', '13', '14', '15'].map((status) => [grpc(status), 'bad released'] as const),
    [grpc('14', 503), 'bad released'],
    [[(it) => it.head({ status: 204, reason: '', fields: [] }, true)], 'good released'],
    [[...head(200), (it) => it.data(Buffer.from('x'), true)], 'good released'],
    [[...head(200), (it) => it.abort(2, 'closed')], 'good released'],
    [[(it) => it.abort(2, 'closed')], 'bad released'],
    [[(it) => it.abort(1, 'malformed')], 'bad released'],
    [[(it) => it.abort(11)], 'bad released'],
    [[(it) => it.abort(7, 'unhandled')], 'released'],
    [[(it) => it.abort(2, 'closedIdle')], 'released'],
    [[(it) => it.failed(codedError('ECONNREFUSED', ''))], 'unreachable released'],
    [[(it) => it.failed(codedError('CONNECT_TIMEOUT', ''))], 'unreachable released'],
    [[(it) => it.failed(codedError('POOL_PENDING', ''))], 'released'],
    [[(it) => it.failed(new HandshakeError({ failed: true, code: 'TLS_NOT_AVAILABLE', message: '' }))], 'bad released'],
    [[(it) => it.giveUp()], 'released'],
    [[(it) => it.giveUp(true)], 'bad released'],
  ]
  for (const [steps, says] of cases) {
    const heard: string[] = []
    const attempt = new Attempt(new Proxy({}, { get: () => () => {} }) as HttpExchange)
    attempt.use = new Use(newMember({ address: NOWHERE, weight: 1, labels: {} }, 30, 0), {
      now: () => 0,
      decayMs: 1,
      judged: (_, isGood) => heard.push(isGood ? 'good' : 'bad'),
      unreachable: () => heard.push('unreachable'),
      released: () => heard.push('released'),
    })
    for (const step of steps) step(attempt)
    assert.equal(heard.join(' '), says, steps.join('; '))
  }
})

type Step = readonly ((attempt: Attempt) => void)[]
