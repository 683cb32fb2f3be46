import { join } from 'node:path'
import { test } from 'tap'
import { diffCommand } from '../src/diffCommand.ts'
import { narrow, ruleMatches } from '../src/policy/decide.ts'
import { dryRun } from '../src/policy/differences.ts'
import { witnesses } from '../src/policy/witnesses.ts'
import { factsOf, policyFrom, policyOf } from './support/policy.ts'
import { runCommand } from './support/runCommand.ts'

const head = 'apiVersion: sluice/v1\n'
const OLD = `${head}rules:
  - { name: closed, when: { destination: 169.254.169.254 }, then: { deny: true } }
  - { name: shop, when: { authority: "*.shop.example", path: /pay/** }, then: { limits: { connect: 1s } } }
`

test('what changes is said in meaning, with an example; what does not is not', async (t) => {
  const directory = t.testdir({
    'old.yaml': OLD,
    'same.yaml': `${head}# the same, written differently\nrules:
  - { name: not open, when: { destination: ["169.254.169.254/32"] }, then: { deny: true } }
  - { name: shopping, when: { path: [/pay/**], authority: "*.Shop.Example" }, then: { limits: { connect: 1000ms } } }
defaults: { limits: { idle: 60m } }
`,
    'new.yaml': `${OLD.replace('1s', '2s').replace('rules:', 'rules:\n  - { name: exception, when: { peer: 10.0.0.9 }, then: { deny: false } }')}log: { format: json }\nlisteners: { inbound: { maxConnections: 5 } }\n`,
  })
  const at = (name: string) => join(directory, name)
  t.match(await runCommand(diffCommand, [at('old.yaml'), at('same.yaml')]), {
    code: 0,
    out: /^nothing changes in any of \d+ cases tried\n$/,
  })
  const { code, out } = await runCommand(diffCommand, [at('old.yaml'), at('new.yaml')])
  t.equal(code, 1)
  t.match(
    out.replaceAll(`${directory}/`, '').replace(/\d+ of \d+/g, 'N of M'),
    `- limits.connect: 1s ("shop", old.yaml:4)
+ limits.connect: 2s ("shop", new.yaml:5)
  for example outbound, 127.0.0.1 to 203.0.113.1:80, protocol http1, SNI none, ALPN none, extensions none, identity none, GET any.shop.example /pay/any; N of M cases tried

- deny: true ("closed", old.yaml:3)
+ deny: false ("exception", new.yaml:3)
  for example outbound, 10.0.0.9:40000 to 169.254.169.254:80, protocol opaque`,
  )
  t.match(out, /section listeners changes; it needs a restart\nsection log changes; it counts on reload\n$/)
  const json = JSON.parse((await runCommand(diffCommand, [at('old.yaml'), at('new.yaml'), '--json'])).out)
  t.match(json, {
    changes: [
      { aspect: 'limits.connect' },
      { aspect: 'deny', before: { written: true, by: { name: 'closed' } }, after: { written: false } },
    ],
    sections: ['listeners', 'log'],
  })
  await t.rejects(runCommand(diffCommand, [at('old.yaml')]), { message: /name two policies/ })
})

test('the connections of a capture that would end differently', async (t) => {
  const capture = 'test/fixtures/pcap/kbandla-dpkt__examples__data__nb6-http.pcap'
  const directory = t.testdir({
    'old.yaml': head,
    'new.yaml': `${head}rules: [{ name: no web, when: { protocol: http1 }, then: { deny: true } }]`,
  })
  const { code, out } = await runCommand(diffCommand, [
    join(directory, 'old.yaml'),
    join(directory, 'new.yaml'),
    '--replay',
    capture,
  ])
  t.equal(code, 1)
  t.match(out, /nb6-http\.pcap: \S+ to \S+: forwarded as http1 to \S+; then denied as http1/)
})

test('each rule is met by a case made for it', (t) => {
  const policy = policyOf(
    [
      'direction: inbound, port: [443, 8000-8010]',
      'peer: "fd00::/8", destination: "10.0.0.5:5432"',
      'sni: "*.x.y", alpn: h2, extension: 43',
      'sni: none',
      'identity: "spiffe://a/**/b", protocol: tls',
      'authority: ["*.a.b:80", c], method: POST, path: /x/*/y',
      'header: { a: { matches: "b*" }, c: { present: false }, d: { present: true } }, sni: q.r',
    ]
      .map((when, i) => `  - { name: r${i}, when: { ${when} }, then: { deny: true } }`)
      .join('\n'),
  )
  const cases = witnesses(policy.rules)
  for (const rule of policy.rules)
    t.ok(
      cases.some((facts) => ruleMatches(rule, facts)),
      rule.ref.name,
    )
  t.end()
})

test('rules in dry run decide nothing, and what they would change is told', (t) => {
  const policy = policyFrom(`${head}rules:
  - { name: maybe, dryRun: true, when: { port: 80 }, then: { deny: true, limits: { idle: 1h } } }
  - { name: later, when: { path: /a }, then: { deny: false } }
`)
  const told = (it: ReturnType<typeof dryRun>) =>
    it.map(({ aspect, before, after }) => [aspect, before.written, after.written, after.by.name])
  t.same(told(dryRun(policy, factsOf({ request: null }))), [['deny', false, true, 'maybe']])
  t.same(told(dryRun(narrow(policy, factsOf()), factsOf({ request: null }))), [['deny', false, true, 'maybe']])
  t.same(dryRun(policy, factsOf({ destination: { host: '1.1.1.1', port: 81 } })), [])
  t.same(dryRun(policyOf(''), factsOf()), [])
  t.end()
})
