import { formatAddress } from '../net/address.ts'
import type { Policy } from '../policy/policy.ts'
import type { Ledger } from '../telemetry/ledger.ts'
import type { Life } from '../telemetry/life.ts'
import type { Log, LogLevel } from '../telemetry/log.ts'
import { redactedValue } from '../telemetry/redact.ts'
import type { MetricsRegistry } from '../telemetry/registry.ts'
import { type AdminRoutes, json, text, type WholeAnswer } from './server.ts'

/** What the routes look at. All of it is alive: each request sees the present. */
export interface AdminWorld {
  readonly ledger: Ledger
  readonly policy: () => Policy
  readonly registry: MetricsRegistry
  readonly log: Log
  readonly now: () => number
  /** What still keeps the proxy from serving, in words; empty when it is ready. */
  readonly notReady: () => readonly string[]
  /** Begins an orderly stop; absent unless the configuration allows it. */
  readonly shutdown?: (() => void) | undefined
}

const LEVELS: readonly string[] = ['debug', 'info', 'warn', 'error', 'silent'] satisfies LogLevel[]

/** Health, metrics and the present state, for programs and for people with curl. */
export const adminRoutes = (world: AdminWorld): AdminRoutes => ({
  'GET /live': () => text(200, 'live\n'),
  'GET /ready': () => {
    const reasons = world.notReady()
    return reasons.length === 0 ? text(200, 'ready\n') : text(503, `not ready: ${reasons.join('; ')}\n`)
  },
  'GET /metrics': async ({ message }) => {
    await world.ledger.look()
    return exposition(world.registry, message.headers.accept ?? '')
  },
  'GET /connections': async () => {
    await world.ledger.look()
    return json(
      200,
      [...world.ledger.open].map((life) => present(life, world.now())),
    )
  },
  'GET /config': () => json(200, effective(world.policy())),
  'GET /log-level': () => text(200, `${world.log.level}\n`),
  'PUT /log-level': async ({ body }) => {
    const level = (await body()).trim()
    if (!LEVELS.includes(level)) return text(400, `'${level.slice(0, 50)}' is not one of ${LEVELS.join(', ')}\n`)
    world.log.level = level as LogLevel
    return text(200, `${level}\n`)
  },
  'POST /shutdown': () => {
    if (world.shutdown === undefined) return text(404, 'admin.shutdown is not switched on in the configuration\n')
    world.shutdown()
    return text(202, 'stopping\n')
  },
})

const exposition = async (registry: MetricsRegistry, accept: string): Promise<WholeAnswer> => {
  const body = await registry.metrics()
  const isOpen = accept.includes('application/openmetrics-text')
  return { status: 200, type: isOpen ? OPEN_METRICS : PROMETHEUS, body: isOpen ? openMetrics(body) : body }
}

const PROMETHEUS = 'text/plain; version=0.0.4; charset=utf-8'
const OPEN_METRICS = 'application/openmetrics-text; version=1.0.0; charset=utf-8'

/**
 * The same as OpenMetrics, in which a counter's family has no `_total` and the end is marked. prom-client's own way
 * takes the `_total` from its counters for good (15.1.3), so that plain scrapes after it see other names.
 */
const openMetrics = (text: string): string => {
  const counters = new Set(Array.from(text.matchAll(/^# TYPE (\S+)_total counter$/gm), ([, family]) => family))
  const families = text.replace(/^# (HELP|TYPE) (\S+)_total /gm, (line, kind, family) =>
    counters.has(family) ? `# ${kind} ${family} ` : line,
  )
  return `${families.replace(/\n{2,}/g, '\n').trimEnd()}\n# EOF\n`
}

/** An open connection as JSON. */
const present = (life: Life, now: number): object => {
  const { peer, destination, upstream, ...facts } = life.facts()
  return {
    ...facts,
    peer: formatAddress(peer),
    destination: formatAddress(destination),
    ...(upstream && { upstream: formatAddress(upstream) }),
    bytes: life.count,
    ms: Math.round(now - life.started),
  }
}

/** The policy in force: sections as they are filled in, every default with where it came from, the rules in order. */
const effective = ({ sections, base, rules }: Policy): object => ({
  sections: redactedValue(sections),
  defaults: Object.fromEntries(
    Object.entries(base).map(([aspect, decision]) => [
      aspect,
      decision.is === 'decided' ? { value: redactedValue(decision.value), from: decision.by } : { waits: decision.for },
    ]),
  ),
  rules: rules.map(({ ref, tests, says }) => ({
    ...ref,
    when: redactedValue(Object.fromEntries(tests.map(({ condition, written }) => [condition, written]))),
    decides: Object.fromEntries(says.map(({ aspect, value }) => [aspect, redactedValue(value)])),
  })),
})
