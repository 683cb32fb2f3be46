import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { test } from 'tap'
import { countProcess } from '../../src/admin/liveMetrics.ts'
import { systemClock } from '../../src/net/clock.ts'
import { OVERFLOW } from '../../src/telemetry/labelBudget.ts'
import { createLedger } from '../../src/telemetry/ledger.ts'
import { countConnections, countExposed, countRequests, createMetrics } from '../../src/telemetry/metrics.ts'
import type { RequestOutcome } from '../../src/telemetry/outcome.ts'
import { countTrialMetrics } from '../../src/telemetry/trialCounts.ts'
import { worldOf } from '../support/world.ts'

const request: RequestOutcome = {
  method: 'GET',
  authority: 'a.example',
  target: '/',
  version: '1.1',
  status: 200,
  attempts: 2,
  bytes: { sent: 3, received: 4 },
  ms: 10,
  headMs: 5,
  rules: {},
  error: 'timeout',
}

const busy = () => {
  const ledger = createLedger(systemClock)
  const metrics = createMetrics('1.0.0')
  countConnections(metrics, ledger)
  countRequests(metrics, ledger)
  countExposed(metrics, ledger)
  countTrialMetrics(metrics, ledger)
  const world = { ...worldOf(''), ledger, recorder: { dropped: () => 0 }, time: Date.now }
  const reloaded = countProcess(metrics, world)
  reloaded('replaced')
  const serve = (rule: string) => {
    const address = { host: '10.0.0.1', port: 1 }
    const life = ledger.begin({ direction: 'outbound', listener: 'outbound', peer: address, destination: address })
    life.protocols.push('http1')
    life.detected = { bytes: 3, ms: 1, head: 'GET' }
    life.rules = { deny: { name: rule, file: 'a.yaml', line: 1 } }
    life.requested(request)
    ledger.end(life, 'failed', {
      sent: 1,
      received: 2,
      ended: 'connectFailed',
      error: { code: 'ECONNREFUSED', message: '' },
    })
  }
  return { metrics, serve }
}

test('promtool finds nothing wrong with the names and texts of our metrics', async () => {
  const { metrics, serve } = busy()
  serve('a rule')
  // nodejs_* and process_* come from prom-client; what it names is not ours to judge.
  const text = (await metrics.registry.metrics())
    .split('\n\n')
    .filter((family) => family.includes('sluice_'))
    .join('\n')
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], {
    input: `${text}\n`,
    encoding: 'utf8',
  })
  assert.equal(status, 0, `${stdout}${stderr}`)
  assert.ok(text.includes('sluice_request_errors_total{direction="outbound",cause="timeout"} 1'), text)
})

test('whatever the traffic brings, the number of series is bounded', async () => {
  const { metrics, serve } = busy()
  for (let i = 0; i < 1000; i++) serve(`rule ${i}`)
  const series = (await metrics.registry.metrics())
    .split('\n')
    .filter((line) => line.startsWith('sluice_rule_decisions_total{'))
  assert.equal(series.length, 201)
  assert.ok(series.some((line) => line.includes(OVERFLOW) && line.endsWith(' 800')))
})

test('docs/metrics.md lists the metrics there are, and no others', async () => {
  const { metrics } = busy()
  const documented = [
    ...readFileSync('docs/metrics.md', 'utf8').matchAll(/^\| `(sluice_\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$/gm),
  ]
  const listed = documented.map(([, name, type, labels, help]) => ({ name, type, labels: labels?.trim(), help }))
  const real = metrics.registry
    .getMetricsAsArray()
    .filter(({ name }) => name.startsWith('sluice_'))
    .map((metric) => {
      const about = metric as unknown as { name: string; help: string; labelNames: string[] }
      const labels = about.labelNames.map((label) => `\`${label}\``).join(', ')
      return { name: about.name, type: metric.constructor.name.toLowerCase(), labels, help: about.help }
    })
  const others = listed.filter(
    ({ name }) =>
      !real.some((metric) => metric.name === name) &&
      !/^sluice_(tls_handshakes_active|certificate|command|discovery|balancer|callback)/.test(name ?? ''),
  )
  assert.deepEqual(others, [])
  for (const metric of real)
    assert.deepEqual(
      listed.find(({ name }) => name === metric.name),
      metric,
    )
})

test('the dashboard and the alert rules ask only for metrics that exist', async () => {
  const { metrics, serve } = busy()
  serve('a rule')
  const documented = [...readFileSync('docs/metrics.md', 'utf8').matchAll(/`(sluice_\w+)`/g)].map(([, name]) => name!)
  const exposed = [...(await metrics.registry.metrics()).matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name!)
  const known = new Set([...documented, ...exposed])
  for (const file of ['docs/grafana-dashboard.json', 'docs/alerts.yaml']) {
    const asked = new Set(readFileSync(file, 'utf8').match(/\b(?:sluice|process|nodejs)_\w+/g))
    assert.ok(asked.size > 5)
    for (const name of asked) assert.ok(known.has(name.replace(/_bucket$/, '')), `${file} asks for ${name}`)
  }
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'rules', 'docs/alerts.yaml'], { encoding: 'utf8' })
  assert.equal(status, 0, `${stdout}${stderr}`)
})
