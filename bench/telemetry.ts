import { areWatched, trialsOf } from '../src/forward/trials.ts'
import { systemClock } from '../src/net/clock.ts'
import { parsePolicy } from '../src/policy/parsePolicy.ts'
import { createLedger, type Ledger } from '../src/telemetry/ledger.ts'
import { createLog, type LogFormat } from '../src/telemetry/log.ts'
import { countConnections, countRequests, createMetrics } from '../src/telemetry/metrics.ts'
import type { Outcome, RequestOutcome } from '../src/telemetry/outcome.ts'
import { createPulse } from '../src/telemetry/pulse.ts'
import { feed } from '../src/telemetry/stream.ts'
import { openTraces } from '../src/telemetry/traces.ts'
import type { Contender, Start } from './contender.ts'
import type { Suite } from './rounds.ts'

const at = (host: string, port: number) => ({ host, port })
const RULE = { name: 'orders', file: 'policy.yaml', line: 7 }
const FIELDS = ['host', 'orders.example', 'user-agent', 'bench/1.0', 'accept', '*/*']

const REQUEST: RequestOutcome = {
  method: 'GET',
  authority: 'orders.example',
  target: '/orders/4711?page=2&token=secret',
  version: '1.1',
  status: 200,
  upstream: at('10.0.0.5', 80),
  attempts: 1,
  bytes: { sent: 0, received: 512 },
  ms: 3.2,
  headMs: 3.1,
  rules: { 'http.timeout': RULE },
  userAgent: 'bench/1.0',
}

const POLICY = parsePolicy([
  {
    path: 'policy.yaml',
    text: 'apiVersion: sluice/v1\nrules: [{ name: orders, when: { path: /orders/** }, then: { http: { timeout: 10s } } }]',
  },
])
const CANDIDATE = parsePolicy([
  {
    path: 'candidate.yaml',
    text: 'apiVersion: sluice/v1\nrules: [{ name: orders, when: { path: /orders/** }, then: { http: { timeout: 5s } } }]',
  },
])

/** What happens with one request; the rest of what a part of telemetry needs is made once. */
type Work = (ledger: Ledger) => Promise<((i: number) => void) | undefined>

const logged =
  (format: LogFormat): Work =>
  async (ledger) => {
    // As the real one does, lines are put together; only the system call is missing.
    let held = ''
    const write = (_: number, line: string) => {
      held += line
      if (held.length > 65_536) held = ''
    }
    const log = createLog({ format, level: 'info', write })
    ledger.subscribeRequests((request, life) => log.request(request, life, systemClock.time()))
    return undefined
  }

const traced =
  (ratio: number): Work =>
  async () => {
    // Nobody listens there: the queue is full soon, and what is measured is what a request waits for.
    const traces = await openTraces({
      endpoint: 'http://127.0.0.1:9',
      protocol: 'http/protobuf',
      serviceName: 'bench',
      version: '0',
      ratio,
    })
    const peer = at('10.0.0.9', 40_000)
    const { method, authority, target } = REQUEST
    return () => traces.begin({ method, authority, target, direction: 'outbound', peer, fields: FIELDS }).end(REQUEST)
  }

const tapped: Work = async (ledger) => {
  let _bytes = 0
  feed(ledger, {
    dropped: 0,
    wants: () => true,
    write: (event) => {
      _bytes += JSON.stringify(event.is === 'request' ? { ...event.life.facts(), ...event.request } : event).length
      return true
    },
  })
  return undefined
}

const watched: Work = async (ledger) => {
  if (POLICY.is !== 'policy' || CANDIDATE.is !== 'policy') throw new Error('a policy of the benchmark is none')
  const trials = { policy: POLICY.policy, candidate: CANDIDATE.policy }
  const life = ledger.begin({
    direction: 'outbound',
    listener: 'o',
    peer: at('10.0.0.9', 1),
    destination: at('10.0.0.5', 80),
  })
  const { direction, peer, destination } = life
  const request = { method: 'GET', authority: 'orders.example', path: '/orders/4711', header: () => [] }
  const facts = {
    direction,
    peer,
    destination,
    protocol: 'http1',
    sni: null,
    alpn: null,
    extensions: null,
    identity: null,
    request,
  } as const
  return () => void (areWatched(trials) && trialsOf(life, trials, facts))
}

const PARTS: Readonly<Record<string, Work>> = {
  'nothing listens': async () => undefined,
  'log, text': logged('text'),
  'log, json': logged('json'),
  'log, combined': logged('combined'),
  metrics: async (ledger) => {
    const metrics = createMetrics('0')
    countConnections(metrics, ledger)
    countRequests(metrics, ledger)
    return undefined
  },
  'page (pulse)': async (ledger) => void createPulse(ledger, systemClock),
  'tap, one reader': tapped,
  'traces, all kept': traced(1),
  'traces, 1 of 100 kept': traced(0.01),
  'candidate policy': watched,
}

const REQUESTS = 60_000

const part =
  (name: string): Start =>
  async () => ({
    name,
    port: 0,
    pids: () => [],
    startMs: 0,
    stop: async () => {},
  })

const perRequest = async ({ name }: Contender, scale: number): Promise<Readonly<Record<string, number>>> => {
  const ledger = createLedger(systemClock)
  const more = await PARTS[name]!(ledger)
  const from: Pick<Outcome, 'direction' | 'listener' | 'peer' | 'destination'> = {
    direction: 'outbound',
    listener: 'outbound',
    peer: at('10.0.0.9', 40_000),
    destination: at('10.0.0.5', 80),
  }
  const life = ledger.begin(from)
  const run = (requests: number) => {
    for (let i = 0; i < requests; i++) {
      if (life.hearsRequests) life.requested(REQUEST)
      more?.(i)
    }
  }
  run(REQUESTS / 3)
  const requests = Math.round(REQUESTS * scale)
  const before = process.cpuUsage()
  run(requests)
  const { user, system } = process.cpuUsage(before)
  return { cpu: (user + system) / requests }
}

/** What each way of looking adds to a request, alone, in this process: CPU time, so that a busy machine matters little. */
export const telemetry: Suite = {
  name: 'telemetry',
  prepare: async () => async () => {},
  contenders: Object.keys(PARTS).map(part),
  measurements: [
    {
      name: 'added to each request',
      metrics: [{ key: 'cpu', title: 'CPU microseconds per request', better: 'lower' }],
      run: perRequest,
    },
  ],
}
