import { type Ledger, merely } from './ledger.ts'
import type { Metrics } from './metrics.ts'
import type { Outcome, RequestOutcome } from './outcome.ts'

/** Each limit by the key that sets it, and what in an Outcome says that it was hit. */
const BY_CODE: Readonly<Record<string, string>> = {
  LIMIT_CONNECTIONS: 'listeners.maxConnections',
  LIMIT_PORT_CONNECTIONS: 'gateway.limits.connections',
  TLS_HANDSHAKE_LIMIT: 'tls.maxHandshakes',
  TLS_HANDSHAKE_TIMEOUT: 'tls.handshakeTimeout',
  HTTP1_HEAD_BYTES: 'http.head.maxBytes',
  HTTP1_TARGET_BYTES: 'http.head.maxBytes',
  HTTP1_HEAD_FIELDS: 'http.head.maxFields',
  HTTP1_HEAD_TIMEOUT: 'http.head.timeout',
  HTTP2_ENHANCE_YOUR_CALM: 'http2',
}

const BY_REASON: Readonly<Record<string, string>> = { limit: 'detect.maxBytes', timeout: 'detect.timeout' }

const BY_ENDING: Readonly<Record<string, string>> = {
  idleTimeout: 'limits.idle',
  halfClosedTimeout: 'limits.halfClosed',
  connectTimeout: 'limits.connect',
  drained: 'limits.drain',
}

const BY_CAUSE: Readonly<Record<string, string>> = {
  ...BY_CODE,
  headTooLarge: 'http.head.maxBytes',
  connectTimeout: 'limits.connect',
  timeout: 'http.timeout',
  headTimeout: 'http.headTimeout',
  idleTimeout: 'http.idleTimeout',
}

/** The limits that an Outcome says were hit. */
export const limitsHit = ({ error, reason, ended }: Pick<Outcome, 'error' | 'reason' | 'ended'>): string[] =>
  [BY_CODE[error?.code ?? ''], BY_REASON[reason ?? ''], BY_ENDING[ended]].filter((it) => it !== undefined)

/** What counts hits elsewhere, by the key of the limit; read at each scrape. */
export type MoreHits = () => Readonly<Record<string, number>>

/** Counts each limit that is hit, by the key that sets it. */
export const countLimits = (metrics: Metrics, ledger: Ledger, more: MoreHits): void => {
  const hits = new Map<string, number>()
  const hit = (limit: string) => hits.set(limit, (hits.get(limit) ?? 0) + 1)
  ledger.subscribe((outcome) => limitsHit(outcome).forEach(hit), merely)
  ledger.subscribeCounts((alike) => limitsHit(alike).forEach(hit))
  ledger.subscribeRequests(({ error }: RequestOutcome) => {
    if (error === undefined) return
    const limit = BY_CAUSE[error]
    if (limit !== undefined) hit(limit)
  })
  metrics.counter('limit_hits_total', {
    help: 'How often each limit was hit, by the key of the policy that sets it.',
    labels: ['limit'],
    collect: (counter) => {
      for (const [limit, times] of [...hits, ...Object.entries(more())]) counter.inc({ limit }, times)
    },
  })
}
