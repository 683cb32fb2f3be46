import type { HttpState } from '../forward/httpState.ts'
import type { Policy } from '../policy/policy.ts'
import type { Ledger } from '../telemetry/ledger.ts'
import { countLimits } from '../telemetry/limitHits.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import type { Recorder } from '../telemetry/recording.ts'

/** What is counted of a process beside its connections and requests. */
export interface Counted {
  readonly ledger: Ledger
  readonly http: Pick<HttpState, 'hits'> & { readonly pool: Pick<HttpState['pool'], 'holds'> }
  readonly recorder: Pick<Recorder, 'dropped'>
  readonly policy: () => Policy
  /** Milliseconds since 1970. */
  readonly time: () => number
}

/** Tells of what came of a look at the policy's documents. */
export type CountReload = (result: 'replaced' | 'kept') => void

/** Counts the pool, each limit that is hit, and what becomes of the policy. Returns whom to tell of reloads. */
export const countProcess = (metrics: Metrics, { ledger, http, recorder, policy, time }: Counted): CountReload => {
  metrics.gauge('upstream_connections', {
    help: 'Connections to upstreams that HTTP requests share, by what they do now.',
    labels: ['state'],
    collect: (gauge) => {
      const { busy, idle, dialling } = http.pool.holds
      for (const [state, number] of Object.entries({ busy, idle, dialling })) gauge.set({ state }, number)
    },
  })
  metrics.gauge('requests_waiting', {
    help: 'HTTP requests that wait for a connection to their upstream.',
    labels: [],
    collect: (gauge) => gauge.set(http.pool.holds.waiting),
  })
  countLimits(metrics, ledger, () => ({
    'http.pool.connections': http.hits.connections,
    'http.pool.pending': http.hits.pending,
    'http.rateLimit': http.hits.rate,
    'http.retry.budget': http.hits.retryBudget,
  }))
  metrics.counter('capture_packets_dropped_total', {
    help: 'Packets missing from captures of sluice tap --pcapng, because whoever wrote them was slow or too much was held.',
    labels: [],
    collect: (counter) => counter.inc(recorder.dropped()),
  })
  const reloads = metrics.counter('policy_reloads_total', {
    help: 'Changes of the policy, by result: replaced, or kept because the new one was not good.',
    labels: ['result'],
  })
  for (const result of ['replaced', 'kept']) reloads.inc({ result }, 0)
  const loaded = metrics.gauge('policy_loaded_timestamp_seconds', {
    help: 'When the policy in force was loaded; seconds since 1970.',
    labels: [],
  })
  loaded.set(time() / 1000)
  const good = metrics.gauge('policy_good', {
    help: '1 while the documents are the policy in force; 0 after a change that was not good.',
    labels: [],
  })
  good.set(1)
  metrics.gauge('policy_rules', {
    help: 'Rules of the policy in force.',
    labels: [],
    collect: (gauge) => gauge.set(policy().rules.length),
  })
  return (result) => {
    reloads.inc({ result })
    good.set(result === 'replaced' ? 1 : 0)
    if (result === 'replaced') loaded.set(time() / 1000)
  }
}
