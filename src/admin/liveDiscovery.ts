import { isDeepStrictEqual } from 'node:util'
import type { LiveDiscovery } from '../discovery/createDiscovery.ts'
import type { DiscoveryWorld } from '../discovery/openSources.ts'
import type { LookupResult, Source } from '../discovery/source.ts'
import type { Clock } from '../net/clock.ts'
import { readEndpointDocument } from '../policy/endpointDocument.ts'
import type { Sections } from '../policy/sections.ts'
import type { Log } from '../telemetry/log.ts'
import type { Metrics } from '../telemetry/metrics.ts'

/** Discovery for `sluice serve`: it comes with the first source in the policy, and goes with the last. */
export interface KeptDiscovery {
  readonly current: () => LiveDiscovery | undefined
  /** For a new policy: gets its sources ready, and gives what puts them in use. */
  readonly prepare: (sections: Sections) => Promise<() => void>
  readonly lookups: ReadonlyMap<string, number>
  readonly reconnects: () => number
  readonly close: () => void
}

/** What is counted under one series. */
interface Looked {
  readonly source: Source['kind']
  readonly result: LookupResult
}

/** Opens the sources of a policy. Nothing of discovery is even loaded where it has none. */
export const keepDiscovery = async (
  sections: Sections,
  clock: Clock,
  random: () => number,
  log: Pick<Log, 'warn'>,
): Promise<KeptDiscovery> => {
  const lookups = new Map<string, number>()
  let reconnects = 0
  let current: LiveDiscovery | undefined
  let settings: Sections['discovery'] | undefined
  const world: DiscoveryWorld = {
    clock,
    random,
    counts: {
      looked: (source, result) => {
        const key = JSON.stringify({ source, result } satisfies Looked)
        lookups.set(key, (lookups.get(key) ?? 0) + 1)
      },
      reconnected: () => void reconnects++,
    },
    readFile: readEndpointDocument,
    warn: (text) => log.warn(text),
  }
  const prepare = async ({ discovery }: Sections): Promise<() => void> => {
    if (isDeepStrictEqual(discovery, settings)) return () => {}
    if (discovery.sources.length === 0)
      return () => {
        settings = discovery
        current?.close()
        current = undefined
      }
    const { createDiscovery } = await import('../discovery/createDiscovery.ts')
    const { sourcesOf } = await import('../discovery/openSources.ts')
    const sources = await sourcesOf(discovery, world)
    return () => {
      settings = discovery
      if (current === undefined) current = createDiscovery(sources, clock)
      else current.use(sources)
    }
  }
  const use = await prepare(sections)
  use()
  return {
    current: () => current,
    prepare,
    lookups,
    reconnects: () => reconnects,
    close: () => current?.close(),
  }
}

/** What discovery does, for whoever scrapes. */
export const countDiscovery = (metrics: Metrics, { current, lookups, reconnects }: KeptDiscovery): void => {
  metrics.counter('discovery_lookups_total', {
    help: 'Answers of sources, and failures to get one: endpoints, empty (the name exists), absent, failed.',
    labels: ['source', 'result'],
    collect: (counter) => {
      for (const [key, count] of lookups) counter.inc(JSON.parse(key) as { source: string; result: string }, count)
    },
  })
  metrics.gauge('discovery_names', {
    help: 'Names that are kept up to date now.',
    labels: [],
    collect: (gauge) => gauge.set(current()?.kept().names ?? 0),
  })
  metrics.gauge('discovery_watches', {
    help: 'Who waits for changes of these names: one name may have several.',
    labels: [],
    collect: (gauge) => gauge.set(current()?.kept().watchers ?? 0),
  })
  metrics.gauge('discovery_stale_names', {
    help: 'Names whose source cannot be reached: their last endpoints stay in use.',
    labels: [],
    collect: (gauge) => gauge.set(current()?.kept().stale ?? 0),
  })
  metrics.counter('discovery_evicted_total', {
    help: 'Names unused for a while that made room for others before their idle time was over.',
    labels: [],
    collect: (counter) => counter.inc(current()?.kept().evicted ?? 0),
  })
  metrics.counter('discovery_refused_total', {
    help: 'Names that were refused because discovery.maxNames others are in use.',
    labels: [],
    collect: (counter) => counter.inc(current()?.kept().refused ?? 0),
  })
  metrics.counter('discovery_reconnects_total', {
    help: 'Connections to a control plane that took the place of one that was lost.',
    labels: [],
    collect: (counter) => counter.inc(reconnects()),
  })
}
