import fc from 'fast-check'
import { test } from 'tap'
import { decide, narrow } from '../../src/policy/decide.ts'
import { dialsEarly } from '../../src/policy/dialsEarly.ts'
import { explain } from '../../src/policy/explain.ts'
import type { Facts } from '../../src/policy/facts.ts'
import { builtInPolicy } from '../../src/policy/parsePolicy.ts'
import { settled, type Verdict } from '../../src/policy/verdict.ts'
import { factsOf, policyOf, requestOf } from '../support/policy.ts'

const shop = `
  - name: metadata is off limits
    when: { direction: outbound, destination: 169.254.169.254/32 }
    then: { deny: true }
  - name: databases
    when: { direction: outbound, port: [3306, 5432] }
    then: { protocol: opaque, limits: { idle: 2h } }
  - name: admin paths
    when: { path: /admin/** }
    then: { deny: true }
  - name: elsewhere
    when: { sni: "*.shop.example" }
    then: { upstream: { address: "10.9.9.9:443" } }
`

test('what no rule decides comes from the defaults, and then from what is built in', (t) => {
  const verdict = decide(policyOf('', 'detect: { timeout: 7s }'), factsOf())
  t.equal(settled(verdict['detect.timeout']), 7000)
  t.match(verdict['detect.timeout'], { is: 'decided', by: { name: 'defaults', file: 'test.yaml', line: 2 } })
  t.equal(settled(verdict['detect.maxBytes']), 16_384)
  t.match(verdict['detect.maxBytes'], { by: { name: 'built-in', file: '', line: 0 } })
  t.same(decide(builtInPolicy(), factsOf()), {
    ...verdict,
    'detect.timeout': decide(builtInPolicy(), factsOf())['detect.timeout'],
  })
  t.end()
})

test('the first rule that matches and says something about an aspect decides it; each aspect on its own', (t) => {
  const policy = policyOf(shop)
  const database = decide(policy, factsOf({ destination: { host: '10.0.0.5', port: 3306 } }))
  t.match(database.protocol, { is: 'decided', value: 'opaque', by: { name: 'databases' } })
  t.match(database['limits.idle'], { is: 'decided', value: 7_200_000 })
  t.match(database['limits.halfClosed'], { value: 60_000, by: { name: 'built-in' } })
  t.match(database.deny, { is: 'waits', for: { name: 'admin paths' } })
  const metadata = decide(policy, factsOf({ destination: { host: '169.254.169.254', port: 80 } }))
  t.match(metadata.deny, { is: 'decided', value: true, by: { name: 'metadata is off limits', file: 'test.yaml' } })
  t.end()
})

test('an aspect waits for the first rule that may yet match, and facts known to be absent end the wait', (t) => {
  const policy = policyOf(shop)
  t.match(decide(policy, factsOf()).upstream, { is: 'waits', for: { name: 'elsewhere' } })
  t.match(decide(policy, factsOf({ sni: null })).upstream, { is: 'decided', value: { is: 'original' } })
  const known = decide(policy, factsOf({ sni: 'a.shop.example', request: null }))
  t.match(known.upstream, { value: { is: 'addresses', addresses: [{ host: '10.9.9.9', port: 443 }] } })
  t.match(known.deny, { is: 'decided', value: false, by: { name: 'built-in' } })
  t.match(decide(policy, factsOf({ sni: null, request: requestOf({ path: '/x/../admin' }) })).deny, { value: true })
  t.end()
})

test('the upstream is dialled early only where nothing that still waits could deny or redirect it', (t) => {
  const cases: [string, string, Partial<Facts>, boolean][] = [
    ['', '', {}, true],
    ['', 'deny: true', {}, false],
    ['', 'detect: { serverFirst: never }', {}, false],
    [shop, '', { sni: null }, false],
    [shop, '', {}, false],
    [shop, '', { sni: null, request: null }, true],
    ['  - { name: a, when: { path: /a }, then: { deny: true } }', 'detect: { serverFirst: always }', {}, true],
    ['  - { name: a, when: { path: /a }, then: { deny: false } }', '', {}, true],
    ['  - { name: a, when: { path: /a }, then: { deny: false } }', 'deny: true', {}, false],
    [
      '  - { name: a, when: { sni: a.b }, then: { deny: false } }\n  - { name: b, then: { deny: false } }',
      'deny: true',
      {},
      true,
    ],
    [
      '  - { name: a, when: { sni: a.b }, then: { upstream: { address: "10.0.0.1:1" } } }',
      'detect: { serverFirst: always }',
      {},
      false,
    ],
  ]
  for (const [rules, defaults, facts, expected] of cases)
    t.equal(
      dialsEarly(policyOf(rules, defaults), factsOf(facts)),
      expected,
      `${rules} ${defaults} ${JSON.stringify(facts)}`,
    )
  t.end()
})

/** The sentence of the design, as slowly as it can be said. */
const naive = (text: string, facts: Facts): Record<string, string> => {
  const { rules, verdict } = explain(policyOf(text), facts)
  const answers: Record<string, string> = {}
  for (const aspect of Object.keys(verdict)) {
    const decider = rules.find(
      (rule) =>
        rule.says.some((saying) => saying.aspect === aspect) && rule.conditions.every(({ holds }) => holds !== 'no'),
    )
    const waits = decider?.conditions.some(({ holds }) => holds === 'unknown')
    answers[aspect] = decider === undefined ? 'built-in' : `${waits ? 'waits for' : 'decided by'} ${decider.rule.name}`
  }
  return answers
}

const told = (verdict: Verdict): Record<string, string> =>
  Object.fromEntries(
    Object.entries(verdict).map(([aspect, it]) => {
      if (it.is === 'waits') return [aspect, `waits for ${it.for.name}`]
      return [aspect, it.by.name === 'built-in' ? 'built-in' : `decided by ${it.by.name}`]
    }),
  )

const arbitraryWhen = fc
  .record(
    {
      direction: fc.constantFrom('inbound', 'outbound'),
      port: fc.constantFrom('80', '443', '[80, 443]', '1-100', '75-85'),
      destination: fc.constantFrom(
        '10.0.0.0/8',
        '10.0.0.5',
        '"10.0.0.5:80"',
        '"fd00::/8"',
        '10.0.0.0/24',
        '10.0.0.0/16',
        '"fd00::/32"',
        '[10.1.0.0/16, "::/0"]',
      ),
      sni: fc.constantFrom('a.example', '"*.example"', 'none'),
      protocol: fc.constantFrom('tls', 'http1', '[http1, opaque]'),
      identity: fc.constantFrom('"spiffe://a/**"', 'none'),
      path: fc.constantFrom('/a', '/a/**', '/**', '/a/b/*', '[/b, /a/b/c]', '/*/b', '"*"'),
      method: fc.constantFrom('GET', '[PUT, GET]'),
      alpn: fc.constantFrom('h2', 'none'),
      authority: fc.constantFrom('a', '"*.b"', '"x.b:80"', '[c, "*.b"]'),
    },
    { requiredKeys: [] },
  )
  .map((when) =>
    Object.entries(when)
      .map(([key, value]) => `${key}: ${value}`)
      .join(', '),
  )
const arbitraryThen = fc
  .uniqueArray(fc.constantFrom('deny: true', 'upstream: { address: "1.1.1.1:1" }', 'upstream: { address: original }'), {
    minLength: 1,
    selector: (it) => it.slice(0, 4),
  })
  .map((says) => says.join(', '))
const arbitraryRules = fc
  .array(fc.tuple(arbitraryWhen, arbitraryThen), { maxLength: 8 })
  .map((rules) =>
    rules.map(([when, says], i) => `  - { name: r${i}, when: { ${when} }, then: { ${says} } }`).join('\n'),
  )
const orUnknown = <T>(...values: T[]) => fc.option(fc.constantFrom(...values), { nil: undefined })
const arbitraryFacts = fc.record({
  direction: fc.constantFrom('inbound' as const, 'outbound' as const),
  peer: fc.constant({ host: '10.1.1.1', port: 5 }),
  destination: fc.record({
    host: fc.constantFrom('10.0.0.5', '10.0.0.6', 'fd00::1'),
    port: fc.constantFrom(80, 443, 90),
  }),
  protocol: orUnknown('tls' as const, 'http1' as const, 'opaque' as const),
  sni: orUnknown('a.example', 'b.example', null),
  identity: orUnknown('spiffe://a/b', null),
  request: orUnknown(
    requestOf({ path: '/a' }),
    requestOf({ path: '/b', authority: 'x.b' }),
    requestOf({ path: '/a/b/c', authority: 'X.b.:80', method: 'PUT' }),
    requestOf({ path: '/x/b', authority: 'c:1' }),
    null,
  ),
})

/** The facts, without those not yet known. */
const known = (facts: object): Facts =>
  Object.fromEntries(Object.entries(facts).filter(([, it]) => it !== undefined)) as never

test('decide answers as the sentence of the design does, for any rules and facts', (t) => {
  fc.assert(
    fc.property(arbitraryRules, arbitraryFacts, (rules, facts) => {
      t.same(told(decide(policyOf(rules), known(facts))), naive(rules, known(facts)))
    }),
    { numRuns: 300 },
  )
  t.end()
})

test('narrowing by some of the facts never changes a decision', (t) => {
  fc.assert(
    fc.property(
      arbitraryRules,
      arbitraryFacts,
      fc.subarray(['protocol', 'sni', 'identity', 'request'] as const),
      (rules, facts, later) => {
        const policy = policyOf(rules)
        const early = known(Object.fromEntries(Object.entries(facts).filter(([key]) => !later.includes(key as never))))
        t.same(decide(narrow(policy, early), known(facts)), decide(policy, known(facts)))
        t.same(decide(narrow(narrow(policy, early), known(facts)), known(facts)), decide(policy, known(facts)))
        t.equal(dialsEarly(narrow(policy, early), known(facts)), dialsEarly(policy, known(facts)))
      },
    ),
    { numRuns: 300 },
  )
  t.end()
})
