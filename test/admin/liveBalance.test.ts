import { readFileSync } from 'node:fs'
import { test } from 'tap'
import { balanceRoutes, countBalance, tellBalance } from '../../src/admin/liveBalance.ts'
import type { WholeAnswer } from '../../src/admin/server.ts'
import type { Use } from '../../src/balance/use.ts'
import { Balancers } from '../../src/forward/balancers.ts'
import { balancingOf } from '../../src/forward/balancing.ts'
import { endpointsText, type NameRow } from '../../src/telemetry/endpointsText.ts'
import { createMetrics } from '../../src/telemetry/metrics.ts'
import type { Numbers } from '../../src/telemetry/registry.ts'
import { endpoint } from '../support/balance.ts'
import { toldDiscovery } from '../support/discovery.ts'
import { manualClock } from '../support/manualClock.ts'
import { policyOf } from '../support/world.ts'

/** A name with two endpoints, the first of which cannot be reached, and all that was told of it. */
const scene = () => {
  const clock = manualClock()
  const balancers = new Balancers(
    clock,
    () => 0,
    () => {},
  )
  const metrics = createMetrics('1.0.0')
  const log: string[] = []
  countBalance(metrics, balancers)
  balancers.subscribe(tellBalance({ info: (text) => log.push(text), warn: (text) => log.push(text) }))
  const names = toldDiscovery()
  names.at('orders:80', endpoint(1, { zone: 'a', labels: { pod: 'orders-1' } }), endpoint(2, { weight: 3 }))
  const policy = policyOf('defaults: { balance: { algorithm: roundRobin } }')
  const orders = balancers.ofName({ host: 'orders', port: 80 }, balancingOf(policy.base), names)!
  const others = balancers.ofName({ host: 'orders2', port: 80 }, balancingOf(policy.base), names)!
  const uses: Use[] = []
  const take = (of = orders) =>
    of.take({ hash: undefined, tried: [] }, { taken: (use) => uses.push(use), refused: () => {} })
  const ask = async (query: string): Promise<WholeAnswer> =>
    (await balanceRoutes(balancers, clock)['GET /endpoints']!({
      url: new URL(`http://x/endpoints${query}`),
    } as never)) as WholeAnswer
  return { clock, metrics, log, names, others, uses, take, ask }
}

const bodyOf = (answer: WholeAnswer): string => String(answer.body)

test('names, their endpoints and their circuits are shown, told and counted', async (t) => {
  const { clock, metrics, log, names, others, uses, take, ask } = scene()
  for (let i = 0; i < 4; i++) take()
  for (const use of uses) if (use.member.endpoint.weight === 1) use.unreachable()
  take(others)
  clock.advance(50)
  const [orders, ...more] = JSON.parse(bodyOf(await ask('?name=orders'))) as NameRow[]
  t.equal(more.length, 0, 'orders2 is another name')
  t.match(orders, {
    asked: 'orders:80',
    name: 'orders.farm.svc.cluster.local.',
    source: 'told',
    isStale: false,
    endpoints: [
      { address: '10.0.0.1:80', zone: 'a', inFlight: 0, failed: 1, state: 'resting', because: 'connect', leftMs: 50 },
      { address: '10.0.0.2:80', weight: 3, inFlight: 3, chosen: 3, latencyMs: 29.85, state: 'ready' },
    ],
  })
  t.equal(
    bodyOf(await ask('?as=text&name=orders')),
    [
      'orders:80 is orders.farm.svc.cluster.local., from told; balanced by roundRobin',
      '  10.0.0.1:80, weight 1, latency 29.9 ms, 0 under way, 1 chosen, 1 failed, left alone for 0.1 s: it cannot be connected to, zone a, pod=orders-1',
      '  10.0.0.2:80, weight 3, latency 29.9 ms, 3 under way, 3 chosen, 0 failed, ready',
      '',
    ].join('\n'),
  )
  names.absent('orders2:80')
  clock.advance(3_000)
  t.match(
    bodyOf(await ask('?as=text&name=orders2')),
    /^orders2:80, from told; there is no such name; tried orders2:80\.; /,
  )
  t.match(bodyOf(await ask('?as=text&name=orders2')), /failing fast/)
  take()
  t.same(log, [
    'orders:80: 10.0.0.1:80 is left alone: connect',
    'orders2:80: no endpoint was ready for too long; requests fail fast until one is',
  ])
  const text = await metrics.registry.metrics()
  for (const line of [
    'sluice_balancer_names 2',
    'sluice_balancer_endpoints{name="orders:80",state="ready"} 1',
    'sluice_balancer_waiting 0',
    'sluice_balancer_failing_fast 1',
    'sluice_balancer_circuit_changes_total{name="orders:80",to="resting",because="connect"} 1',
    'sluice_balancer_failfast_total{name="orders2:80"} 1',
    'sluice_balancer_refused_total{why="failfast"} 1',
  ])
    t.ok(text.split('\n').includes(line), line)
  const documented = readFileSync('docs/metrics.md', 'utf8')
  for (const metric of metrics.registry.getMetricsAsArray().filter(({ name }) => name.startsWith('sluice_balancer'))) {
    const { name, help, type, labelNames } = metric as Numbers
    const labels = labelNames.map((label) => `\`${label}\``).join(', ')
    t.ok(documented.includes(`| \`${name}\` | ${type} | ${labels} | ${help} |`), name)
  }
})

test('what is not known is said', async (t) => {
  t.equal(endpointsText([]), 'no name is in use\n')
  const row: NameRow = {
    asked: 'x:80',
    algorithm: 'p2c',
    source: 'dns',
    isStale: true,
    isFailfast: false,
    waiting: 2,
    endpoints: [],
  }
  t.equal(
    endpointsText([row]),
    'x:80, from dns; which cannot be reached: this is the last it said; balanced by p2c; 2 wait for an endpoint\n',
  )
})
