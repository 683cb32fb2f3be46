import fc from 'fast-check'
import { test } from 'tap'
import { dnsNames, parseHosts, parseNsswitch, parseResolvConf, resolverNames } from '../../src/discovery/resolvConf.ts'
import { candidates, isName } from '../../src/discovery/searchPath.ts'

const FARM = ['farm.svc.cluster.local.', 'svc.cluster.local.']

test('the names that a name may mean, in order', async (t) => {
  const cases: readonly (readonly [host: string, search: readonly string[], names: readonly string[]])[] = [
    ['rabbits', FARM, ['rabbits.', 'rabbits.farm.svc.cluster.local.', 'rabbits.svc.cluster.local.']],
    ['rabbits.', FARM, ['rabbits.']],
    ['rabbits', [], ['rabbits.']],
    [
      'rabbits.farm',
      FARM,
      ['rabbits.farm.', 'rabbits.farm.farm.svc.cluster.local.', 'rabbits.farm.svc.cluster.local.'],
    ],
    ['rabbits', ['.', 'a.', 'a.'], ['rabbits.', 'rabbits.a.']],
    ['a'.repeat(63), [`${'b.'.repeat(120)}`], [`${'a'.repeat(63)}.`]],
  ]
  for (const [host, search, names] of cases) t.same(candidates(host, search), names, host)
})

test('whatever the name, the first candidate is itself, all are absolute and short enough, none twice', async () => {
  const label = fc.stringMatching(/^[a-z0-9_][a-z0-9_-]{0,30}$/)
  const name = fc
    .array(label, { minLength: 1, maxLength: 5 })
    .map((labels) => labels.join('.'))
    .filter(isName)
  fc.assert(
    fc.property(
      name,
      fc.boolean(),
      fc.array(
        name.map((it) => `${it}.`),
        { maxLength: 5 },
      ),
      (host, dot, search) => {
        const names = candidates(dot ? `${host}.` : host, search)
        return (
          names[0] === `${host}.` &&
          new Set(names).size === names.length &&
          names.length <= (dot ? 1 : search.length + 1) &&
          names.every((it) => it.endsWith('.') && it.length <= 254)
        )
      },
    ),
  )
})

test('resolv.conf, as its manual has it', async (t) => {
  t.match(parseResolvConf(''), { servers: ['127.0.0.1'], search: [], ndots: 1, attempts: 2, rotate: false })
  t.equal(parseResolvConf('').timeoutMs, undefined)
  const conf = parseResolvConf(`# made by hand
; and so is this
nameserver 10.96.0.10
nameserver\tfe80::1%eth0
 nameserver 10.96.0.10
nameserver not-an-address
domain ignored.example
search Farm.svc.cluster.local svc.cluster.local. bad..name
options ndots:5 timeout:1 attempts:9 rotate use-vc edns0 unknown:3
options ndots:99
`)
  t.same(conf, {
    servers: ['10.96.0.10', 'fe80::1%eth0'],
    search: FARM,
    ndots: 15,
    timeoutMs: 1000,
    attempts: 5,
    rotate: true,
    useTcp: true,
  })
  t.same(parseResolvConf('search a b\ndomain c').search, ['c.'], 'the last counts')
  t.equal(parseResolvConf('options timeout:0').timeoutMs, 1000)
  t.equal(parseResolvConf('options timeout:400').timeoutMs, 30_000)
  t.equal(parseResolvConf(Array.from({ length: 40 }, (_, i) => `nameserver 10.0.0.${i}`).join('\n')).servers.length, 16)
})

test('the order of the names follows ndots', async (t) => {
  const names = (host: string, ndots: number) => resolverNames(host, { search: FARM, ndots })
  t.same(names('a', 1), [`a.${FARM[0]}`, `a.${FARM[1]}`, 'a.'])
  t.same(names('a.b', 1), ['a.b.', `a.b.${FARM[0]}`, `a.b.${FARM[1]}`])
  t.same(names('a.b', 5), [`a.b.${FARM[0]}`, `a.b.${FARM[1]}`, 'a.b.'])
  t.same(names('a.', 5), ['a.'])
  t.same(names('a', 0), ['a.', `a.${FARM[0]}`, `a.${FARM[1]}`])
  t.same(dnsNames('a', ['own.'], { search: FARM, ndots: 5 }), ['a.', 'a.own.', `a.${FARM[0]}`, `a.${FARM[1]}`])
  t.same(dnsNames('a', [], { search: FARM, ndots: 5 }), names('a', 5))
})

test('hosts', async (t) => {
  const hosts = parseHosts(`127.0.0.1 localhost
# 10.0.0.9 gone
10.0.0.1\tOrders orders.farm  # the shop
10.0.0.2 orders
10.0.0.2 orders
fd00::1 orders.
fe80::1%lo0 orders
bad orders
10.0.0.3
`)
  t.same(Object.fromEntries(hosts), {
    localhost: ['127.0.0.1'],
    orders: ['10.0.0.1', '10.0.0.2', 'fd00::1'],
    'orders.farm': ['10.0.0.1'],
  })
})

test('nsswitch.conf', async (t) => {
  const cases: readonly (readonly [text: string, order: readonly string[]])[] = [
    ['', ['files', 'dns']],
    ['passwd: files', ['files', 'dns']],
    ['hosts: files dns', ['files', 'dns']],
    ['hosts:dns files # other way round', ['dns', 'files']],
    ['hosts: files', ['files']],
    ['hosts: files [NOTFOUND=return] dns', ['files']],
    ['hosts: files [!SUCCESS=return] dns', ['files']],
    ['hosts: dns [!UNAVAIL=return] files', ['dns']],
    ['hosts: files [success=return notfound=continue] dns', ['files', 'dns']],
    ['hosts: files mdns4_minimal [NOTFOUND=return] dns', ['files', 'dns']],
    ['hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns', ['files', 'dns']],
    ['# hosts: files\nhosts: dns', ['dns']],
  ]
  for (const [text, order] of cases) t.same(parseNsswitch(text), order, text)
})

test('whatever is in these files, they are read', async () => {
  const word = fc.constantFrom(
    'nameserver',
    'search',
    'options',
    'hosts:',
    'files',
    '[NOTFOUND=return]',
    '10.0.0.1',
    '#',
    '\n',
    ' ',
  )
  const text = fc.array(fc.oneof(word, fc.string({ unit: 'binary' }))).map((words) => words.join(' '))
  fc.assert(
    fc.property(text, (written) => {
      const { search, servers, ndots } = parseResolvConf(written)
      parseHosts(written)
      parseNsswitch(written)
      return servers.length > 0 && search.every((it) => it.endsWith('.')) && ndots >= 0 && ndots <= 15
    }),
  )
})
