import { join } from 'node:path'
import fc from 'fast-check'
import { test } from 'tap'
import { type LearnedRequest, learner } from '../src/admin/learn.ts'
import { learnCommand } from '../src/learnCommand.ts'
import { decide } from '../src/policy/decide.ts'
import type { Facts } from '../src/policy/facts.ts'
import { formatDocument } from '../src/policy/format.ts'
import { settled } from '../src/policy/verdict.ts'
import type { Outcome } from '../src/telemetry/outcome.ts'
import { policyFrom } from './support/policy.ts'
import { runCommand } from './support/runCommand.ts'

const outcome = (it: Partial<Outcome>): Outcome =>
  ({
    direction: 'outbound',
    peer: { host: '10.1.1.1', port: 1 },
    destination: { host: '10.0.0.5', port: 80 },
    result: 'forwarded',
    protocols: ['http1'],
    ...it,
  }) as Outcome
const to = (host: string, port: number) => ({ destination: { host, port } })
const tls = (sni: string) => outcome({ ...to('1.1.1.1', 443), protocols: ['tls'], sni })

const SEEN: Outcome[] = [
  tls('b.example'),
  tls('a.example'),
  tls('b.example'),
  outcome({ ...to('10.0.0.7', 3306), protocols: ['opaque'], reason: 'serverFirst' }),
  outcome({ ...to('10.0.0.8', 5432), protocols: ['opaque'], reason: 'unknown' }),
  ...[1, 2, 3, 4].map((i) => outcome(to(`10.2.0.${i}`, 80))),
  outcome({ direction: 'inbound', peer: { host: '10.9.9.9', port: 7 }, ...to('10.1.1.1', 8080) }),
  outcome({ ...to('169.254.169.254', 80), result: 'denied', protocols: [] }),
]

test('what was seen becomes a policy with comments, in its one form', (t) => {
  const learned = learner()
  for (const each of SEEN) learned.hear(each)
  const text = learned.policy()
  t.equal(
    text,
    `# Learned from 10 connections: what was seen is allowed, everything else is denied.
# Read it, widen what is too narrow, and hold it against more traffic with sluice replay or sluice diff --replay.
apiVersion: sluice/v1
defaults: { deny: true }
rules:
  # seen 1 time, from 10.9.9.9 (1)
  - name: inbound http1 on 8080
    when:
      direction: inbound
      port: 8080
      protocol: http1
    then: { deny: false }
  # seen 4 times, to 10.2.0.1 (1), 10.2.0.2 (1), 10.2.0.3 (1), 10.2.0.4 (1)
  - name: outbound http1 on 80
    when:
      direction: outbound
      port: 80
      destination: 10.2.0.0/24
      protocol: http1
    then: { deny: false }
  # seen 3 times, to b.example (2), a.example (1)
  - name: outbound tls on 443 by name
    when:
      direction: outbound
      port: 443
      sni: [a.example, b.example]
    then: { deny: false }
  # seen 1 time, to 10.0.0.7 (1)
  # It never said what it is in time, or the server spoke first: there is nothing to detect.
  - name: outbound opaque on 3306
    when:
      direction: outbound
      port: 3306
      destination: 10.0.0.7
    then: { deny: false, protocol: opaque }
  # seen 1 time, to 10.0.0.8 (1)
  - name: outbound opaque on 5432
    when:
      direction: outbound
      port: 5432
      destination: 10.0.0.8
    then: { deny: false }
# Refused while this was learned, and not allowed by it:
#   outbound 169.254.169.254 port 80: 1 time
`,
  )
  t.equal(formatDocument(text)?.replace(/\n\n/g, '\n'), text)
  t.end()
})

const factsOf = (it: Outcome): Facts => ({
  direction: it.direction,
  peer: it.peer,
  destination: it.destination,
  protocol: it.protocols[0] as 'tls',
  sni: it.sni ?? null,
  extensions: it.protocols[0] === 'tls' ? [0] : null,
  alpn: null,
  identity: null,
  request: null,
})

const anyOutcome = fc
  .record({
    direction: fc.constantFrom('inbound' as const, 'outbound' as const),
    destination: fc.record({ host: fc.oneof(fc.ipV4(), fc.ipV6()), port: fc.constantFrom(80, 443, 3306, 9000) }),
    peer: fc.record({ host: fc.ipV4(), port: fc.constant(1) }),
    kind: fc.constantFrom<Partial<Outcome>>(
      { protocols: ['tls'], sni: 'a.example' },
      { protocols: ['tls'], sni: 'b.example' },
      { protocols: ['tls'] },
      { protocols: ['tls'], sni: 'x\n    then: { deny: true }' },
      { protocols: ['tls'], sni: '*.example' },
      { protocols: ['http1'] },
      { protocols: ['opaque'], reason: 'timeout' },
      { protocols: ['opaque'], reason: 'unknown' },
    ),
  })
  .map(({ kind, ...rest }) => outcome({ ...rest, ...kind }))

const asked = (method: string, target: string, more: Partial<LearnedRequest> = {}): LearnedRequest => ({
  direction: 'outbound',
  peer: { host: '10.1.1.1', port: 1 },
  destination: { host: '10.0.0.5', port: 80 },
  authority: 'orders.example',
  attempts: 1,
  method,
  target,
  ...more,
})

test('of HTTP in the clear the authorities, methods and paths are learned, as globs a person would write', (t) => {
  const learned = learner()
  for (let i = 0; i < 30; i++) learned.hearRequest(asked('GET', `/orders/${i}?token=CANARY`))
  learned.hearRequest(asked('GET', '/orders/550e8400-e29b-41d4-a716-446655440000/lines'))
  for (const name of ['anna', 'bert', 'carl', 'dora', 'emil']) learned.hearRequest(asked('GET', `/users/${name}/photo`))
  learned.hearRequest(asked('POST', '/orders'))
  learned.hearRequest(asked('GET', '/health', { authority: 'x.example:80' }))
  learned.hearRequest(asked('GET', '/never', { attempts: 0 }))
  learned.hearRequest(asked('GET', '/wrong', { authority: 'a b]: {deny' }))
  learned.hear(outcome(to('10.0.0.5', 80)))
  t.equal(
    learned.policy(),
    `# Learned from 1 connection: what was seen is allowed, everything else is denied.
# Read it, widen what is too narrow, and hold it against more traffic with sluice replay or sluice diff --replay.
apiVersion: sluice/v1
defaults: { deny: true }
rules:
  # 36 requests; seen 1 time, to 10.0.0.5 (1)
  - name: outbound orders.example on 80, GET
    when:
      direction: outbound
      port: 80
      destination: 10.0.0.5
      authority: orders.example
      method: GET
      path: [/orders/*, /orders/*/lines, /users/*/photo]
    then: { deny: false }
  # 1 request; seen 1 time, to 10.0.0.5 (1)
  - name: outbound orders.example on 80, POST
    when:
      direction: outbound
      port: 80
      destination: 10.0.0.5
      authority: orders.example
      method: POST
      path: /orders
    then: { deny: false }
  # 1 request; seen 1 time, to 10.0.0.5 (1)
  - name: outbound x.example:80 on 80
    when:
      direction: outbound
      port: 80
      destination: 10.0.0.5
      authority: x.example:80
      method: GET
      path: /health
    then: { deny: false }
`,
  )
  t.equal(formatDocument(learned.policy()), learned.policy())
  t.end()
})

test('a learned policy allows every request it was learned from, and is short', (t) => {
  const segment = fc.oneof(
    fc.constantFrom('orders', 'users', 'a', 'b', 'c', 'd', 'e', 'f', '', '.', '..', '%41', 'x*y'),
    fc.integer({ min: 0, max: 99 }).map(String),
    fc.string({ maxLength: 3 }).map(encodeURIComponent),
  )
  const path = fc.array(segment, { maxLength: 5 }).map((segments) => `/${segments.join('/')}`)
  const method = fc.constantFrom('GET', 'POST', 'PUT')
  fc.assert(
    fc.property(fc.array(fc.tuple(method, path), { minLength: 1, maxLength: 60 }), (requests) => {
      const learned = learner()
      for (const [method, target] of requests) learned.hearRequest(asked(method, target))
      learned.hear(outcome(to('10.0.0.5', 80)))
      const policy = policyFrom(learned.policy())
      for (const [method, path] of requests) {
        const request = { method, path, authority: 'orders.example', header: () => [] }
        const facts = {
          ...asked(method, path),
          protocol: 'http1',
          sni: null,
          alpn: null,
          extensions: null,
          identity: null,
        }
        t.equal(
          settled(decide(policy, { ...facts, request } as unknown as Facts).deny),
          false,
          `${method} ${path}\n${learned.policy()}`,
        )
      }
      t.ok(policy.rules.length <= 7)
    }),
    { numRuns: 60 },
  )
  t.end()
})

test('a learned policy allows everything it was learned from', (t) => {
  fc.assert(
    fc.property(fc.array(anyOutcome, { minLength: 1, maxLength: 20 }), (outcomes) => {
      const learned = learner()
      for (const each of outcomes) learned.hear(each)
      const policy = policyFrom(learned.policy())
      return outcomes.every((each) => !settled(decide(policy, factsOf(each)).deny))
    }),
  )
  t.end()
})

test('from a log of format json, and from a capture', async (t) => {
  const lines = [
    'sluice is ready',
    '{"level":"info","msg":"the policy was replaced"}',
    ...SEEN.map((it) => JSON.stringify(it)),
    '{"cut',
  ]
  const file = join(t.testdir({ 'log.json': `${lines.join('\n')}\n`, 'none.json': 'text\n' }), 'log.json')
  t.match(await runCommand(learnCommand, [file]), { code: 0, err: '', out: /^# Learned from 10 connections/ })
  t.match(await runCommand(learnCommand, [file.replace('log.json', 'none.json')]), {
    code: 1,
    err: /no connection in it/,
  })
  t.match(await runCommand(learnCommand, [`${file}.absent`]), { code: 1, err: /ENOENT/ })
  const capture = 'test/fixtures/pcap/kbandla-dpkt__examples__data__nb6-http.pcap'
  const ran = await runCommand(learnCommand, ['--replay', capture])
  t.equal(ran.code, 0)
  t.match(policyFrom(ran.out).rules, [{ ref: { name: /outbound http1 on 80/ } }])
  await t.rejects(runCommand(learnCommand, []), { message: /name a log/ })
})
