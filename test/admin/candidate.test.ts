import assert from 'node:assert/strict'
import { type Test, test } from 'tap'
import { candidateRoutes, keepCandidate } from '../../src/admin/candidate.ts'
import { loadPolicy } from '../../src/admin/livePolicy.ts'
import type { AdminAnswer, AdminRequest, WholeAnswer } from '../../src/admin/server.ts'
import { systemClock } from '../../src/net/clock.ts'
import { createMetrics } from '../../src/telemetry/metrics.ts'
import { requestText } from '../../src/telemetry/outcomeText.ts'
import { countTrialMetrics, countTrials } from '../../src/telemetry/trialCounts.ts'
import { front } from '../support/front.ts'
import { ask, type Scripted, scripted } from '../support/http.ts'
import { caller, readAll, upstream } from '../support/peers.ts'

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const CANDIDATE = `apiVersion: sluice/v1
rules:
  - { name: no admin, when: { path: /admin/** }, then: { deny: true } }
  - { name: patient, when: { authority: x.example }, then: { http: { timeout: 5s } } }
  - { name: no bytes, when: { protocol: opaque }, then: { deny: true } }
`

const scene = async (t: Test, policy = '', web = true) => {
  const server = web ? await scripted(OK) : await upstream((socket) => socket.pipe(socket))
  const candidate = keepCandidate(undefined, { clock: systemClock, changed: () => counts.reset(), warn: assert.fail })
  const sluice = await front(server.address, policy, { candidate: candidate.policy })
  const counts = countTrials(sluice.world.ledger)
  const metrics = createMetrics('1.0.0')
  countTrialMetrics(metrics, sluice.world.ledger)
  const routes = candidateRoutes(candidate, counts)
  const call = async (route: string, document = ''): Promise<{ status: number; body: string }> => {
    const answer: AdminAnswer = await routes[route]!({ body: async () => document } as AdminRequest)
    const { status, body } = answer as WholeAnswer
    return { status, body: String(body) }
  }
  t.teardown(() => {
    sluice.close()
    server.close()
  })
  const get = (path: string) =>
    ask(sluice.address, `GET ${path} HTTP/1.1\r\nHost: x.example\r\nConnection: close\r\n\r\n`)
  return { sluice, candidate, call, get, metrics, server }
}

/** All that a web server was sent, on whichever connections. */
const sentTo = (server: object): string => (server as Scripted).received.join('')

test('a candidate decides nothing; what it would change of each request is counted and told', async (t) => {
  const { call, get, sluice, metrics, server } = await scene(t)
  assert.equal((await call('GET /candidate')).body, '{\n  "candidate": null\n}\n')
  await get('/before')
  assert.equal((await call('PUT /candidate', CANDIDATE)).status, 200)
  assert.match(await get('/admin/users?token=CANARY'), /^HTTP\/1.1 200/)
  await get('/shop')
  assert.equal(sentTo(server).match(/^GET /gm)?.length, 3)
  while (sluice.outcomes.length < 3) await new Promise((resolve) => setImmediate(resolve))
  const report = JSON.parse((await call('GET /candidate')).body)
  assert.deepEqual(report.candidate.rules, 3)
  assert.deepEqual(report.connections, { asked: 2, changed: 0 })
  assert.deepEqual(report.requests, { asked: 2, changed: 2 })
  assert.equal(report.more, 0)
  assert.deepEqual(
    report.changes.map((it: { key: string; was: string; value: string; requests: number; rule: { name: string } }) => [
      it.rule.name,
      it.key,
      it.was,
      it.value,
      it.requests,
    ]),
    [
      ['patient', 'http.timeout', '24d', '5s', 2],
      ['no admin', 'deny', 'false', 'true', 1],
    ],
  )
  assert.match(report.changes[1].example, /^GET x\.example\/admin\/users\?token=\(redacted\), outbound 127/)
  const line = requestText(sluice.requests[1]!, {
    direction: 'outbound',
    peer: sluice.address,
    destination: sluice.address,
  })
  assert.match(line, /candidate: deny: true by no admin \(candidate\.yaml:3\)/)
  const text = await metrics.registry.metrics()
  assert.match(text, /sluice_candidate_asked_total\{kind="request",changed="yes"\} 2/)
  assert.match(text, /sluice_candidate_changes_total\{rule="no admin",aspect="deny"\} 1/)
  await call('DELETE /candidate')
  await get('/admin')
  assert.equal(sluice.requests.at(-1)?.candidate, undefined)
})

test('what a candidate would deny as a connection is told of the connection, and once', async (t) => {
  const { call, sluice, server } = await scene(t, '', false)
  await call('PUT /candidate', CANDIDATE)
  const client = await caller(sluice.address)
  client.end('\x00 anything')
  assert.equal(await readAll(client), '\x00 anything')
  while (sluice.outcomes.length === 0) await new Promise((resolve) => setImmediate(resolve))
  assert.equal(sluice.outcomes[0]?.result, 'forwarded')
  assert.deepEqual(
    sluice.outcomes[0]?.candidate?.map(({ key, was, value, rule }) => [key, was, value, rule.name]),
    [['deny', 'false', 'true', 'no bytes']],
  )
  assert.ok(server)
})

test('a document that is no policy is refused with its mistakes, and the one before stays', async (t) => {
  const { call, candidate } = await scene(t)
  await call('PUT /candidate', CANDIDATE)
  const { status, body } = await call(
    'PUT /candidate',
    'apiVersion: sluice/v1\nrules: [{ name: x, then: { dney: true } }]',
  )
  assert.equal(status, 400)
  assert.match(body, /candidate\.yaml:2:\d+: error: .*deny/)
  assert.equal(candidate.policy()?.rules.length, 3)
})

test('a rule in dry run is told of each request that it would decide, on a connection it cannot know', async (t) => {
  const rule = '{ name: perhaps, dryRun: true, when: { path: /admin/** }, then: { deny: true } }'
  const both = '{ name: any, dryRun: true, when: { direction: outbound }, then: { http: { via: true } } }'
  const { get, sluice } = await scene(t, `rules: [${rule}, ${both}]`)
  assert.match(await get('/admin/users'), /^HTTP\/1.1 200/)
  await get('/shop')
  while (sluice.outcomes.length < 2) await new Promise((resolve) => setImmediate(resolve))
  const named = (it: { dryRun?: readonly { rule: { name: string } }[] }) => it.dryRun?.map(({ rule: by }) => by.name)
  assert.deepEqual(sluice.requests.map(named), [['perhaps'], undefined])
  assert.deepEqual(sluice.outcomes.map(named), [['any'], ['any']])
})

test('a candidate in files is replaced when they change, and stays when they are no policy', async (t) => {
  const directory = t.testdir({ 'next.yaml': CANDIDATE })
  const paths = [`${directory}/next.yaml`]
  const loaded = await loadPolicy(paths)
  assert.ok(loaded.is === 'policy')
  const candidate = keepCandidate({ paths, loaded }, { clock: systemClock, changed: () => {}, warn: () => {} })
  t.teardown(candidate.close)
  assert.equal(candidate.policy()?.rules.length, 3)
  assert.deepEqual(candidate.about()?.from, paths[0])
})

test('x-request-id: one is made where the policy says so and none came, and it goes on and is logged', async (t) => {
  const { get, sluice, server } = await scene(t, 'log: { requestId: generate }')
  await get('/')
  await ask(sluice.address, 'GET / HTTP/1.1\r\nHost: x.example\r\nX-Request-Id: mine\r\nConnection: close\r\n\r\n')
  const [first = '', second = ''] = sentTo(server).split(/(?<=\r\n\r\n)/)
  const [made, came] = sluice.requests.map(({ requestId }) => requestId)
  assert.match(made ?? '', /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
  assert.ok(first.includes(`x-request-id: ${made}\r\n`))
  assert.equal(came, 'mine')
  assert.equal(second.match(/x-request-id/gi)?.length, 1)
  const plain = await scene(t)
  await plain.get('/')
  assert.equal(plain.sluice.requests[0]?.requestId, undefined)
})
