import type { Registry } from 'prom-client'
import type { Direction } from '../net/connection.ts'
import { labelBudget } from './labelBudget.ts'
import { type Alike, type Ledger, merely } from './ledger.ts'
import type { Outcome, RequestOutcome } from './outcome.ts'
import { type Metric, MetricsRegistry, Numbers } from './registry.ts'
import { createTally, type Series } from './tally.ts'

/** One metric: its name without the prefix, its labels, and what it says. `docs/metrics.md` is checked against it. */
interface About {
  readonly help: string
  readonly labels: readonly string[]
}

const RULES_MAX = 200 // more rules than that share a series; each costs memory here and in whatever scrapes us
const CODES_MAX = 100
const PORTS_MAX = 500 // ports of tasks with series of their own: three results and five classes each

/** 100 us to 100 s: from a connection on loopback to a person's patience. */
const SECONDS = [0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 100]
/** Connections live from an instant to a day. */
const LIFETIMES = [0.01, 0.1, 1, 10, 60, 300, 3600, 86_400]

/** The numbers of one process, fed from its ledger and read by whoever scrapes. */
export interface Metrics {
  readonly registry: MetricsRegistry
  /** With `collect`, its values are put together anew at each scrape; `before` is called before they are read. */
  readonly counter: (
    name: string,
    about: About & { readonly collect?: (counter: Numbers) => void; readonly before?: () => void },
  ) => Numbers
  readonly gauge: (name: string, about: About & { readonly collect?: (gauge: Numbers) => void }) => Numbers
}

/** A registry whose names all begin with `sluice_`, beside the process's own `process_` and `nodejs_` metrics. */
export const createMetrics = (version: string): Metrics => {
  const registry = new MetricsRegistry(ofTheProcess)
  const registered = (numbers: Numbers): Numbers => {
    registry.registerMetric(numbers)
    return numbers
  }
  const common = (name: string, { help, labels }: About) => ({ name: `sluice_${name}`, help, labelNames: labels })
  const metrics: Metrics = {
    registry,
    counter: (name, { collect, before, ...about }) => {
      const collecting = (counter: Numbers): void => {
        before?.()
        if (collect === undefined) return
        counter.reset()
        collect(counter)
      }
      return registered(new Numbers('counter', common(name, about), collecting))
    },
    gauge: (name, { collect, ...about }) => registered(new Numbers('gauge', common(name, about), collect)),
  }
  metrics
    .gauge('build_info', { help: 'The version that runs; the value is always 1.', labels: ['version'] })
    .set({ version }, 1)
  return metrics
}

/** prom-client's own, of the process and of Node. What they count begins here, with the first scrape. */
const ofTheProcess = async (): Promise<readonly Metric[]> => {
  const { collectDefaultMetrics } = await import('prom-client')
  const registry = new MetricsRegistry()
  collectDefaultMetrics({ register: registry as unknown as Registry })
  return registry.getMetricsAsArray()
}

/** Counts every connection of a ledger: open ones as they are, ended ones by their Outcome. */
export const countConnections = (metrics: Metrics, ledger: Ledger): void => {
  const rule = labelBudget(RULES_MAX)
  const code = labelBudget(CODES_MAX)
  // Of connections that are alike there may be many a millisecond: they go into the counters when these are read.
  const waiting = new Map<Alike, number>()
  const before = (): void => {
    for (const [alike, times] of waiting) add(alike, times)
    waiting.clear()
  }
  const ended = metrics.counter('connections_total', {
    help: 'Connections that have ended, by what became of them and how they ended.',
    labels: ['direction', 'result', 'ended'],
    before,
  })
  metrics.gauge('connections_open', {
    help: 'Connections open now.',
    labels: ['direction'],
    collect: (gauge) => {
      for (const [direction, { open }] of Object.entries(ledger.totals())) gauge.set({ direction }, open)
    },
  })
  const lifetimes = seriesBy(metrics, 'connection_duration_seconds', 'From accept to end.', ['direction'], LIFETIMES)
  const lifetime = { inbound: lifetimes({ direction: 'inbound' }), outbound: lifetimes({ direction: 'outbound' }) }
  const detections = metrics.counter('detections_total', {
    help: 'What connections were found to speak; for opaque ones the reason.',
    labels: ['direction', 'protocol', 'reason'],
    before,
  })
  const detectings = seriesBy(metrics, 'detection_duration_seconds', 'From accept until the protocol was certain.', [
    'direction',
  ])
  const detecting = { inbound: detectings({ direction: 'inbound' }), outbound: detectings({ direction: 'outbound' }) }
  const errors = metrics.counter('connection_errors_total', {
    help: 'Connections that were refused or failed, by the code in their log line; limits that were hit are among them.',
    labels: ['direction', 'code'],
    before,
  })
  const decisions = metrics.counter('rule_decisions_total', {
    help: 'How often a rule of the policy decided an aspect of a connection.',
    labels: ['rule', 'aspect'],
    before,
  })
  const handshakes = metrics.counter('tls_handshakes_total', {
    help: 'Handshakes with clients that ended here, by result: full, resumed or failed; connection_errors_total says why.',
    labels: ['direction', 'result'],
  })
  countBytes(metrics, ledger)
  const add = ({ direction, protocols, reason = '', rules, result, ended: how, error }: Alike, times: number) => {
    ended.inc({ direction, result, ended: how }, times)
    for (const protocol of protocols)
      detections.inc({ direction, protocol, reason: protocol === 'opaque' ? reason : '' }, times)
    if (error) errors.inc({ direction, code: code(error.code) }, times)
    for (const [aspect, { name, line }] of Object.entries(rules)) {
      if (line > 0) decisions.inc({ rule: rule(name), aspect }, times)
    }
  }
  ledger.subscribe((outcome) => {
    const { direction, detected, ms } = outcome
    if (outcome.tls) handshakes.inc({ direction, result: outcome.tls.resumed ? 'resumed' : 'full' })
    else if (outcome.ended === 'tlsFailed') handshakes.inc({ direction, result: 'failed' })
    lifetime[direction].observe(ms / 1000)
    if (detected) detecting[direction].observe(detected.ms / 1000)
    add(outcome, 1)
  }, merely)
  ledger.subscribeCounts((alike, ms) => {
    const { direction } = alike
    lifetime[direction].observe(ms / 1000)
    detecting[direction].observe(0)
    waiting.set(alike, (waiting.get(alike) ?? 0) + 1)
  })
}

/** What is counted of the requests that are alike. Read at each scrape; prom-client is too slow for each request. */
interface AlikeRequests {
  readonly labels: { readonly direction: Direction; readonly version: string; readonly class: string }
  readonly duration: Series
  readonly waiting: Series
  requests: number
}

/** How often a rule decided an aspect of requests; read at each scrape, too. */
interface Decided {
  readonly labels: { readonly rule: string; readonly aspect: string }
  times: number
}

const VERSIONS: readonly string[] = ['1.0', '1.1', '2']

/** Counts every HTTP request by its Outcome. */
export const countRequests = (metrics: Metrics, ledger: Ledger): void => {
  const rule = labelBudget(RULES_MAX)
  const cause = labelBudget(CODES_MAX)
  const kinds: AlikeRequests[] = []
  const byStatus: Partial<Record<Direction, (AlikeRequests | undefined)[]>> = {}
  const bytes = { inbound: { sent: 0, received: 0 }, outbound: { sent: 0, received: 0 } }
  const duration = seriesBy(
    metrics,
    'request_duration_seconds',
    'From the head of the request until the answer was complete.',
    ['direction', 'class'],
  )
  const waiting = seriesBy(
    metrics,
    'request_head_seconds',
    'From the head of the request until the head of the answer.',
    ['direction'],
  )
  const alike = (direction: Direction, version: string, status: number): AlikeRequests => {
    const group = Math.floor(status / 100)
    const known = (byStatus[direction] ??= [])
    const place = group * VERSIONS.length + VERSIONS.indexOf(version)
    const found = known[place]
    if (found !== undefined) return found
    const labels = { direction, version, class: `${group}xx` }
    const series = { duration: duration({ direction, class: labels.class }), waiting: waiting({ direction }) }
    const fresh: AlikeRequests = { labels, ...series, requests: 0 }
    kinds.push(fresh)
    known[place] = fresh
    return fresh
  }
  const retries = metrics.counter('request_retries_total', {
    help: 'Attempts beyond the first.',
    labels: ['direction'],
  })
  const errors = metrics.counter('request_errors_total', {
    help: 'Requests that Sluice answered itself or that broke off, by the cause in their log line.',
    labels: ['direction', 'cause'],
  })
  metrics.counter('requests_total', {
    help: 'HTTP requests, by the class of the status the client was told; class 0xx was told nothing.',
    labels: ['direction', 'version', 'class'],
    collect: (counter) => {
      for (const { labels, requests } of kinds) counter.inc(labels, requests)
    },
  })
  metrics.counter('request_bytes_total', {
    help: 'Bytes of bodies: sent is those of requests, received those of answers.',
    labels: ['direction', 'way'],
    collect: (counter) => {
      for (const direction of ['inbound', 'outbound'] as const)
        for (const way of ['sent', 'received'] as const) counter.inc({ direction, way }, bytes[direction][way])
    },
  })
  const decided = new Map<string, Decided>()
  // Requests that no rule tells apart have one and the same record of rules.
  const known = new WeakMap<object, readonly Decided[]>()
  const decidedIn = (rules: RequestOutcome['rules']): readonly Decided[] => {
    const all = Object.entries(rules).flatMap(([aspect, { name, line }]) => {
      if (line <= 0) return []
      const labels = { rule: rule(name), aspect }
      const key = `${aspect} ${labels.rule}`
      const found = decided.get(key) ?? { labels, times: 0 }
      decided.set(key, found)
      return found
    })
    known.set(rules, all)
    return all
  }
  metrics.counter('request_rule_decisions_total', {
    help: 'How often a rule of the policy decided an aspect of a request.',
    labels: ['rule', 'aspect'],
    collect: (counter) => {
      for (const { labels, times } of decided.values()) counter.inc(labels, times)
    },
  })
  ledger.subscribeRequests((request, { direction }) => {
    const { status, version, ms, headMs, attempts, error, rules } = request
    const kind = alike(direction, version, status)
    kind.requests += 1
    kind.duration.observe(ms / 1000)
    if (headMs !== undefined) kind.waiting.observe(headMs / 1000)
    if (attempts > 1) retries.inc({ direction }, attempts - 1)
    if (error !== undefined) errors.inc({ direction, cause: cause(error) })
    bytes[direction].sent += request.bytes.sent
    bytes[direction].received += request.bytes.received
    for (const each of known.get(rules) ?? decidedIn(rules)) each.times += 1
  })
}

/** Series of one histogram, each made once. */
const seriesBy = (
  { registry }: Metrics,
  name: string,
  help: string,
  labelNames: readonly string[],
  buckets: readonly number[] = SECONDS,
) => {
  const tally = createTally(registry, `sluice_${name}`, help, labelNames, buckets)
  const known = new Map<string, Series>()
  return (labels: Readonly<Record<string, string>>): Series => {
    const key = Object.values(labels).join(' ')
    const found = known.get(key) ?? tally.series(labels)
    known.set(key, found)
    return found
  }
}

/** Counts what came to exposed ports, by task and port: both from the configuration, and bounded all the same. */
export const countExposed = (metrics: Metrics, ledger: Ledger): void => {
  const place = labelBudget(PORTS_MAX)
  const labelsOf = ({ task, port }: NonNullable<Outcome['exposed']>) => {
    const [number = '', known = ''] = place(`${port} ${task}`).split(/ (.*)/s)
    return known === '' ? { task: number, port: number } : { task: known, port: number }
  }
  const connections = metrics.counter('exposed_connections_total', {
    help: 'Connections to exposed ports that have ended, by what became of them.',
    labels: ['task', 'port', 'result'],
  })
  const bytes = metrics.counter('exposed_bytes_total', {
    help: 'Payload bytes of connections to exposed ports that have ended: sent is from the client to the connector.',
    labels: ['task', 'port', 'way'],
  })
  const requests = metrics.counter('exposed_requests_total', {
    help: 'HTTP requests to exposed ports, by the class of the status, and the cause where Sluice answered itself.',
    labels: ['task', 'port', 'class', 'cause'],
  })
  ledger.subscribe(({ exposed, result, bytes: count }) => {
    if (exposed === undefined) return
    const labels = labelsOf(exposed)
    connections.inc({ ...labels, result })
    bytes.inc({ ...labels, way: 'sent' }, count.sent)
    bytes.inc({ ...labels, way: 'received' }, count.received)
  }, merely)
  ledger.subscribeRequests(({ status, error = '' }, { exposed }) => {
    if (exposed === undefined) return
    requests.inc({ ...labelsOf(exposed), class: `${Math.floor(status / 100)}xx`, cause: error })
  })
}

/** A connection may live for days: its bytes count while it is open, and not only in the moment it ends. */
const countBytes = (metrics: Metrics, ledger: Ledger): void => {
  const past = { inbound: { sent: 0, received: 0 }, outbound: { sent: 0, received: 0 } }
  const most = { inbound: { sent: 0, received: 0 }, outbound: { sent: 0, received: 0 } }
  const ended = (direction: Direction, { sent, received }: Outcome['bytes']) => {
    past[direction].sent += sent
    past[direction].received += received
  }
  ledger.subscribe(({ direction, bytes }) => ended(direction, bytes), merely)
  ledger.subscribeCounts(({ direction }, _ms, bytes) => ended(direction, bytes))
  metrics.counter('connection_bytes_total', {
    help: 'Bytes on connections of clients, inside TLS that ends here: sent is what came from them, received what went to them.',
    labels: ['direction', 'way'],
    collect: (counter) => {
      const open = ledger.totals()
      for (const direction of ['inbound', 'outbound'] as const) {
        for (const way of ['sent', 'received'] as const) {
          // Threads are not asked in one moment: what has ended since would count twice, and then once again.
          most[direction][way] = Math.max(most[direction][way], past[direction][way] + open[direction][way])
          counter.inc({ direction, way }, most[direction][way])
        }
      }
    },
  })
}
