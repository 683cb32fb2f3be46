import fc from 'fast-check'
import { test } from 'tap'
import { decide } from '../../src/policy/decide.ts'
import type { Facts } from '../../src/policy/facts.ts'
import { parsePolicy } from '../../src/policy/parsePolicy.ts'
import { requestOf } from '../support/policy.ts'

const parsed = (text: string) => parsePolicy([{ path: 'p.yaml', text: `apiVersion: sluice/v1\n${text}` }])
const diagnostics = (text: string) => {
  const it = parsed(text)
  return (it.is === 'policy' ? it.warnings : it.diagnostics).map(
    ({ severity, place, message }) => `${place.line}:${place.column} ${severity} ${message}`,
  )
}
const rules = (...lines: string[]) => `rules:\n${lines.map((line, i) => `  - { name: r${i}, ${line} }\n`).join('')}`
const hiddenBy = (rule: string) => `this rule decides nothing: wherever it matches, ${rule} comes first`

test('rules that decide nothing and rules that nothing can match are warnings', (t) => {
  const cases: [string, string[]][] = [
    [
      rules('when: { port: 80 }, then: { deny: true }', 'when: { port: 80, sni: a.b }, then: { deny: false }'),
      [`4:13 warning ${hiddenBy('"r0" (p.yaml:3)')}`],
    ],
    [rules('when: { port: 80 }, then: { deny: true }', 'when: { port: [80, 81] }, then: { deny: true }'), []],
    [
      rules('then: { deny: true }', 'when: { path: /a }, then: { deny: false, upstream: { address: "1.1.1.1:1" } }'),
      ['4:45 warning deny is not decided here: wherever it matches, "r0" (p.yaml:3) comes first'],
    ],
    [rules('then: { deny: true }', 'when: { path: /a }, then: { deny: true, upstream: { address: "1.1.1.1:1" } }'), []],
    [rules('when: { identity: "**" }, then: { deny: true }', 'when: { identity: none }, then: { deny: false }'), []],
    [
      rules(
        'when: { authority: "*.a.b" }, then: { deny: true }',
        'when: { authority: "x.a.b:80", path: /x }, then: { deny: false }',
      ),
      [`4:13 warning ${hiddenBy('"r0" (p.yaml:3)')}`],
    ],
    [rules('dryRun: true, then: { deny: true }', 'then: { deny: false }'), []],
    [
      rules('when: { port: [] }, then: { deny: true }'),
      ['3:25 warning an empty list matches nothing; leave port out to match everything'],
    ],
    [
      rules('when: { protocol: [tls, opaque], path: /a }, then: { deny: true }'),
      ['3:50 warning only HTTP has path, and this rule is for tls and opaque'],
    ],
    [
      rules('when: { destination: ["1.1.1.1:80"], port: 81-90 }, then: { deny: true }'),
      ['3:54 warning no destination of this rule has such a port'],
    ],
    [rules('when: { destination: ["1.1.1.1:80", 1.1.1.2], port: 81-90 }, then: { deny: true }'), []],
    [
      rules('then: { upstream: { channel: orders } }'),
      ['3:37 warning no app can open a channel: callback.enable is false'],
    ],
    [`${rules('then: { upstream: { channel: orders } }')}callback: { enable: true }\n`, []],
  ]
  for (const [text, expected] of cases) t.same(diagnostics(text), expected, text)
  t.end()
})

test('what several rules hide of one together is found, and so are ports that never come to it', (t) => {
  const both = '"r0" (p.yaml:3) or "r1" (p.yaml:4)'
  const third = (when: string, then = 'deny: false') => `when: { ${when} }, then: { ${then} }`
  const cases: [string, string[]][] = [
    [
      rules(third('direction: inbound', 'deny: true'), third('direction: outbound', 'deny: true'), third('port: 25')),
      [`5:13 warning ${hiddenBy(both)}`],
    ],
    [
      rules(third('port: 1-100', 'deny: true'), third('port: 101-200', 'deny: true'), third('port: 50-150')),
      [`5:13 warning ${hiddenBy(both)}`],
    ],
    [
      rules(third('sni: a.b', 'deny: true'), third('sni: "*.c"', 'deny: true'), third('sni: [a.b, x.c], port: 443')),
      [`5:13 warning this rule decides nothing: wherever it matches, "r0" (p.yaml:3) or "r1" (p.yaml:4) comes first`],
    ],
    [
      rules(
        third('protocol: [tls, http1]', 'deny: true'),
        third('protocol: [http2, opaque]', 'deny: true'),
        third('destination: 10.0.0.0/8'),
      ),
      [`5:13 warning ${hiddenBy(both)}`],
    ],
    [
      rules(third('port: 443', 'deny: true'), third('port: [80, 443, 8443]')),
      ['4:25 warning of these ports 443 never come here: "r0" (p.yaml:3) comes first'],
    ],
    [rules(third('port: 443', 'deny: true'), third('port: [80, 443]', 'deny: true')), []],
    [
      rules(third('direction: inbound', 'deny: true'), third('port: 25', 'deny: true'), third('port: [25, 26]')),
      ['5:25 warning of these ports 25 never come here: "r0" (p.yaml:3) or "r1" (p.yaml:4) comes first'],
    ],
    [rules(third('direction: inbound', 'deny: true'), third('port: 26', 'deny: true'), third('port: 25')), []],
    [rules(third('port: 443', 'deny: true'), third('port: 1-1000')), []],
    [rules(third('port: 1-65535', 'deny: true'), third('sni: a.b')), [`4:13 warning ${hiddenBy('"r0" (p.yaml:3)')}`]],
  ]
  for (const [text, expected] of cases) t.same(diagnostics(text), expected, text)
  t.end()
})

const when = fc
  .record(
    {
      port: fc.constantFrom('80', '[80, 443]', '1-100'),
      destination: fc.constantFrom('10.0.0.0/8', '10.0.0.5', '"10.0.0.5:80"'),
      sni: fc.constantFrom('a.b', '"*.b"', 'none', '[none, a.b]'),
      identity: fc.constantFrom('"spiffe://a/**"', 'none', '"**"', 'a.b', '"*.b"'),
      path: fc.constantFrom('/a', '/a/**', '/**', '/a/*'),
      authority: fc.constantFrom('a.b', '"*.b"', '"a.b:80"'),
      header: fc.constantFrom('{ x: { present: true } }', '{ x: { present: true }, y: { equals: [a, b] } }'),
    },
    { requiredKeys: [] },
  )
  .map(
    (it) =>
      `when: { ${Object.entries(it)
        .map(([key, value]) => `${key}: ${value}`)
        .join(', ')} }, then: { deny: true }`,
  )
const facts: fc.Arbitrary<Facts> = fc.record({
  direction: fc.constant('outbound' as const),
  peer: fc.constant({ host: '10.1.1.1', port: 5 }),
  destination: fc.record({ host: fc.constantFrom('10.0.0.5', '11.0.0.6'), port: fc.constantFrom(80, 443, 500) }),
  sni: fc.constantFrom('a.b', 'c.b', null),
  extensions: fc.constantFrom([0], null),
  identity: fc.constantFrom('spiffe://a/b', 'a.b', null),
  request: fc
    .record({
      path: fc.constantFrom('/a', '/a/b', '/b'),
      authority: fc.constantFrom('a.b', 'a.b:80', 'c.b'),
      x: fc.boolean(),
    })
    .map(({ path, authority, x }) => requestOf({ path, authority, headers: { x: x ? ['1'] : [], y: ['a'] } })),
})

test('a rule that is said to be hidden never decides', (t) => {
  let hidden = 0
  fc.assert(
    fc.property(
      fc.array(when, { minLength: 2, maxLength: 6 }),
      fc.array(facts, { minLength: 10, maxLength: 10 }),
      (lines, all) => {
        const it = parsed(rules(...lines))
        if (it.is !== 'policy') throw new Error('not a policy')
        const names = it.warnings
          .filter(({ code }) => code === 'hidden-rule')
          .map(({ place }) => place.text.match(/name: (r\d)/)?.[1])
        hidden += names.length
        return all.every((each) => {
          const { deny } = decide(it.policy, each)
          return !names.includes(deny.is === 'decided' ? deny.by.name : deny.for.name)
        })
      },
    ),
    { numRuns: 500 },
  )
  t.ok(hidden > 20, `${hidden} hidden rules were tried`)
  t.end()
})

const TESTED = `rules:
  - { name: closed, when: { direction: outbound, destination: 169.254.169.254 }, then: { deny: true } }
  - { name: shop, when: { sni: "*.shop.example" }, then: { upstream: { address: "10.9.9.9:443" } } }
tests:
`

test('a policy whose own tests fail is not one', (t) => {
  const cases: [string, string[]][] = [
    ['  - { given: { destination: "169.254.169.254:80" }, expect: { deny: true }, by: closed }', []],
    [
      '  - { given: { destination: "1.1.1.1:443", protocol: tls, sni: a.shop.example }, expect: { upstream: { address: "10.9.9.9:443" }, deny: false } }',
      [],
    ],
    [
      '  - { given: { destination: "1.1.1.1:80", authority: a, header: { X-A: b } }, expect: { upstream: { address: original } }, by: built-in }',
      [],
    ],
    ['  - { given: { destination: "1.1.1.1:80", sni: none, alpn: none }, expect: { limits: { idle: 60m } } }', []],
    [
      '  - { name: open, given: { destination: "169.254.169.254:80" }, expect: { deny: false } }',
      ['6:81 error test "open": deny is not false: "closed" (p.yaml:3) says deny: true'],
    ],
    [
      '  - { given: { destination: "1.1.1.1:80" }, expect: { upstream: { address: original } } }',
      ['6:76 error test "test 1": upstream.address still waits for the rule "shop"; say more under "given"'],
    ],
    [
      '  - { given: { destination: "1.1.1.1:80" }, expect: { deny: false }, by: closed }',
      ['6:61 error test "test 1": deny is decided by built-in, not by "closed"'],
    ],
    [
      '  - { given: { destination: "1.1.1.1" }, expect: { deny: false } }',
      ['6:29 error "1.1.1.1" is not an IP address and port, such as 10.0.0.5:8080 or "[fd00::5]:8080"'],
    ],
    [
      '  - { given: { destination: "1.1.1.1:1", peer: x }, expect: { deny: false } }',
      ['6:48 error "x" is not an IP address'],
    ],
    ['  - { given: { destination: "1.1.1.1:1" }, expect: {} }', ['6:44 error this test expects nothing']],
    ['  - { given: {}, expect: { deny: false } }', ['6:7 error "destination" is missing']],
  ]
  for (const [text, expected] of cases) t.same(diagnostics(TESTED + text), expected, text)
  t.end()
})
