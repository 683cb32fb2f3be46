import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import fc from 'fast-check'
import { type Test, test } from 'tap'
import { createDiscovery } from '../../src/discovery/createDiscovery.ts'
import { decodeProfile, decodeUpdate } from '../../src/discovery/destinationMessages.ts'
import { type DestinationSettings, destinationSource } from '../../src/discovery/destinationSource.ts'
import { grpcChannel } from '../../src/discovery/grpcChannel.ts'
import { frameOf, frameReader } from '../../src/discovery/grpcFrames.ts'
import { type Clock, systemClock } from '../../src/net/clock.ts'
import type { Resolution } from '../../src/net/endpoint.ts'
import { ProtocolError } from '../../src/net/protocolError.ts'
import {
  type Answers,
  add,
  addr,
  destinationMethods,
  destinationServer,
  none,
  remove,
  type Told,
} from '../support/destinationServer.ts'
import { shortly } from '../support/fakeSource.ts'
import { events, stayAlive } from '../support/waiting.ts'

const { Get, GetProfile } = destinationMethods()
const update = (message: object) => decodeUpdate(Get.responseSerialize(message))

test('updates, as another implementation writes them', async (t) => {
  t.same(update(none(true)), { is: 'none', exists: true })
  t.same(update(none(false)), { is: 'none', exists: false })
  t.same(update({}), { is: 'other' })
  t.same(update(remove('10.0.0.1:80')), { is: 'remove', addresses: [{ host: '10.0.0.1', port: 80 }] })
  const ipv6 = { ip: { ipv6: { first: '18230571291595767808', last: '1' } }, port: 8080 }
  t.same(
    update({
      add: {
        metricLabels: { namespace: 'farm', zone: 'a' },
        addrs: [
          { addr: addr('255.0.0.1:65535'), weight: 10_000, metricLabels: { pod: 'p1', zone: 'b' } },
          { addr: ipv6, weight: 1, tlsIdentity: { dnsLikeIdentity: { name: 'sa.ns' }, serverName: { name: 'sni' } } },
          {
            addr: addr('10.0.0.2:1'),
            tlsIdentity: { uriLikeIdentity: { uri: 'spiffe://x/y' }, serverName: { name: 'sni' } },
          },
          { addr: addr('10.0.0.3:1'), tlsIdentity: { serverName: { name: 'sni' } }, protocolHint: { opaque: {} } },
          { addr: addr('10.0.0.4:1'), protocolHint: { h2: {} }, authorityOverride: { authorityOverride: 'other' } },
          {
            addr: addr('10.0.0.5:1'),
            protocolHint: { opaque: {}, opaqueTransport: { inboundPort: 4143 } },
            http2: { keepAlive: {} },
          },
        ],
      },
    }),
    {
      is: 'add',
      endpoints: [
        {
          address: { host: '255.0.0.1', port: 65_535 },
          weight: 10_000,
          labels: { namespace: 'farm', zone: 'b', pod: 'p1' },
          zone: 'b',
        },
        {
          address: { host: 'fd00::1', port: 8080 },
          weight: 1,
          labels: { namespace: 'farm', zone: 'a' },
          zone: 'a',
          identity: 'sa.ns',
        },
        {
          address: { host: '10.0.0.2', port: 1 },
          weight: 0,
          labels: { namespace: 'farm', zone: 'a' },
          zone: 'a',
          identity: 'spiffe://x/y',
        },
        {
          address: { host: '10.0.0.3', port: 1 },
          weight: 0,
          labels: { namespace: 'farm', zone: 'a' },
          zone: 'a',
          identity: 'sni',
          protocol: 'opaque',
        },
        {
          address: { host: '10.0.0.4', port: 1 },
          weight: 0,
          labels: { namespace: 'farm', zone: 'a', protocol_hint: 'h2' },
          zone: 'a',
          authority: 'other',
        },
        {
          address: { host: '10.0.0.5', port: 1 },
          weight: 0,
          labels: { namespace: 'farm', zone: 'a' },
          zone: 'a',
          protocol: 'opaque',
        },
      ],
    },
  )
  const profile = (message: object) => decodeProfile(GetProfile.responseSerialize(message))
  t.same(profile({}), { isOpaque: false, endpoint: undefined })
  t.match(
    profile({
      opaqueProtocol: true,
      endpoint: { addr: addr('10.0.0.1:80') },
      dstOverrides: [{ authority: 'x', weight: 1 }],
    }),
    {
      isOpaque: true,
      endpoint: { address: { host: '10.0.0.1', port: 80 } },
    },
  )
})

test('an endpoint without an address, or at no port, is refused', async (t) => {
  const cases = [{}, { addr: {} }, { addr: { ip: { ipv4: 1 } } }, { addr: { ip: { ipv4: 1 }, port: 65_536 } }]
  for (const one of cases) t.throws(() => update({ add: { addrs: [one] } }), ProtocolError, JSON.stringify(one))
})

test('whatever the bytes are, they are an update or refused', async () => {
  const sound = Get.responseSerialize({
    add: {
      metricLabels: { a: 'b' },
      addrs: [
        {
          addr: addr('10.0.0.1:80'),
          weight: 1,
          tlsIdentity: { dnsLikeIdentity: { name: 'x' } },
          protocolHint: { h2: {} },
        },
      ],
    },
  })
  const check = (bytes: Uint8Array) => {
    for (const decode of [decodeUpdate, decodeProfile])
      try {
        decode(bytes)
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error
      }
  }
  for (let end = 0; end <= sound.length; end++) check(sound.subarray(0, end))
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), check), { numRuns: 1000 })
  const changes = fc.array(fc.tuple(fc.nat(sound.length - 1), fc.nat(255)), { minLength: 1, maxLength: 3 })
  fc.assert(
    fc.property(changes, (all) => {
      const bytes = Buffer.from(sound)
      for (const [at, value] of all) bytes[at] = value
      check(bytes)
    }),
    { numRuns: 2000 },
  )
})

test('messages are taken out of their frames, in whatever pieces they come', async (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 50 }), { maxLength: 5 }),
      fc.array(fc.integer({ min: 1, max: 20 })),
      (messages, cuts) => {
        const whole = Buffer.concat(messages.map(frameOf))
        const { push } = frameReader()
        const read: Uint8Array[] = []
        let at = 0
        for (const cut of cuts) {
          read.push(...push(whole.subarray(at, at + cut)))
          at = Math.min(whole.length, at + cut)
        }
        read.push(...push(whole.subarray(at)))
        return JSON.stringify(read.map((it) => [...it])) === JSON.stringify(messages.map((it) => [...it]))
      },
    ),
  )
  t.throws(() => frameReader().push(Uint8Array.of(1, 0, 0, 0, 0)), /compressed/)
  t.throws(() => frameReader().push(Uint8Array.of(0, 255, 0, 0, 0)), /more than 16 MiB/)
})

/** Discovery with a control plane alone. Waits are for what is to be seen, however long it takes. */
const discoveryOf = (t: Test, port: number, changes: Partial<DestinationSettings> = {}, clock: Clock = systemClock) => {
  stayAlive(t)
  const { happened, until } = events()
  let reconnects = 0
  const results: string[] = []
  const counts = {
    looked: (_: string, result: string) => {
      results.push(result)
      setImmediate(happened)
    },
    reconnected: () => void reconnects++,
  }
  // Of each pause the shortest.
  const world = { clock, random: () => 0, counts }
  const channel = grpcChannel({ host: '127.0.0.1', port }, clock, world.random, counts.reconnected)
  const settings = { address: { host: '127.0.0.1', port }, api: 'linkerd', profiles: false, ...changes } as const
  const source = destinationSource(settings, { ...world, channel })
  const discovery = createDiscovery({ sources: [source], search: ['farm.'], idleMs: 60_000, namesMax: 100 }, clock)
  t.teardown(discovery.close)
  const watch = (host: string, at = 80) => {
    const said: Resolution[] = []
    const stop = discovery.watch({ host, port: at }, (it) => {
      said.push(it)
      happened()
    })
    const last = () => shortly(said.at(-1))
    return { said, stop, last, is: (text: string) => until(() => last() === text), full: () => said.at(-1) }
  }
  return { discovery, watch, until, results, reconnects: () => reconnects, port }
}

/** A control plane whose streams the test has in hand. */
const controlled = async (t: Test, more: Answers = {}, api: 'linkerd' | 'conduit' = 'linkerd', port = 0) => {
  const streams: Told[] = []
  const { happened, until } = events()
  const server = await destinationServer(
    {
      get: (told) => {
        streams.push(told)
        happened()
      },
      ...more,
    },
    api,
    port,
  )
  t.teardown(server.close)
  const stream = async (at: number): Promise<Told> => {
    await until(() => streams.length > at)
    return streams[at]!
  }
  return { ...server, streams, stream }
}

test('names are followed: added, removed, empty, gone', { timeout: 60_000 }, async (t) => {
  const server = await controlled(t)
  const { watch, discovery } = discoveryOf(t, server.port, { token: '{"ns":"farm"}' })
  const rabbits = watch('rabbits.', 8080)
  const { asked, write } = await server.stream(0)
  t.match(asked, { scheme: '', path: 'rabbits:8080', contextToken: '{"ns":"farm"}' })
  write(add('10.0.0.1:80', '10.0.0.2:80'))
  await rabbits.is('rabbits. 10.0.0.1:80 10.0.0.2:80')
  t.match(rabbits.full(), { source: `destination 127.0.0.1:${server.port}`, endpoints: [{ weight: 10_000 }, {}] })
  write(add('10.0.0.3:80', '10.0.0.2:80'))
  await rabbits.is('rabbits. 10.0.0.1:80 10.0.0.2:80 10.0.0.3:80')
  write(remove('10.0.0.1:80', '10.9.9.9:80'))
  await rabbits.is('rabbits. 10.0.0.2:80 10.0.0.3:80')
  write({})
  write(remove('10.0.0.2:80', '10.0.0.3:80'))
  await rabbits.is('rabbits.')
  write(add('10.0.0.4:80'))
  await rabbits.is('rabbits. 10.0.0.4:80')
  write(none(true))
  await rabbits.is('rabbits.')
  write(none(false))
  await rabbits.is('absent, dns allowed')
  write(add('10.0.0.5:80'))
  await rabbits.is('rabbits. 10.0.0.5:80')
  t.equal(server.streams.length, 1)
  t.match(discovery.describe(), [{ asked: { host: 'rabbits' }, watchers: 1, error: undefined, staleMs: undefined }])
})

test('search paths are tried one after the other, and each negative answer means what it says', {
  timeout: 60_000,
}, async (t) => {
  const server = await controlled(t)
  const { watch } = discoveryOf(t, server.port)
  const cases: readonly (readonly [string, (told: Told) => void, (told: Told) => void, string])[] = [
    ['a', (it) => it.fail('INVALID_ARGUMENT'), (it) => it.write(add('10.0.0.1:80')), 'a.farm. 10.0.0.1:80'],
    ['b', (it) => it.write(none(false)), (it) => it.fail('NOT_FOUND'), 'absent, dns allowed'],
    ['c', (it) => it.fail('NOT_FOUND'), (it) => it.fail('NOT_FOUND'), 'absent, dns forbidden'],
    ['d', (it) => it.fail('NOT_FOUND'), (it) => it.write(none(true)), 'd.farm.'],
  ]
  for (const [host, first, second, expected] of cases) {
    const count = server.streams.length
    const { is, stop, said } = watch(host)
    const one = await server.stream(count)
    t.equal(one.asked.path, `${host}:80`)
    first(one)
    const two = await server.stream(count + 1)
    t.equal(two.asked.path, `${host}.farm:80`)
    t.equal(said.length, 0)
    second(two)
    await is(expected)
    t.ok(true, expected)
    stop()
  }
})

test('a control plane that is killed and comes back: the last endpoints stay until its first new message', {
  timeout: 60_000,
}, async (t) => {
  const server = await controlled(t)
  const { watch, until, reconnects, discovery } = discoveryOf(t, server.port)
  const { is, last } = watch('rabbits.')
  ;(await server.stream(0)).write(add('10.0.0.1:80', '10.0.0.2:80'))
  await is('rabbits. 10.0.0.1:80 10.0.0.2:80')
  await server.close()
  await is('stale rabbits. 10.0.0.1:80 10.0.0.2:80')
  await until(() => discovery.describe()[0]?.error !== undefined)
  t.match(discovery.describe(), [{ error: /UNAVAILABLE: 127\.0\.0\.1/ }])
  t.equal(discovery.kept().stale, 1)
  const again = await controlled(t, {}, 'linkerd', server.port)
  const revivedAt = performance.now()
  const { write } = await again.stream(0)
  t.comment(`asked again ${Math.round(performance.now() - revivedAt)} ms after it came back`)
  write(remove('10.0.0.1:80'))
  write(add('10.0.0.3:80'))
  await is('rabbits. 10.0.0.3:80')
  t.equal(
    last(),
    'rabbits. 10.0.0.3:80',
    'a removal before the first set is passed over, and the set replaces the old one',
  )
  t.equal(reconnects(), 1)
  t.match(discovery.describe(), [{ error: undefined, staleMs: undefined }])
})

test('a call that fails is made again, and what is known stays', { timeout: 60_000 }, async (t) => {
  const server = await controlled(t)
  const { watch, results } = discoveryOf(t, server.port)
  const { is } = watch('rabbits.')
  ;(await server.stream(0)).fail('RESOURCE_EXHAUSTED', 'too many streams')
  const { write, end } = await server.stream(1)
  write(add('10.0.0.1:80'))
  await is('rabbits. 10.0.0.1:80')
  end()
  await is('stale rabbits. 10.0.0.1:80')
  ;(await server.stream(2)).write(add('10.0.0.1:80'))
  await is('rabbits. 10.0.0.1:80')
  t.same(results, ['failed', 'endpoints', 'failed', 'endpoints'])
})

test('ten thousand endpoints, and a service that flaps', { timeout: 60_000 }, async (t) => {
  const server = await controlled(t)
  const { watch } = discoveryOf(t, server.port)
  const { is, full, said, last } = watch('rabbits.')
  const { write } = await server.stream(0)
  const metricLabels = { pod: 'rabbits-5f6d7c8b9-abcde', namespace: 'farm', deployment: 'rabbits' }
  const addrs = Array.from({ length: 10_000 }, (_, i) => ({
    addr: addr(`10.1.${i >> 8}.${i & 255}:80`),
    weight: 10_000,
    metricLabels,
  }))
  write({ add: { addrs } })
  while (said.length === 0) await new Promise((turn) => setImmediate(turn))
  const first = full()
  t.equal(first?.is === 'endpoints' && first.endpoints.length, 10_000)
  const before = said.length
  for (let i = 0; i < 500; i++) {
    write(remove('10.1.0.1:80'))
    write(add('10.1.0.1:80'))
  }
  write({ remove: { addrs: addrs.slice(1).map(({ addr }) => addr) } })
  await is('rabbits. 10.1.0.0:80')
  t.ok(said.length - before < 200, `told ${said.length - before} times of 1001 changes`)
  t.equal(last(), 'rabbits. 10.1.0.0:80')
})

test('a profile says what is opaque; a control plane without profiles is asked once', {
  timeout: 60_000,
}, async (t) => {
  const profiles: Told[] = []
  const { happened, until } = events()
  const server = await controlled(t, {
    getProfile: (told) => {
      profiles.push(told)
      happened()
    },
  })
  const { watch, until: seen, discovery } = discoveryOf(t, server.port, { profiles: true })
  const { full, stop } = watch('db.', 3306)
  const protocol = () => {
    const it = full()
    return it?.is === 'endpoints' ? (it.endpoints[0]?.protocol ?? 'none') : undefined
  }
  ;(await server.stream(0)).write(add('10.0.0.1:3306'))
  await until(() => profiles.length === 1)
  t.equal(profiles[0]!.asked.path, 'db:3306')
  profiles[0]!.write({ opaqueProtocol: true })
  await seen(() => protocol() === 'opaque')
  profiles[0]!.write({ opaqueProtocol: false })
  await seen(() => protocol() === 'none')
  stop()

  const address = watch('10.0.0.9', 3306)
  t.equal(address.last(), '10.0.0.9 10.0.0.9:3306', 'an address is itself at once')
  await until(() => profiles.length === 2)
  t.equal(profiles[1]!.asked.path, '10.0.0.9:3306')
  profiles[1]!.write({
    opaqueProtocol: true,
    endpoint: { addr: addr('10.0.0.9:3306'), tlsIdentity: { dnsLikeIdentity: { name: 'db' } } },
  })
  await seen(() => address.said.length === 2)
  t.match(address.full(), {
    endpoints: [{ protocol: 'opaque', identity: 'db', address: { host: '10.0.0.9', port: 3306 } }],
  })
  discovery.close()

  const without = await controlled(t)
  const old = discoveryOf(t, without.port, { profiles: true })
  const b = old.watch('rabbits.')
  const { write } = await without.stream(0)
  write(add('10.0.0.1:80'))
  await b.is('rabbits. 10.0.0.1:80')
})

test('the older package, as its clients spoke it', { timeout: 60_000 }, async (t) => {
  const server = await controlled(t, {}, 'conduit')
  const { watch } = discoveryOf(t, server.port, { api: 'conduit', profiles: true, token: 'unused' })
  const { is } = watch('rabbits.', 80)
  const first = await server.stream(0)
  t.match(first.asked, { scheme: 'k8s', path: 'rabbits' })
  first.write(add('10.0.0.1:80'))
  await is('rabbits. 10.0.0.1:80')
  const other = watch('rabbits.', 8080)
  t.match((await server.stream(1)).asked, { path: 'rabbits:8080' })
  other.stop()
})

test('a stream ends a while after its last watcher', { timeout: 60_000 }, async (t) => {
  const server = await controlled(t)
  const waiting: (() => void)[] = []
  // A clock whose long timers run only when they are told to.
  const clock: Clock = {
    ...systemClock,
    after: (ms, run) => {
      if (ms < 60_000) return systemClock.after(ms, run)
      waiting.push(run)
      return () => {}
    },
  }
  const { watch } = discoveryOf(t, server.port, {}, clock)
  const { is, stop } = watch('rabbits.')
  const { write, isCancelled } = await server.stream(0)
  write(add('10.0.0.1:80'))
  await is('rabbits. 10.0.0.1:80')
  stop()
  t.equal(isCancelled(), false)
  waiting.at(-1)!()
  while (!isCancelled()) await new Promise((turn) => setTimeout(turn, 1))
  t.ok(true, 'it was cancelled')
})

/** A server of bytes, which is no server of gRPC. */
const bytesServer = async (
  t: Test,
  talk: (socket: Socket) => void,
): Promise<{ readonly server: Server; readonly port: number }> => {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.resume()
    talk(socket)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return { server, port: (server.address() as AddressInfo).port }
}

/** Time that runs so many times as fast. */
const hurried = (times: number): Clock => ({ ...systemClock, after: (ms, run) => systemClock.after(ms / times, run) })

test('a server that sends rubbish, says nothing, or hangs up is tried again, and told of in words', {
  timeout: 60_000,
}, async (t) => {
  const cases: readonly (readonly [string, (socket: Socket) => void, RegExp])[] = [
    ['rubbish', (socket) => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n'), /UNAVAILABLE/],
    ['nothing', () => {}, /UNAVAILABLE.*(?:did not answer within 3000 ms|no connection within)/],
    ['the end', (socket) => socket.end(), /UNAVAILABLE/],
    ['a reset', (socket) => socket.resetAndDestroy(), /UNAVAILABLE/],
  ]
  for (const [what, talk, error] of cases) {
    let connections = 0
    const { port } = await bytesServer(t, (socket) => {
      connections++
      talk(socket)
    })
    const { watch, until, results, discovery } = discoveryOf(t, port, {}, hurried(200))
    const { said } = watch('rabbits.')
    await until(() => results.filter((it) => it === 'failed').length >= 3)
    t.ok(connections >= 2, `${what}: ${connections} connections`)
    t.match(discovery.describe()[0]?.error, error, what)
    t.equal(said.length, 0, 'nobody is told anything')
    discovery.close()
  }
})

test('a control plane that answers others but not this call, or answers nonsense', { timeout: 60_000 }, async (t) => {
  let calls = 0
  const server = await destinationServer({
    get: ({ asked, write }) => {
      if (asked.path.startsWith('good')) write(add('10.0.0.1:80'))
      if (asked.path.startsWith('bad') && calls++ < 3) write({ add: { addrs: [{ weight: 1 }] } })
      else if (asked.path.startsWith('bad')) write(add('10.0.0.2:80'))
    },
  })
  t.teardown(server.close)
  const { watch, until, discovery } = discoveryOf(t, server.port, {}, hurried(5))
  const hangs = watch('hangs.')
  const good = watch('good.')
  const bad = watch('bad.')
  await good.is('good. 10.0.0.1:80')
  await bad.is('bad. 10.0.0.2:80')
  await until(() => discovery.describe()[0]?.error !== undefined)
  t.match(discovery.describe()[0]?.error, /DEADLINE_EXCEEDED: .* did not answer within 3000 ms/)
  t.equal(hangs.said.length, 0)
  t.equal(shortly(good.said.at(-1)), 'good. 10.0.0.1:80')
  t.notOk(
    good.said.some((it) => it.is === 'endpoints' && it.isStale),
    'one call that hangs does not cost the others their connection',
  )
})
