import { readFileSync } from 'node:fs'
import { test } from 'tap'
import { countDiscovery, keepDiscovery } from '../../src/admin/liveDiscovery.ts'
import type { Resolution } from '../../src/net/endpoint.ts'
import { createMetrics } from '../../src/telemetry/metrics.ts'
import type { Numbers } from '../../src/telemetry/registry.ts'
import { shortly } from '../support/fakeSource.ts'
import { manualClock } from '../support/manualClock.ts'
import { policyOf } from '../support/world.ts'

const sectionsOf = (text: string) => policyOf(text).sections

const withOrders = (address: string) =>
  sectionsOf(`discovery: { sources: [{ static: { orders: ["${address}"] } }], search: [farm.] }`)

const kept = (sections = sectionsOf('')) => keepDiscovery(sections, manualClock(), () => 0.5, { warn: () => {} })

test('discovery comes with the first source in the policy, changes with it, and goes with the last', async (t) => {
  const discovery = await kept()
  t.equal(discovery.current(), undefined)
  ;(await discovery.prepare(withOrders('10.0.0.1:80')))()
  const said: Resolution[] = []
  discovery.current()?.watch({ host: 'orders', port: 80 }, (it) => said.push(it))
  const use = await discovery.prepare(withOrders('10.0.0.2:80'))
  t.equal(shortly(said.at(-1)), 'orders. 10.0.0.1:80', 'a policy that is only prepared does not count')
  use()
  t.equal(shortly(said.at(-1)), 'orders. 10.0.0.2:80')
  const same = discovery.current()
  ;(await discovery.prepare(withOrders('10.0.0.2:80')))()
  t.equal(said.length, 2, 'the same section again changes nothing')
  t.equal(discovery.current(), same)
  ;(await discovery.prepare(sectionsOf('')))()
  t.equal(discovery.current(), undefined)
})

test('what discovery does is counted, as the documentation says', async (t) => {
  const discovery = await kept(withOrders('10.0.0.1:80'))
  const metrics = createMetrics('1.0.0')
  countDiscovery(metrics, discovery)
  discovery.current()?.watch({ host: 'orders', port: 80 }, () => {})
  discovery.current()?.watch({ host: 'orders', port: 80 }, () => {})
  discovery.current()?.watch({ host: 'others', port: 80 }, () => {})
  const text = await metrics.registry.metrics()
  for (const line of [
    'sluice_discovery_lookups_total{source="static",result="endpoints"} 1',
    'sluice_discovery_lookups_total{source="static",result="absent"} 1',
    'sluice_discovery_names 2',
    'sluice_discovery_watches 3',
    'sluice_discovery_stale_names 0',
    'sluice_discovery_reconnects_total 0',
  ])
    t.ok(text.split('\n').includes(line), line)
  const documented = readFileSync('docs/metrics.md', 'utf8')
  for (const metric of metrics.registry.getMetricsAsArray().filter(({ name }) => name.startsWith('sluice_discovery'))) {
    const { name, help, type, labelNames } = metric as Numbers
    const labels = labelNames.map((label) => `\`${label}\``).join(', ')
    t.ok(documented.includes(`| \`${name}\` | ${type} | ${labels} | ${help} |`), name)
  }
})
