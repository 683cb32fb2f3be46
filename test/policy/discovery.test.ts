import { readFileSync } from 'node:fs'
import { test } from 'tap'
import { readEndpointDocument } from '../../src/policy/endpointDocument.ts'
import { parsePolicy } from '../../src/policy/parsePolicy.ts'
import { discovery } from '../../src/policy/sections/discovery.ts'
import { settled } from '../../src/policy/verdict.ts'
import { policyOf } from '../support/world.ts'

const mistakesOf = (text: string): string[] => {
  const parsed = parsePolicy([{ path: 'p.yaml', text: `apiVersion: sluice/v1\n${text}` }])
  return parsed.is === 'policy' ? [] : parsed.diagnostics.map(({ message }) => message)
}

const inFlow = (source: string): string => `discovery: { sources: [${source}] }`

const MISTAKES: readonly (readonly [text: string, expected: string])[] = [
  [
    inFlow('{}'),
    'expected exactly one of static, file, destination and dns; each source is an entry of its own, in the order they are asked',
  ],
  [
    inFlow('{ dns: {}, file: x.yaml }'),
    'expected exactly one of static, file, destination and dns; each source is an entry of its own, in the order they are asked',
  ],
  [inFlow('{ dsn: {} }'), 'unknown key "dsn"; did you mean "dns"?'],
  [
    inFlow('{ static: { Orders: [] } }'),
    '"Orders" is not a name in lower case, such as orders, orders:8080 or orders.farm.svc.cluster.local.',
  ],
  [
    inFlow('{ static: { 10.0.0.1: [] } }'),
    '"10.0.0.1" is not a name in lower case, such as orders, orders:8080 or orders.farm.svc.cluster.local.',
  ],
  [
    inFlow('{ static: { "a:70000": [] } }'),
    '"a:70000" is not a name in lower case, such as orders, orders:8080 or orders.farm.svc.cluster.local.',
  ],
  [inFlow('{ static: { a: [10.0.0.1, { address: 10.0.0.1 }] } }'), '10.0.0.1 is written twice for "a"'],
  [inFlow('{ static: { a: [{ wight: 3 }] } }'), '"address" is missing'],
  [inFlow('{ static: { a: 10.0.0.1 } }'), 'expected a list, not "10.0.0.1"'],
  [
    inFlow('{ static: { a: [db.example] } }'),
    '"db.example" is not an IP address with a port if need be, such as 10.0.0.5:8080 or "[fd00::5]:8080"',
  ],
  [
    inFlow('{ dns: { servers: [one] } }'),
    '"one" is not the IP address of a DNS server, such as 10.96.0.10 or 127.0.0.1:5353',
  ],
  [
    inFlow('{ destination: { address: linkerd-dst } }'),
    '"linkerd-dst" is not host:port, such as linkerd-dst.linkerd.svc.cluster.local:8086',
  ],
  [inFlow('{ destination: {} }'), '"address" is missing'],
  ['discovery: { search: ["a b"] }', '"a b" is not a domain such as farm.svc.cluster.local.'],
  [
    'rules: [{ name: a, then: { upstream: { authority: "http://orders" } } }]',
    '"http://orders" is not a name such as orders, orders:8080 or orders.farm.svc.cluster.local.',
  ],
  [
    'rules: [{ name: a, then: { upstream: { authority: 10.0.0.1 } } }]',
    '"10.0.0.1" is an address, not a name; write it under upstream.address',
  ],
  [
    'rules: [{ name: a, then: { upstream: { authority: "a:0" } } }]',
    '"a:0" is not a name such as orders, orders:8080 or orders.farm.svc.cluster.local.',
  ],
]

test('what is wrong with a source, a name, an endpoint', async (t) => {
  for (const [text, expected] of MISTAKES) t.ok(mistakesOf(text).includes(expected), `${text}: ${mistakesOf(text)}`)
})

test('a rule may name what discovery knows', async (t) => {
  const target = (written: string) =>
    settled(policyOf(`rules: [{ name: a, then: { upstream: { authority: "${written}" } } }]`).base.upstream)
  t.same(target('orders'), { is: 'authority', name: 'orders' })
  t.same(target('Orders.farm:8080'), { is: 'authority', name: 'orders.farm', port: 8080 })
  t.same(target('_http._tcp.orders.'), { is: 'authority', name: '_http._tcp.orders.' })
})

test('sources keep their order, and files are relative to the document', async (t) => {
  const text = `apiVersion: sluice/v1
discovery:
  search: [Farm.svc.cluster.local, svc.cluster.local.]
  sources:
    - static: { orders: ["10.0.0.1:80", { address: 10.0.0.2, weight: 9, zone: a, labels: { version: "2" } }] }
    - file: endpoints.yaml
    - destination: { address: "localhost:8086" }
    - dns: {}
`
  const parsed = parsePolicy([{ path: '/etc/sluice/p.yaml', text }])
  t.equal(parsed.is, 'policy')
  if (parsed.is !== 'policy') return
  const { sources, search, idle, maxNames } = parsed.policy.sections.discovery
  t.same(
    { search, idle, maxNames },
    {
      search: ['farm.svc.cluster.local.', 'svc.cluster.local.'],
      idle: 60_000,
      maxNames: 1000,
    },
  )
  t.same(sources[0]?.settings, {
    orders: [
      { address: { host: '10.0.0.1', port: 80 }, weight: 1, labels: {} },
      { address: { host: '10.0.0.2', port: 0 }, weight: 9, zone: 'a', labels: { version: '2' } },
    ],
  })
  t.same(sources[1], { is: 'file', settings: '/etc/sluice/endpoints.yaml' })
  t.match(sources[2], { is: 'destination', settings: { api: 'linkerd', profiles: true } })
  t.match(sources[3], { is: 'dns', settings: { minTtl: 1000, maxTtl: 300_000, family: 'auto', srv: 'underscore' } })
})

test('a file of endpoints is YAML or JSON, and its mistakes have places', async (t) => {
  const read = (text: string) => readEndpointDocument({ path: 'e.yaml', text })
  t.match(read('{"orders": ["10.0.0.1:80"]}'), {
    is: 'endpoints',
    endpoints: { orders: [{ address: { host: '10.0.0.1', port: 80 } }] },
  })
  t.match(read(''), { is: 'endpoints' })
  t.match(read('orders:\n  - 10.0.0.1:80\n  - 10.0.0.1:99999\n'), {
    is: 'mistaken',
    problems: [/^e\.yaml:3:5: error: /],
  })
  t.match(read('orders: [\n'), { is: 'mistaken', problems: [/^e\.yaml:\d:\d+: error: /] })
  t.match(read('[]'), { is: 'mistaken', problems: [/^e\.yaml:1:1: error: expected a mapping from names/] })
  t.match(read('a: []\n---\nb: []\n'), { is: 'mistaken', problems: [/^e\.yaml:3:1: error: a second document/] })
  t.match(read('__proto__: ["10.0.0.1:80"]'), { is: 'endpoints' })
})

test('the examples of docs/discovery.md are right, and its tables name every key of a source', async (t) => {
  const page = readFileSync('docs/discovery.md', 'utf8')
  const [document = ''] = [...page.matchAll(/```yaml\n([\s\S]*?)```/g)].map(([, text]) => text!)
  t.match(parsePolicy([{ path: 'docs/discovery.md', text: document }]), { is: 'policy', warnings: { length: 0 } })
  const written = [...page.matchAll(/^\| [^`|]+ \| `((?:sources|search|then): .*)` \|$/gm)].map(([, text]) => text!)
  t.ok(written.length >= 6)
  for (const text of written) {
    const whole = text.startsWith('then') ? `rules: [{ name: a, ${text} }]` : `discovery: { ${text} }`
    t.same(mistakesOf(whole), [], text)
  }
  for (const [source, keys] of Object.entries(keysOfSources())) {
    const part = page.split(`\n## ${source}\n`)[1]?.split('\n## ')[0] ?? ''
    t.same(
      [...part.matchAll(/^\| `(\w+)` \|/gm)].map(([, key]) => key),
      keys,
      source,
    )
  }
})

interface Entries {
  readonly entries?: Readonly<Record<string, Entries>>
  readonly wrapped?: Entries
  readonly pipe?: readonly Entries[]
  readonly item?: Entries
}

const keysOfSources = (): Record<string, string[]> => {
  const inside = (shape: Entries | undefined): Entries | undefined =>
    shape?.entries ? shape : shape && inside(shape.wrapped ?? shape.pipe?.[0] ?? shape.item)
  const sources = inside(discovery.shape as unknown as Entries)?.entries?.sources
  const kinds = inside(sources)?.entries ?? {}
  return Object.fromEntries(
    ['dns', 'destination'].map((kind) => [kind, Object.keys(inside(kinds[kind])?.entries ?? {})]),
  )
}
