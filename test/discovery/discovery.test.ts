import { renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { test } from 'tap'
import { createDiscovery, type DiscoverySources } from '../../src/discovery/createDiscovery.ts'
import { tableOf } from '../../src/discovery/namedEndpoints.ts'
import type { Answer, Source } from '../../src/discovery/source.ts'
import { fileSource, staticSource } from '../../src/discovery/tableSource.ts'
import { systemClock } from '../../src/net/clock.ts'
import type { Resolution } from '../../src/net/endpoint.ts'
import { readEndpointDocument } from '../../src/policy/endpointDocument.ts'
import { fakeSource, NO_COUNTS, shortly } from '../support/fakeSource.ts'
import { type ManualClock, manualClock } from '../support/manualClock.ts'
import { events, stayAlive } from '../support/waiting.ts'

const SEARCH = ['farm.svc.cluster.local.', 'svc.cluster.local.']

const discoveryOf = (sources: readonly Source[], changes: Partial<DiscoverySources> = {}) => {
  const clock: ManualClock = manualClock()
  const all = { sources, search: SEARCH, idleMs: 60_000, namesMax: 1000, ...changes }
  const discovery = createDiscovery(all, clock)
  const watch = (host: string, port = 80) => {
    const said: Resolution[] = []
    const stop = discovery.watch({ host, port }, (it) => said.push(it))
    return { said, stop, last: () => shortly(said.at(-1)), full: () => said.at(-1) }
  }
  return { clock, discovery, watch, all }
}

const found = (name: string, ...hosts: string[]): Answer => ({
  is: 'endpoints',
  name,
  source: 'fake',
  endpoints: hosts.map((host) => ({ address: { host, port: 80 }, weight: 1, labels: {} })),
  isStale: false,
})

const absent = (forbidden: readonly string[] = []): Answer => ({ is: 'absent', source: 'fake', tried: [], forbidden })

test('a name is tried as it is and under each search path; the one that matched is told', async (t) => {
  const endpoint = (host: string) => [{ address: { host, port: 0 }, weight: 1, labels: {} }]
  const source = staticSource(
    { 'rabbits.farm.svc.cluster.local.': endpoint('10.0.0.1'), hares: endpoint('10.0.0.2') },
    NO_COUNTS,
  )
  const { watch, discovery } = discoveryOf([source])
  t.equal(watch('rabbits').last(), 'rabbits.farm.svc.cluster.local. 10.0.0.1:80')
  t.equal(watch('Rabbits.farm', 8080).last(), 'rabbits.farm.svc.cluster.local. 10.0.0.1:8080')
  t.equal(watch('rabbits.farm.svc.cluster.local').last(), 'rabbits.farm.svc.cluster.local. 10.0.0.1:80')
  t.equal(watch('rabbits.').last(), 'absent, dns allowed')
  t.equal(watch('hares.', 9).last(), 'hares. 10.0.0.2:9')
  t.same(watch('foxes').full(), {
    is: 'absent',
    dnsAllowed: true,
    tried: ['foxes.', 'foxes.farm.svc.cluster.local.', 'foxes.svc.cluster.local.'],
    source: 'static',
  })
  discovery.close()
})

test('a name with a port counts for that port only, and before the name without', async (t) => {
  const table = { orders: ['10.0.0.1:0'], 'orders:8080': ['10.0.0.2:0', '10.0.0.2:8080', '10.0.0.3:1'] }
  const written = Object.fromEntries(
    Object.entries(table).map(([name, all]) => [
      name,
      all.map((it) => ({
        address: { host: it.split(':')[0]!, port: Number(it.split(':')[1]) },
        weight: 1,
        labels: {},
      })),
    ]),
  )
  t.same([...tableOf(written).keys()], ['orders.', 'orders.:8080'])
  const { watch } = discoveryOf([staticSource(written, NO_COUNTS)])
  t.equal(watch('orders', 80).last(), 'orders. 10.0.0.1:80')
  t.equal(watch('orders', 8080).last(), 'orders. 10.0.0.2:8080 10.0.0.3:1', 'never two of the same address')
})

test('an IP address is itself, and what is no name is absent, and neither is kept', async (t) => {
  const source = fakeSource('dns')
  const { watch, discovery } = discoveryOf([source])
  t.equal(watch('10.0.0.1', 8080).last(), '10.0.0.1 10.0.0.1:8080')
  t.equal(watch('FD00::1').last(), 'fd00::1 fd00::1:80')
  t.equal(watch('[fd00::1]').last(), 'fd00::1 fd00::1:80')
  t.equal(watch('::ffff:10.0.0.1').last(), '10.0.0.1 10.0.0.1:80')
  for (const host of ['', '.', 'a..b', 'a b', 'a/b', `${'a'.repeat(64)}`, `${'a.'.repeat(127)}b`, 'a:b', '-a', '[a]']) {
    const { full } = watch(host)
    t.match(full(), { is: 'absent', dnsAllowed: false, because: 'it is neither a name nor an IP address' }, host)
  }
  t.same(discovery.describe(), [])
  t.equal(source.asked.length, 0)
})

test('the first source that knows answers; one that says no lets the next be asked', async (t) => {
  const [first, second] = [fakeSource('destination'), fakeSource('dns')]
  const { watch } = discoveryOf([first, second])
  const { said, last, stop } = watch('rabbits')
  t.same([first.asked.length, second.asked.length, said.length], [1, 0, 0], 'who does not answer yet may still know')
  first.say(absent())
  t.same([second.asked.length, said.length], [1, 0])
  second.say(found('rabbits.', '10.0.0.2'))
  t.equal(last(), 'rabbits. 10.0.0.2:80')
  first.say(found('rabbits.', '10.0.0.1'))
  t.equal(last(), 'rabbits. 10.0.0.1:80', 'the first is heard when it comes to know')
  t.same([first.open(), second.open()], [1, 0], 'and the second is asked no longer')
  first.say({ ...found('rabbits.'), is: 'endpoints' } as Answer)
  t.equal(last(), 'rabbits.', 'a name that exists and has no endpoint is an answer')
  t.equal(second.open(), 0)
  first.say(absent())
  t.equal(last(), 'rabbits.', 'until the second says something')
  second.say(absent())
  t.equal(last(), 'absent, dns allowed')
  stop()
})

test('the three negative answers: empty; absent, DNS allowed; absent, DNS forbidden', async (t) => {
  const names = ['rabbits.', 'rabbits.farm.svc.cluster.local.', 'rabbits.svc.cluster.local.']
  const cases: readonly (readonly [string, readonly Answer[], string, readonly string[] | undefined])[] = [
    ['empty', [found('rabbits.')], 'rabbits.', undefined],
    ['allowed', [absent()], 'nothing', []],
    ['some forbidden', [absent(names.slice(1))], 'nothing', names.slice(1)],
    ['forbidden', [absent(names)], 'nothing', names],
  ]
  for (const [what, [answer], before, forbidden] of cases) {
    const [control, dns] = [fakeSource('destination'), fakeSource('dns')]
    const { watch } = discoveryOf([control, dns])
    const { last } = watch('rabbits')
    control.say(answer!)
    t.equal(last(), before, what)
    t.same(dns.asked[0] && [...dns.asked[0].forbidden], forbidden, what)
    dns.say(absent())
    if (forbidden) t.equal(last(), `absent, dns ${forbidden.length === 3 ? 'forbidden' : 'allowed'}`, what)
  }
})

test('DNS is asked anew when other names become forbidden, other sources are not', async (t) => {
  const [control, file, dns] = [fakeSource('destination'), fakeSource('file'), fakeSource('dns')]
  const { watch } = discoveryOf([control, file, dns])
  const { last } = watch('rabbits.')
  control.say(absent())
  file.say(absent())
  dns.say(found('rabbits.', '10.0.0.3'))
  control.say(absent(['rabbits.']))
  t.same([file.asked.length, dns.asked.length, dns.open()], [1, 2, 1])
  t.same([...dns.asked[1]!.forbidden], ['rabbits.'])
  dns.say(absent())
  t.equal(last(), 'absent, dns forbidden')
})

test('one question serves all who watch, and ends a while after the last of them', async (t) => {
  const source = fakeSource('dns')
  const { watch, clock, discovery } = discoveryOf([source])
  const [a, b] = [watch('rabbits'), watch('RABBITS')]
  const other = watch('rabbits', 81)
  t.equal(source.asked.length, 2, 'another port is another question')
  source.say(found('rabbits.', '10.0.0.1'))
  t.same([a.last(), b.last()], ['rabbits. 10.0.0.1:80', 'rabbits. 10.0.0.1:80'])
  a.stop()
  a.stop()
  source.say(found('rabbits.', '10.0.0.2'))
  t.same([a.said.length, b.said.length], [1, 2])
  b.stop()
  other.stop()
  clock.advance(59_999)
  t.equal(watch('rabbits').last(), 'rabbits. 10.0.0.2:80', 'known at once')
  t.same([source.asked.length, source.open()], [2, 2])
  clock.advance(1)
  t.same([source.open(), discovery.describe().length], [1, 1], 'the other one has ended')
  discovery.close()
  t.same([source.open(), source.isClosed, clock.pending()], [0, true, 0])
})

test('more names than are kept: those unused give way, those in use do not', async (t) => {
  const source = fakeSource('dns', () => found('a.', '10.0.0.1'))
  const { watch, discovery } = discoveryOf([source], { namesMax: 3 })
  const [a, b] = [watch('a'), watch('b')]
  a.stop()
  watch('c').stop()
  watch('a').stop()
  watch('d')
  t.same(
    discovery.describe().map(({ asked }) => asked.host),
    ['a', 'b', 'd'],
    'c was unused longest',
  )
  watch('a')
  const refused = watch('e')
  t.match(refused.full(), { is: 'absent', dnsAllowed: false, because: /^3 names are in use.*maxNames/ })
  t.match(discovery.kept(), { names: 3, watchers: 3, evicted: 1, refused: 1 })
  b.stop()
  t.equal(watch('e').last(), 'a. 10.0.0.1:80')
})

test('twelve thousand different authorities cost no more memory than the names that are kept', async (t) => {
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  const used = (): number => {
    gc()
    return process.memoryUsage().heapUsed
  }
  const source = fakeSource('dns', ({ names }) => found(names[0]!, '10.0.0.1', '10.0.0.2'))
  const asked = source.asked as unknown[]
  const { discovery, clock } = discoveryOf([source], { namesMax: 1000 })
  const visit = (from: number, to: number) => {
    for (let i = from; i < to; i++) discovery.watch({ host: `host-${i}.example`, port: 80 }, () => {})()
    asked.length = 0
  }
  visit(0, 2_000)
  const before = used()
  visit(2_000, 12_000)
  const grown = used() - before
  t.ok(grown < 2 * 2 ** 20, `${grown} bytes more`)
  t.match(discovery.kept(), { names: 1000, evicted: 11_000 })
  t.equal(source.open(), 1000)
  t.equal(clock.pending(), 1000)
  clock.advance(60_000)
  t.same([source.open(), clock.pending(), discovery.describe().length], [0, 0, 0])
})

test('other sources take over without a gap', async (t) => {
  const [before, after] = [fakeSource('dns'), fakeSource('dns')]
  const { watch, discovery, all } = discoveryOf([before])
  const { last, said } = watch('rabbits')
  watch('idle').stop()
  before.say(found('rabbits.', '10.0.0.1'))
  discovery.use({ ...all, sources: [after] })
  t.same([before.open(), before.isClosed, after.open()], [0, true, 1], 'what nobody watches is not asked for again')
  t.same([last(), said.length], ['rabbits. 10.0.0.1:80', 1])
  after.say(found('rabbits.', '10.0.0.2'))
  t.equal(last(), 'rabbits. 10.0.0.2:80')
})

test('whoever is told may stop, and ask for more, while being told', async (t) => {
  const source = fakeSource('static', ({ names }) => found(names[0]!, '10.0.0.1'))
  const { discovery, all } = discoveryOf([source], { namesMax: 1 })
  let stop: (() => void) | undefined
  stop = discovery.watch({ host: 'a', port: 80 }, () => {
    stop?.()
    discovery.watch({ host: 'b', port: 80 }, () => {})
  })
  source.say(found('a.', '10.0.0.2'))
  t.same(
    discovery.describe().map(({ asked }) => asked.host),
    ['b'],
  )
  discovery.use(all)
  t.equal(source.open(), 1)
  discovery.close()
  t.equal(source.open(), 0)
})

test('what is known can be described', async (t) => {
  const source = fakeSource('dns')
  const { watch, clock, discovery } = discoveryOf([source])
  watch('rabbits', 8080)
  t.match(discovery.describe(), [{ asked: { host: 'rabbits', port: 8080 }, watchers: 1 }])
  t.equal(discovery.describe()[0]!.resolution, undefined)
  source.say(found('rabbits.', '10.0.0.1'))
  clock.advance(1000)
  source.standing = { refreshAt: 5_000, staleSince: 400, error: 'SERVFAIL' }
  t.match(discovery.describe(), [
    { resolution: { source: 'fake' }, ageMs: 1000, refreshMs: 4000, staleMs: 600, error: 'SERVFAIL' },
  ])
})

test('a file is watched; of a bad one the place is told, and the last good one stays', {
  timeout: 60_000,
}, async (t) => {
  stayAlive(t)
  const path = join(t.testdir(), 'endpoints.yaml')
  const write = (text: string) => {
    writeFileSync(`${path}.new`, text)
    renameSync(`${path}.new`, path)
  }
  write('orders: 3\n')
  const warned: string[] = []
  const { happened, until } = events()
  const source = fileSource(path, {
    read: readEndpointDocument,
    clock: systemClock,
    counts: NO_COUNTS,
    warn: (text) => {
      warned.push(text)
      happened()
    },
  })
  const discovery = createDiscovery({ sources: [source], search: [], idleMs: 1000, namesMax: 10 }, systemClock)
  t.teardown(discovery.close)
  const said: Resolution[] = []
  discovery.watch({ host: 'orders', port: 80 }, (it) => {
    said.push(it)
    happened()
  })
  const last = () => shortly(said.at(-1))
  await until(() => warned.length === 1)
  t.match(warned[0], /names are not looked up until it is good\n.*endpoints\.yaml:1:9: error: expected a list, not 3/)
  t.equal(last(), 'nothing')
  write('orders: ["10.0.0.1:80"]\n')
  await until(() => last() === 'orders. 10.0.0.1:80')
  write('orders:\n  - 10.0.0.1:80\n  - nowhere\n')
  await until(() => warned.length === 2)
  t.match(warned[1], /the last good one stays\n.*endpoints\.yaml:3:5: error: "nowhere" is not an IP address/)
  t.equal(last(), 'stale orders. 10.0.0.1:80')
  t.match(discovery.describe(), [{ error: /endpoints\.yaml:3:5/ }])
  write('{"orders": [{"address": "10.0.0.2", "weight": 90}, "10.0.0.3:81"]}')
  await until(() => last() === 'orders. 10.0.0.2:80 10.0.0.3:81')
  write('others: []\n')
  await until(() => last() === 'absent, dns allowed')
})
