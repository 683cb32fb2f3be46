import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Readable } from 'node:stream'
import { test } from 'tap'
import { countProcess } from '../../src/admin/liveMetrics.ts'
import { adminRoutes } from '../../src/admin/routes.ts'
import { startAdmin } from '../../src/admin/server.ts'
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
  return { ledger, metrics, serve }
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
  const ours = metrics.registry.getMetricsAsArray().filter(({ name }) => name.startsWith('sluice_'))
  const real = await Promise.all(
    ours.map(async (metric) => {
      const { name, help, type } = await metric.get()
      return { name, type, labels: metric.labelNames.map((label) => `\`${label}\``).join(', '), help }
    }),
  )
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

test('a real Prometheus scrapes it, takes every alert rule, and every question of the dashboard', {
  timeout: 60_000,
}, async (t) => {
  const { ledger, metrics, serve } = busy()
  serve('a rule')
  const routes = adminRoutes({ ledger, registry: metrics.registry } as Parameters<typeof adminRoutes>[0])
  const admin = await startAdmin({ address: { host: '127.0.0.1', port: 0 }, routes })
  const target = `127.0.0.1:${admin.address.port}`
  const directory = t.testdir({
    'alerts.yaml': readFileSync('docs/alerts.yaml', 'utf8'),
    'prometheus.yml': `global: { scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms }
rule_files: [alerts.yaml]
scrape_configs: [{ job_name: sluice, static_configs: [{ targets: ["${target}"] }] }]
`,
  })
  const flags = [`--config.file=${directory}/prometheus.yml`, `--storage.tsdb.path=${directory}/data`]
  const prometheus = spawn('prometheus', [...flags, '--web.listen-address=127.0.0.1:0'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  t.teardown(async () => {
    admin.close()
    prometheus.kill('SIGKILL')
    await once(prometheus, 'close')
  })
  const at = await said(prometheus.stderr, /msg="Listening on" address=(\S+)/, /ready to receive/)
  const ask = async (path: string) => {
    const answer = await fetch(`http://${at}/api/v1/${path}`)
    return (await answer.json()) as { status: string; error?: string; data: never }
  }
  const query = (expression: string) => ask(`query?query=${encodeURIComponent(expression)}`)
  /** Asks until an answer is as it should be: the deadline is that of the test. */
  const until = async <T>(path: string, good: (data: T) => boolean): Promise<T> => {
    for (;;) {
      const { data } = await ask(path)
      if (good(data)) return data
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
  const found = await until<{ result: { value: [number, string] }[] }>(
    `query?query=${encodeURIComponent('sum(sluice_connections_total)')}`,
    ({ result }) => result.length === 1,
  )
  assert.equal(found.result[0]?.value[1], '1')
  const { activeTargets } = await until<{ activeTargets: { health: string; lastError: string }[] }>(
    'targets',
    ({ activeTargets: all }) => all[0]?.health === 'up',
  )
  assert.equal(activeTargets[0]?.lastError, '')
  const { groups } = await until<{ groups: { rules: { name: string; health: string; lastError?: string }[] }[] }>(
    'rules',
    (data) => data.groups.every(({ rules }) => rules.every(({ health }) => health !== 'unknown')),
  )
  assert.deepEqual(
    groups.flatMap(({ rules }) => rules).filter(({ health }) => health !== 'ok'),
    [],
  )
  const dashboard = JSON.parse(readFileSync('docs/grafana-dashboard.json', 'utf8'))
  const asked: string[] = dashboard.panels.flatMap((panel: { targets: { expr: string }[] }) =>
    panel.targets.map(({ expr }) => expr),
  )
  assert.ok(asked.length > 15)
  for (const expression of asked) {
    const plain = expression.replaceAll('$__rate_interval', '1m').replaceAll(/\$(job|instance)\b/g, '.*')
    const { status, error } = await query(plain)
    assert.equal(status, 'success', `${plain}: ${error}`)
  }
})

/** Waits until both of these were said; gives what the first one caught. What comes later is still read. */
const said = (from: Readable, what: RegExp, then: RegExp): Promise<string> =>
  new Promise((resolve, reject) => {
    let text = ''
    from.on('data', (chunk) => {
      text += chunk
      const found = what.exec(text)?.[1]
      if (found !== undefined && then.test(text)) resolve(found)
    })
    from.on('end', () => reject(new Error(`it ended without having said so:\n${text}`)))
  })
