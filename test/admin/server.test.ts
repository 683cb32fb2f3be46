import assert from 'node:assert/strict'
import { once } from 'node:events'
import { request } from 'node:http'
import { test } from 'tap'
import { adminRoutes } from '../../src/admin/routes.ts'
import { type AdminOptions, startAdmin } from '../../src/admin/server.ts'
import { systemClock } from '../../src/net/clock.ts'
import { createLedger } from '../../src/telemetry/ledger.ts'
import { createLog } from '../../src/telemetry/log.ts'
import { countConnections, createMetrics } from '../../src/telemetry/metrics.ts'
import { redactedValue } from '../../src/telemetry/redact.ts'
import { policyOf } from '../support/world.ts'

interface Answer {
  readonly status: number
  readonly body: string
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
}

const admin = async (changes: { notReady?: string[]; shutdown?: () => void; options?: Partial<AdminOptions> } = {}) => {
  const ledger = createLedger(systemClock)
  const metrics = createMetrics('1.2.3')
  countConnections(metrics, ledger)
  const log = createLog({ format: 'text', level: 'info', write: () => {} })
  const routes = adminRoutes({
    ledger,
    policy: () => policyOf('rules: [{ name: no mail, when: { port: 25 }, then: { deny: true } }]'),
    registry: metrics.registry,
    log,
    now: systemClock.now,
    notReady: () => changes.notReady ?? [],
    shutdown: changes.shutdown,
  })
  const server = await startAdmin({ address: { host: '127.0.0.1', port: 0 }, routes, ...changes.options })
  const ask = async (
    path: string,
    {
      method = 'GET',
      headers = {},
      body = '',
    }: { method?: string; headers?: Record<string, string>; body?: string } = {},
  ): Promise<Answer> => {
    const asked = request({ ...server.address, path, method, headers, agent: false }).end(body)
    const [response] = await once(asked, 'response')
    const chunks: Buffer[] = []
    for await (const chunk of response) chunks.push(chunk)
    return { status: response.statusCode, body: Buffer.concat(chunks).toString(), headers: response.headers }
  }
  return { ledger, log, ask, close: server.close, port: server.address.port }
}

test('health, readiness with its reasons, and the log level', async () => {
  const up = await admin()
  assert.deepEqual((await up.ask('/live')).body, 'live\n')
  assert.deepEqual((await up.ask('/ready')).status, 200)
  assert.equal((await up.ask('/log-level')).body, 'info\n')
  assert.equal((await up.ask('/log-level', { method: 'PUT', body: 'debug' })).status, 200)
  assert.equal(up.log.level, 'debug')
  const wrong = await up.ask('/log-level', { method: 'PUT', body: 'loud' })
  assert.equal(wrong.status, 400)
  assert.match(wrong.body, /'loud' is not one of debug, info/)
  up.close()
  const starting = await admin({ notReady: ['no certificate for shop.example'] })
  const ready = await starting.ask('/ready')
  assert.equal(ready.status, 503)
  assert.match(ready.body, /no certificate for shop\.example/)
  starting.close()
})

test('what is not there is 404, another method 405 with Allow, HEAD has no body', async () => {
  const { ask, close } = await admin()
  assert.equal((await ask('/nothing')).status, 404)
  const wrong = await ask('/metrics', { method: 'DELETE' })
  assert.equal(wrong.status, 405)
  assert.equal(wrong.headers.allow, 'GET')
  const head = await ask('/live', { method: 'HEAD' })
  assert.equal(head.body, '')
  assert.equal(head.headers['content-length'], '5')
  close()
})

test('shutdown is off unless it is configured, and takes POST only', async () => {
  const off = await admin()
  assert.equal((await off.ask('/shutdown', { method: 'POST' })).status, 404)
  off.close()
  let stopped = 0
  const on = await admin({ shutdown: () => (stopped += 1) })
  assert.equal((await on.ask('/shutdown')).status, 405)
  assert.equal(stopped, 0)
  assert.equal((await on.ask('/shutdown', { method: 'POST' })).status, 202)
  assert.equal(stopped, 1)
  on.close()
})

const HOSTS: readonly (readonly [host: string, origin: string | undefined, status: number])[] = [
  ['localhost:4191', undefined, 200],
  ['127.0.0.1', undefined, 200],
  ['[::1]:4191', undefined, 200],
  ['LOCALHOST', undefined, 200],
  ['rebound.example:4191', undefined, 421],
  ['localhost.rebound.example', undefined, 421],
  ['127.0.0.1.rebound.example', undefined, 421],
  ['localhost:4191', 'http://localhost:4191', 200],
  ['localhost:4191', 'http://evil.example', 403],
  ['localhost:4191', 'null', 403],
  ['localhost:4191', 'https://localhost:4191', 403],
]

test('a page of another site cannot drive it: Host and Origin are checked', async () => {
  const { ask, close } = await admin()
  for (const [host, origin, status] of HOSTS) {
    const answer = await ask('/live', { headers: { host, ...(origin && { origin }) } })
    assert.equal(answer.status, status, `Host ${host}, Origin ${origin}: ${answer.body}`)
  }
  close()
})

test('metrics come as Prometheus text or as OpenMetrics, also when both are asked for at once', async () => {
  const { ask, ledger, close } = await admin()
  const from = {
    direction: 'outbound',
    listener: 'outbound',
    peer: { host: '10.0.0.1', port: 1 },
    destination: { host: '10.0.0.2', port: 2 },
  } as const
  const life = ledger.begin(from)
  life.count.sent += 10
  const [plain, open] = await Promise.all([
    ask('/metrics'),
    ask('/metrics', { headers: { accept: 'application/openmetrics-text; version=1.0.0' } }),
  ])
  assert.match(String(plain.headers['content-type']), /^text\/plain; version=0\.0\.4/)
  assert.doesNotMatch(plain.body, /# EOF/)
  assert.match(plain.body, /sluice_connection_bytes_total\{direction="outbound",way="sent"\} 10\n/)
  assert.match(plain.body, /sluice_connections_open\{direction="outbound"\} 1\n/)
  assert.match(plain.body, /sluice_build_info\{version="1\.2\.3"\} 1\n/)
  assert.match(String(open.headers['content-type']), /^application\/openmetrics-text/)
  assert.match(open.body, /# EOF\n$/)
  ledger.end(life, 'forwarded', { sent: 30, received: 4, ended: 'closed' })
  const after = (await ask('/metrics')).body
  assert.match(after, /sluice_connection_bytes_total\{direction="outbound",way="sent"\} 30\n/)
  assert.match(after, /sluice_connections_total\{direction="outbound",result="forwarded",ended="closed"\} 1\n/)
  close()
})

test('open connections and the effective configuration are shown, secrets are not', async () => {
  const { ask, ledger, close } = await admin()
  ledger.begin({
    direction: 'inbound',
    listener: 'inbound',
    peer: { host: '10.0.0.1', port: 1 },
    destination: { host: 'fd00::1', port: 2 },
  })
  const [connection] = JSON.parse((await ask('/connections')).body)
  assert.equal(connection.destination, '[fd00::1]:2')
  const config = JSON.parse((await ask('/config')).body)
  assert.equal(config.rules[0].name, 'no mail')
  assert.deepEqual(config.rules[0].when, { port: 25 })
  assert.deepEqual(config.defaults.deny, { value: false, from: { name: 'built-in', file: '', line: 0 } })
  close()
  assert.deepEqual(redactedValue({ token: 'canary', list: [{ apiKey: 'canary' }], token2: { file: '/run/secret' } }), {
    token: '(redacted)',
    list: [{ apiKey: '(redacted)' }],
    token2: { file: '/run/secret' },
  })
})
