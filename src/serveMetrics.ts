import manifest from '../package.json' with { type: 'json' }
import { countBalance } from './admin/liveBalance.ts'
import { countDiscovery, type KeptDiscovery } from './admin/liveDiscovery.ts'
import { type CountReload, countProcess } from './admin/liveMetrics.ts'
import { countTls } from './admin/liveTls.ts'
import type { HttpState } from './forward/httpState.ts'
import type { TlsWorld } from './forward/tlsWorld.ts'
import type { World } from './proxy.ts'
import { countConnections, countExposed, countRequests, createMetrics, type Metrics } from './telemetry/metrics.ts'
import type { Recorder } from './telemetry/recording.ts'
import { countTrialMetrics } from './telemetry/trialCounts.ts'
import type { Seen } from './workerMessages.ts'

/** What the metrics of a process are read from. */
export interface Measured {
  readonly world: World
  readonly tls: TlsWorld
  readonly discovery: KeptDiscovery
  readonly recorder: Recorder
  /** What the other threads showed when they were looked at. */
  readonly seen: () => readonly Seen[]
}

/** Every metric of `serve`, and how a reload is counted. */
export const countAll = ({ world, tls, discovery, recorder, seen }: Measured): [Metrics, CountReload] => {
  const { ledger, http } = world
  const metrics = createMetrics(manifest.version)
  countConnections(metrics, ledger)
  countTls(metrics, tls, () => sumOf([tls.terminator.active(), ...seen().map((each) => each.handshakes)]))
  countDiscovery(metrics, discovery)
  countRequests(metrics, ledger)
  countExposed(metrics, ledger)
  countTrialMetrics(metrics, ledger)
  countBalance(metrics, http.balancers)
  const countReload = countProcess(metrics, {
    ...world,
    http: httpOfAll(http, seen),
    recorder,
    time: world.clock.time,
  })
  return [metrics, countReload]
}

const sumOf = (numbers: readonly number[]): number => numbers.reduce((sum, each) => sum + each, 0)

/** What HTTP holds and has hit in this thread and in those that were looked at. */
const httpOfAll = (
  http: HttpState,
  seen: () => readonly Seen[],
): Pick<HttpState, 'hits'> & { readonly pool: Pick<HttpState['pool'], 'holds'> } => {
  const sums = <T extends Readonly<Record<string, number>>>(ours: T, theirs: readonly T[]): T =>
    Object.fromEntries(
      Object.entries(ours).map(([key, value]) => [key, sumOf([value, ...theirs.map((it) => it[key]!)])]),
    ) as T
  return {
    get hits() {
      return sums(
        http.hits,
        seen().map((each) => each.hits),
      )
    },
    pool: {
      get holds() {
        return sums(
          http.pool.holds,
          seen().map((each) => each.holds),
        )
      },
    },
  }
}
