import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import fc from 'fast-check'
import { type Test, test } from 'tap'
import { decodeMessage } from '../../src/codec/dnsMessage.ts'
import { answerOf } from '../../src/discovery/dnsAnswer.ts'
import { type Exchange, exchange } from '../../src/discovery/dnsExchange.ts'
import { createResolver, hostsOf, type Lookups, weighted } from '../../src/discovery/dnsLookup.ts'
import { type DnsSettings, dnsSource } from '../../src/discovery/dnsSource.ts'
import { parseHosts, parseNsswitch, parseResolvConf } from '../../src/discovery/resolvConf.ts'
import type { Answer, LookupResult } from '../../src/discovery/source.ts'
import { readSystem, type SystemResolver } from '../../src/discovery/systemResolver.ts'
import { systemClock } from '../../src/net/clock.ts'
import { dnsWire, type WrittenMessage } from '../support/dnsWire.ts'
import { shortly } from '../support/fakeSource.ts'
import { manualClock } from '../support/manualClock.ts'
import { stayAlive } from '../support/waiting.ts'

const read = (message: WrittenMessage) => decodeMessage(dnsWire(message))

test('what a message says of a question', async (t) => {
  const a = (owner: string, data: string, ttl = 60) => ({ owner, type: 'A', data, ttl }) as const
  const alias = (owner: string, data: string, ttl = 60) => ({ owner, type: 'CNAME', data, ttl }) as const
  const soa = [{ owner: '.', type: 'SOA', data: '20', ttl: 900 }] as const
  const cases: readonly (readonly [WrittenMessage, object])[] = [
    [{ answers: [a('x.', '10.0.0.1', 30), a('x.', '10.0.0.2', 20)] }, { is: 'records', ttl: 20 }],
    [{ answers: [alias('x.', 'y.', 10), a('y.', '10.0.0.1')] }, { is: 'records', ttl: 10 }],
    [{ answers: [a('y.', '10.0.0.1')] }, { is: 'noData', ttl: 1 }],
    [
      { answers: [alias('x.', 'y.', 10)], authorities: soa },
      { is: 'noData', ttl: 10 },
    ],
    [{ authorities: soa }, { is: 'noData', ttl: 20 }],
    [
      { flags: 0x8183, authorities: soa },
      { is: 'noName', ttl: 20 },
    ],
    [{ flags: 0x8183 }, { is: 'noName', ttl: 1 }],
    [{ flags: 0x8182 }, { is: 'failed', error: /SERVFAIL/ }],
    [{ flags: 0x8185 }, { is: 'failed', error: /REFUSED/ }],
    [{ flags: 0x818f }, { is: 'failed', error: /code 15/ }],
    [
      { answers: Array.from({ length: 40 }, (_, i) => alias(i === 0 ? 'x.' : `a${i}.`, `a${i + 1}.`)) },
      { is: 'noData' },
    ],
    [{ answers: [alias('x.', 'x.')] }, { is: 'noData' }],
  ]
  for (const [message, expected] of cases)
    t.match(answerOf(read(message), 'x.', 'A'), expected, JSON.stringify(message))
})

test('A and AAAA together', async (t) => {
  const records = (address: string, ttl = 60) =>
    ({ is: 'records', ttl, records: [{ owner: 'x.', type: 'A', ttl, address }] }) as const
  const failed = { is: 'failed', error: 'SERVFAIL' } as const
  t.match(hostsOf([records('10.0.0.1', 9), records('fd00::1', 8)]), { addresses: ['10.0.0.1', 'fd00::1'], ttl: 8 })
  t.match(
    hostsOf([records('10.0.0.1', 9), failed]),
    { addresses: ['10.0.0.1'], ttl: 9 },
    'servers that fail for AAAA alone',
  )
  t.match(hostsOf([{ is: 'noData', ttl: 5 }, failed]), { is: 'failed' }, 'a failure is not passed off as none')
  t.match(
    hostsOf([
      { is: 'noData', ttl: 5 },
      { is: 'noName', ttl: 3 },
    ]),
    { is: 'noData', ttl: 3 },
  )
  t.match(
    hostsOf([
      { is: 'noName', ttl: 5 },
      { is: 'noName', ttl: 3 },
    ]),
    { is: 'noName', ttl: 3 },
  )
})

test('targets of SRV records share by weight, however many addresses they have', async () => {
  const target = fc.record({ weight: fc.nat(65_535), port: fc.nat(65_535), count: fc.integer({ min: 1, max: 5 }) })
  fc.assert(
    fc.property(fc.array(target, { minLength: 1, maxLength: 8 }), (group) => {
      const hosts = group.map(({ count }, at) => ({
        is: 'hosts' as const,
        ttl: 1,
        addresses: Array.from({ length: count }, (_, i) => `10.0.${at}.${i}`),
      }))
      const endpoints = weighted(group, hosts, 80)
      const shareOf = (at: number) =>
        endpoints
          .filter(({ address }) => address.host.startsWith(`10.0.${at}.`))
          .reduce((sum, it) => sum + it.weight, 0)
      const isEven = group.every(({ weight }) => weight === 0)
      return group.every(({ weight, port, count }, at) => {
        const whole = isEven ? 100 : weight * 100
        const ports = endpoints.every(
          ({ address }) => !address.host.startsWith(`10.0.${at}.`) || address.port === (port || 80),
        )
        return ports && Math.abs(shareOf(at) - Math.max(whole, count)) <= count
      })
    }),
  )
})

const HOW: Lookups = {
  servers: [
    { host: '10.0.0.53', port: 53 },
    { host: '10.0.0.54', port: 53 },
  ],
  timeoutMs: 1000,
  attempts: 2,
  rotate: false,
  useTcp: false,
  types: ['A'],
  srv: 'underscore',
}

type Reply = WrittenMessage | Error

const resolverOf = (reply: (asked: Exchange) => Reply) => {
  const asked: string[] = []
  const clock = manualClock()
  const resolve = createResolver({
    clock,
    exchange: async (it) => {
      asked.push(`${it.server.host} ${it.type} ${it.name}${it.withEdns ? '' : ' plain'}`)
      const answer = reply(it)
      if (answer instanceof Error) throw answer
      return read(answer)
    },
  })
  return { asked, clock, resolve }
}

test('all servers are asked, and one that was silent is asked last for a while', async (t) => {
  const { asked, clock, resolve } = resolverOf(({ server, name }) =>
    server.host === '10.0.0.53' ? new Error('no answer') : { answers: [{ owner: name, type: 'A', data: '10.1.1.1' }] },
  )
  t.match(await resolve('x.', 80, HOW), {
    is: 'endpoints',
    ttl: 60,
    endpoints: [{ address: { host: '10.1.1.1', port: 80 } }],
  })
  await resolve('y.', 80, HOW)
  clock.advance(30_000)
  await resolve('z.', 80, HOW)
  t.same(asked, ['10.0.0.53 A x.', '10.0.0.54 A x.', '10.0.0.54 A y.', '10.0.0.53 A z.', '10.0.0.54 A z.'])
})

test('each server gets as many attempts as resolv.conf says; the last error is told', async (t) => {
  const { asked, resolve } = resolverOf(({ server }) =>
    server.host === '10.0.0.53' ? new Error('no answer') : { flags: 0x8182 },
  )
  t.match(await resolve('x.', 80, HOW), { is: 'failed', error: /no answer/ })
  t.equal(asked.length, 4)
  t.match(await resolve('x.', 80, { ...HOW, servers: [] }), { is: 'failed', error: 'there is no server to ask' })
})

test('a server that has never heard of EDNS is asked without', async (t) => {
  const { asked, resolve } = resolverOf(({ withEdns, name }) =>
    withEdns ? { flags: 0x8181 } : { answers: [{ owner: name, type: 'A', data: '10.1.1.1' }] },
  )
  t.match(await resolve('x.', 80, HOW), { is: 'endpoints' })
  t.same(asked, ['10.0.0.53 A x.', '10.0.0.53 A x. plain'])
})

test('rotate begins with another server each time', async (t) => {
  const { asked, resolve } = resolverOf(() => ({}))
  for (const name of ['x.', 'y.', 'z.']) t.match(await resolve(name, 80, { ...HOW, rotate: true }), { is: 'noData' })
  t.same(asked, ['10.0.0.53 A x.', '10.0.0.54 A y.', '10.0.0.53 A z.'])
})

const SRV = [
  { owner: '_h._tcp.x.', type: 'SRV', data: '1 90 8080 a.', ttl: 30 },
  { owner: '_h._tcp.x.', type: 'SRV', data: '1 10 8081 b.', ttl: 30 },
  { owner: '_h._tcp.x.', type: 'SRV', data: '2 50 8082 c.', ttl: 30 },
] as const

test('SRV: ports and weights of the first priority that has addresses', async (t) => {
  const addresses: Record<string, string> = { 'a.': '10.1.1.1', 'b.': '10.1.1.2', 'c.': '10.1.1.3' }
  const gone = new Set<string>()
  let extra: NonNullable<WrittenMessage['additionals']> = []
  const { asked, resolve } = resolverOf(({ name, type }) => {
    if (type === 'SRV') return name === '_h._tcp.x.' ? { answers: SRV, additionals: extra } : { flags: 0x8183 }
    if (gone.has(name) || addresses[name] === undefined) return { flags: 0x8183 }
    return { answers: [{ owner: name, type: 'A', data: addresses[name], ttl: 7 }] }
  })
  const shown = async (name: string, how = HOW) => {
    const found = await resolve(name, 80, how)
    if (found.is !== 'endpoints') return found.is
    return `${found.ttl}: ${found.endpoints.map((it) => `${it.address.host}:${it.address.port}=${it.weight}`).join(' ')}`
  }
  t.equal(await shown('_h._tcp.x.'), '7: 10.1.1.1:8080=9000 10.1.1.2:8081=1000')
  gone.add('a.')
  t.equal(await shown('_h._tcp.x.'), '1: 10.1.1.2:8081=1000')
  gone.add('b.')
  t.equal(await shown('_h._tcp.x.'), '1: 10.1.1.3:8082=5000')
  gone.add('c.')
  t.equal(await shown('_h._tcp.x.'), '1: ', 'the service exists, and nothing serves it')
  extra = [
    { owner: 'a.', type: 'A', data: '10.1.1.1', ttl: 5 },
    { owner: 'b.', type: 'A', data: '10.1.1.2', ttl: 6 },
  ]
  asked.length = 0
  t.equal(await shown('_h._tcp.x.'), '5: 10.1.1.1:8080=9000 10.1.1.2:8081=1000')
  t.equal(asked.length, 1, 'what the server sent along is not asked for')
  t.equal(await shown('_other._tcp.x.'), 'noName')
  gone.clear()
  t.equal(await shown('a.', { ...HOW, srv: 'first' }), '7: 10.1.1.1:80=1', 'addresses where there are no SRV records')
  asked.length = 0
  await shown('_h._tcp.x.', { ...HOW, srv: 'never' })
  t.same(asked, ['10.0.0.53 A _h._tcp.x.'])
})

test('SRV: a target of the root says no; a target that cannot be looked up fails the whole', async (t) => {
  const root = resolverOf(() => ({ answers: [{ owner: '_h._tcp.x.', type: 'SRV', data: '0 0 0 .' }] }))
  t.match(await root.resolve('_h._tcp.x.', 80, HOW), { is: 'endpoints', endpoints: [] })
  const broken = resolverOf(({ type, name }) =>
    type === 'SRV'
      ? { answers: SRV }
      : name === 'a.'
        ? { flags: 0x8182 }
        : { answers: [{ owner: name, type: 'A', data: '10.1.1.2' }] },
  )
  t.match(await broken.resolve('_h._tcp.x.', 80, HOW), { is: 'failed', error: /SERVFAIL/ })
})

test('no more than 64 questions are under way', async (t) => {
  const go: (() => void)[] = []
  let most = 0
  const resolve = createResolver({
    clock: manualClock(),
    exchange: async () => {
      await new Promise<void>((resolve) => (most = Math.max(most, go.push(resolve))))
      return read({})
    },
  })
  const all = Promise.all(Array.from({ length: 200 }, (_, i) => resolve(`x${i}.`, 80, HOW)))
  for (let done = 0; done < 200; ) {
    await new Promise((turn) => setImmediate(turn))
    for (const next of go.splice(0)) {
      done++
      next()
    }
  }
  t.equal((await all).length, 200)
  t.equal(most, 64)
})

const SETTINGS: DnsSettings = { minTtl: 1000, maxTtl: 300_000, family: 'ipv4', srv: 'underscore', hosts: true }

const SYSTEM: SystemResolver = {
  conf: parseResolvConf('nameserver 10.0.0.53\nsearch farm.\noptions ndots:1'),
  hosts: parseHosts('10.9.9.9 fixed\nfd00::9 six'),
  order: parseNsswitch('hosts: files dns'),
  families: { ipv4: true, ipv6: true },
}

const settle = () => new Promise((turn) => setImmediate(turn))

/** A source with a resolver that the test answers for. */
const sourceOf = (
  reply: (asked: Exchange) => Reply,
  changes: Partial<DnsSettings> = {},
  system = SYSTEM,
  search: string[] = [],
) => {
  const { asked, clock, resolve } = resolverOf(reply)
  const counted: LookupResult[] = []
  const counts = { looked: (_: string, result: LookupResult) => counted.push(result), reconnected: () => {} }
  const source = dnsSource(
    { ...SETTINGS, ...changes },
    { lookup: resolve, system: async () => system, search, clock, random: () => 1, counts },
  )
  const ask = (host: string, forbidden: readonly string[] = []) => {
    const said: Answer[] = []
    const question = { host, port: 80, names: [], forbidden: new Set(forbidden) }
    const asking = source.ask(question, (it) => said.push(it))
    const shown = () => {
      const last = said.at(-1)
      return last?.is === 'absent' ? `absent ${last.tried.join(' ')}`.trim() : shortly(last as never)
    }
    return { said, last: shown, ...asking }
  }
  /** Until nothing moves any more without the clock. */
  const calm = async () => {
    for (let i = 0; i < 20; i++) await settle()
  }
  const pass = async (ms: number) => {
    clock.advance(ms)
    await calm()
  }
  return { source, ask, asked, clock, counted, pass, calm }
}

test('names are asked in the order of ndots; the TTL decides when again', async (t) => {
  const { ask, asked, pass, calm } = sourceOf(({ name }) =>
    name === 'orders.'
      ? { answers: [{ owner: name, type: 'A', data: '10.1.1.1', ttl: 10 }] }
      : { flags: 0x8183, authorities: [{ owner: '.', type: 'SOA', data: '25' }] },
  )
  const { last, standing, said, stop } = ask('orders')
  await calm()
  t.equal(last(), 'orders. 10.1.1.1:80')
  t.same(asked, ['10.0.0.53 A orders.farm.', '10.0.0.53 A orders.'])
  t.equal(standing().refreshAt, 10_000)
  await pass(9_999)
  t.equal(asked.length, 2)
  await pass(1)
  t.same(asked.slice(2), ['10.0.0.53 A orders.'], 'the negative answer lives on for its own time')
  await pass(10_000)
  await pass(10_000)
  t.same(asked.slice(4), ['10.0.0.53 A orders.farm.', '10.0.0.53 A orders.'])
  t.equal(said.length, 1, 'the same answer again is no news')
  stop()
  await pass(100_000)
  t.equal(asked.length, 6)
})

test('TTLs are kept within bounds', async (t) => {
  let ttl = 0
  const { ask, pass, calm } = sourceOf(({ name }) => ({ answers: [{ owner: name, type: 'A', data: '10.1.1.1', ttl }] }))
  const { standing } = ask('orders.')
  await calm()
  t.equal(standing().refreshAt, 1_000)
  ttl = 86_400
  await pass(1_000)
  t.equal(standing().refreshAt, 301_000)
})

test('when DNS fails the last good answer stays, is asked for with growing pauses, and recovers', async (t) => {
  let reply: Reply = { answers: [{ owner: 'orders.', type: 'A', data: '10.1.1.1', ttl: 1 }] }
  const { ask, pass, calm, counted, asked } = sourceOf(() => reply)
  const { last, standing } = ask('orders.')
  await calm()
  reply = { flags: 0x8182 }
  await pass(1_000)
  t.equal(last(), 'stale orders. 10.1.1.1:80')
  t.match(standing(), { error: /SERVFAIL/, staleSince: 1_000, refreshAt: 1_500 })
  await pass(500)
  t.match(standing(), { staleSince: 1_000, refreshAt: 2_500 })
  for (let i = 0; i < 20; i++) await pass(30_000)
  t.equal(standing().refreshAt! % 30_000 >= 0 && counted.filter((it) => it === 'failed').length >= 20, true)
  const before = asked.length
  await pass(29_999)
  t.ok(asked.length - before <= 2, 'never more often than every half minute by then')
  reply = { answers: [{ owner: 'orders.', type: 'A', data: '10.1.1.2', ttl: 60 }] }
  await pass(30_000)
  t.equal(last(), 'orders. 10.1.1.2:80')
  t.same([standing().error, standing().staleSince], [undefined, undefined])
})

test('a name that does not exist, one without addresses, and one that cannot be looked up are three things', async (t) => {
  const { ask, calm } = sourceOf(({ name }) =>
    name.startsWith('none') ? { flags: 0x8183 } : name.startsWith('empty') ? {} : new Error('no answer'),
  )
  const [none, empty, broken] = [ask('none'), ask('empty'), ask('broken')]
  await calm()
  t.equal(none.last(), 'absent none.farm. none.')
  t.equal(empty.last(), 'empty.farm.')
  t.equal(broken.last(), 'nothing')
  t.match(broken.standing(), { error: /no answer/ })
  t.equal(broken.standing().staleSince, undefined, 'there is nothing to be stale')
})

test('a name that cannot be looked up is not passed over: the next could be the wrong one', async (t) => {
  const { ask, asked, calm } = sourceOf(({ name }) =>
    name === 'orders.farm.' ? { flags: 0x8182 } : { answers: [{ owner: name, type: 'A', data: '6.6.6.6' }] },
  )
  const { last } = ask('orders')
  await calm()
  t.equal(last(), 'nothing')
  t.notOk(asked.some((it) => it.endsWith(' orders.')))
})

test('a name that is refused is passed over, and nobody says that it does not exist', async (t) => {
  const { ask, calm } = sourceOf(({ name }) =>
    name !== 'orders.farm.' ? { flags: 0x8185 } : { answers: [{ owner: name, type: 'A', data: '10.1.1.1' }] },
  )
  const own = { ...SYSTEM, conf: { ...SYSTEM.conf, ndots: 0 } }
  const other = sourceOf(
    ({ name }) =>
      name === 'orders.' ? { flags: 0x8185 } : { answers: [{ owner: name, type: 'A', data: '10.1.1.1' }] },
    {},
    own,
  )
  const [none, orders] = [ask('none'), other.ask('orders')]
  await calm()
  t.equal(none.last(), 'nothing')
  t.match(none.standing(), { error: /REFUSED/ })
  t.equal(orders.last(), 'orders.farm. 10.1.1.1:80')
})

test('forbidden names are not asked for', async (t) => {
  const { ask, asked, calm } = sourceOf(({ name }) => ({ answers: [{ owner: name, type: 'A', data: '10.1.1.1' }] }))
  const { last } = ask('orders', ['orders.farm.'])
  const all = ask('fixed', ['fixed.farm.', 'fixed.'])
  await calm()
  t.equal(last(), 'orders. 10.1.1.1:80')
  t.equal(all.last(), 'absent')
  t.same(asked, ['10.0.0.53 A orders.'])
})

test('search paths of the policy come before those of resolv.conf', async (t) => {
  const { ask, asked, calm } = sourceOf(() => ({ flags: 0x8183 }), {}, SYSTEM, ['own.'])
  ask('orders')
  await calm()
  t.same(
    asked.map((it) => it.split(' ')[2]),
    ['orders.', 'orders.own.', 'orders.farm.'],
  )
})

test('/etc/hosts and nsswitch.conf', async (t) => {
  const reply = ({ name }: Exchange) => ({ answers: [{ owner: name, type: 'A', data: '10.1.1.1' }] }) as const
  const only = (line: string): SystemResolver => ({ ...SYSTEM, order: parseNsswitch(`hosts: ${line}`) })
  const cases: readonly (readonly [SystemResolver, Partial<DnsSettings>, string, string])[] = [
    [SYSTEM, {}, 'fixed', 'fixed. 10.9.9.9:80'],
    [SYSTEM, {}, 'six', 'six.farm. 10.1.1.1:80'],
    [SYSTEM, { family: 'both' }, 'six', 'six. fd00::9:80'],
    [SYSTEM, { hosts: false }, 'fixed', 'fixed.farm. 10.1.1.1:80'],
    [only('dns files'), {}, 'fixed', 'fixed.farm. 10.1.1.1:80'],
    [only('files'), {}, 'other', 'absent other.farm. other.'],
    [only('files [NOTFOUND=return] dns'), {}, 'other', 'absent other.farm. other.'],
  ]
  for (const [system, changes, host, expected] of cases) {
    const { ask, calm } = sourceOf(reply, changes, system)
    const { last } = ask(host)
    await calm()
    t.equal(last(), expected)
  }
})

test('the families that this host has are asked for', async (t) => {
  const families = async (family: DnsSettings['family'], has: SystemResolver['families']) => {
    const { ask, asked, calm } = sourceOf(() => ({}), { family }, { ...SYSTEM, families: has })
    ask('x.')
    await calm()
    return asked.map((it) => it.split(' ')[1]).join()
  }
  t.equal(await families('auto', { ipv4: true, ipv6: false }), 'A')
  t.equal(await families('auto', { ipv4: true, ipv6: true }), 'A,AAAA')
  t.equal(await families('ipv6', { ipv4: true, ipv6: false }), 'AAAA')
  t.equal(await families('both', { ipv4: true, ipv6: false }), 'A,AAAA')
})

test('the files of the host are read again after a while, and need not be there', async (t) => {
  const dir = t.testdir({ 'resolv.conf': 'nameserver 10.0.0.1', hosts: '10.0.0.2 a', nsswitch: 'hosts: dns' })
  const clock = manualClock()
  const paths = { resolvConf: join(dir, 'resolv.conf'), hosts: join(dir, 'hosts'), nsswitch: join(dir, 'nsswitch') }
  const system = readSystem(clock, paths)
  t.match(await system(), { conf: { servers: ['10.0.0.1'] }, order: ['dns'] })
  writeFileSync(paths.resolvConf, 'nameserver 10.0.0.9')
  t.match(await system(), { conf: { servers: ['10.0.0.1'] } })
  clock.advance(5_000)
  t.match(await system(), { conf: { servers: ['10.0.0.9'] } })
  const none = await readSystem(clock, { resolvConf: `${dir}/x`, hosts: `${dir}/y`, nsswitch: `${dir}/z` })()
  t.match(none, { conf: { servers: ['127.0.0.1'] }, order: ['files', 'dns'] })
  t.ok(none.families.ipv4 || none.families.ipv6)
})

/** A server by UDP and by TCP on the same port, which answers as the test wants. */
const serverOf = async (
  t: Test,
  udp: (question: Buffer, socket: Socket, port: number) => void,
  tcp?: (question: Buffer) => Buffer,
) => {
  for (;;) {
    const listener = createServer((socket) => {
      socket.on('error', () => {})
      socket.on('data', (bytes: Buffer) => {
        const message = tcp?.(bytes.subarray(2))
        if (message === undefined) return socket.destroy()
        const framed = Buffer.concat([Buffer.from([message.length >> 8, message.length & 255]), message])
        // In two pieces, as a network may.
        socket.write(framed.subarray(0, 1))
        setImmediate(() => socket.end(framed.subarray(1)))
      })
    })
    listener.listen(0, '127.0.0.1')
    await once(listener, 'listening')
    const { port } = listener.address() as AddressInfo
    const socket = createSocket('udp4')
    const isFree = await new Promise<boolean>((resolve) => {
      socket.once('error', () => resolve(false))
      socket.bind(port, '127.0.0.1', () => resolve(true))
    })
    if (!isFree) {
      listener.close()
      continue
    }
    socket.on('message', (bytes, from) => udp(bytes, socket, from.port))
    t.teardown(() => {
      listener.close()
      socket.close()
    })
    return { host: '127.0.0.1', port }
  }
}

const asking = (server: Exchange['server'], changes: Partial<Exchange> = {}): Exchange => ({
  server,
  name: 'x.',
  type: 'A',
  timeoutMs: 10_000,
  useTcp: false,
  withEdns: true,
  ...changes,
})

const idOf = (question: Buffer) => question.readUInt16BE(0)
const GOOD = { question: ['x.', 1], answers: [{ owner: 'x.', type: 'A', data: '10.1.1.1' }] } as const

test('forged, late and malformed answers are not taken for the answer', async (t) => {
  stayAlive(t)
  const server = await serverOf(t, (question, socket, port) => {
    const id = idOf(question)
    const send = (bytes: Buffer) => socket.send(bytes, port)
    send(dnsWire({ ...GOOD, id: (id + 1) & 65_535 }))
    send(dnsWire({ ...GOOD, id, question: ['y.', 1] }))
    send(dnsWire({ ...GOOD, id, question: ['x.', 28] }))
    send(dnsWire({ answers: GOOD.answers, id }))
    send(dnsWire({ ...GOOD, id, flags: 0x0100 }))
    send(Buffer.from([1, 2, 3]))
    send(Buffer.concat([dnsWire({ ...GOOD, id }).subarray(0, 20)]))
    send(dnsWire({ ...GOOD, id }))
  })
  t.match(await exchange(asking(server), systemClock), { answers: [{ address: '10.1.1.1' }] })
})

test('an answer that does not fit is asked for by TCP', async (t) => {
  stayAlive(t)
  const server = await serverOf(
    t,
    (question, socket, port) => socket.send(dnsWire({ id: idOf(question), flags: 0x8380, question: ['x.', 1] }), port),
    (question) => {
      const answers = Array.from({ length: 200 }, (_, i) => ({ owner: 'x.', type: 'A' as const, data: `10.1.1.${i}` }))
      return dnsWire({ id: idOf(question), question: ['x.', 1], answers })
    },
  )
  t.equal((await exchange(asking(server), systemClock)).answers.length, 200)
  t.equal((await exchange(asking(server, { useTcp: true }), systemClock)).answers.length, 200)
})

test('a server that is not there, is silent, sends rubbish, or hangs up: each is told in words', async (t) => {
  stayAlive(t)
  const silent = await serverOf(t, () => {})
  await t.rejects(exchange(asking(silent, { timeoutMs: 20 }), systemClock), /did not answer within 20 ms/)
  await t.rejects(exchange(asking(silent, { useTcp: true }), systemClock), /closed the connection|ECONNRESET/)
  const rubbish = await serverOf(
    t,
    (question, socket, port) =>
      socket.send(Buffer.from([...question.subarray(0, 2), 0x81, 0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0xc0, 0xff]), port),
    () => Buffer.from('rubbish'),
  )
  await t.rejects(exchange(asking(rubbish, { timeoutMs: 200 }), systemClock), /a pointer that does not point back/)
  await t.rejects(exchange(asking(rubbish, { useTcp: true }), systemClock), /shorter than a header/)
  const closed = createServer().listen(0, '127.0.0.1')
  await once(closed, 'listening')
  const { port } = closed.address() as AddressInfo
  await new Promise((done) => closed.close(done))
  await t.rejects(exchange(asking({ host: '127.0.0.1', port }, { useTcp: true }), systemClock), /ECONNREFUSED/)
  await t.rejects(exchange(asking({ host: '127.0.0.1', port }), systemClock), /ECONNREFUSED|did not answer/)
})
