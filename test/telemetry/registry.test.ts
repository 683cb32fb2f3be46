import fc from 'fast-check'
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import { test } from 'tap'
import { createMetrics } from '../../src/telemetry/metrics.ts'
import { MetricsRegistry, Numbers } from '../../src/telemetry/registry.ts'

const label = fc.constantFrom('a', 'b', 'a "b"', 'c\\d', 'e\nf', '')
const step = fc.oneof(
  fc.record({ is: fc.constant('inc' as const), x: label, y: label, by: fc.nat(1000) }),
  fc.record({ is: fc.constant('set' as const), x: label, y: label, by: fc.double({ noNaN: true }) }),
  fc.record({ is: fc.constant('reset' as const) }),
)

test('what is counted reads as prom-client would write it', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
      const theirs = new Registry()
      const ours = new MetricsRegistry()
      const about = { name: 'sluice_things_total', help: 'Things\nof "kinds" \\.', labelNames: ['x', 'y'] }
      const plain = { name: 'sluice_plain', help: 'Without labels.', labelNames: [] }
      const counters = [new Counter({ ...about, registers: [theirs] }), new Numbers('counter', about)] as const
      const gauges = [
        new Gauge({ ...plain, registers: [theirs] }),
        new Numbers('gauge', plain, () => {}),
        // As the library registers its own in ours.
        new Gauge({ ...about, name: 'sluice_other', registers: [theirs, ours as unknown as Registry] }),
      ] as const
      new Histogram({ name: 'sluice_seconds', help: 'h', registers: [theirs, ours as unknown as Registry] }).observe(
        0.2,
      )
      for (const it of steps) {
        if (it.is === 'inc') for (const counter of counters) (counter as Numbers).inc({ y: it.y, x: it.x }, it.by)
        else if (it.is === 'set') for (const gauge of gauges.slice(0, 2)) gauge?.set(it.by)
        else for (const each of [...counters, ...gauges]) each.reset()
        if (it.is === 'set') gauges[2].set({ x: it.x, y: it.y }, it.by)
      }
      const all = new MetricsRegistry(async () => [counters[1], gauges[1], ...ours.getMetricsAsArray()])
      t.equal(await all.metrics(), await theirs.metrics())
    }),
    { numRuns: 200 },
  )
})

test('what is known of the process comes first, from the first scrape on, and each name once', async (t) => {
  const { registry, counter } = createMetrics('1.2.3')
  counter('things_total', { help: 'Things.', labels: [] }).inc()
  const text = await registry.metrics()
  t.ok(text.indexOf('process_start_time_seconds') < text.indexOf('sluice_build_info{version="1.2.3"} 1'))
  t.match(text, /^nodejs_version_info/m)
  t.match(await registry.metrics(), /^sluice_things_total 1$/m)
  t.throws(() => counter('things_total', { help: 'Again.', labels: [] }), /already/)
})
