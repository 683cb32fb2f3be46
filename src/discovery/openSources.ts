import type { Clock } from '../net/clock.ts'
import type { DiscoverySources } from './createDiscovery.ts'
import type { DestinationSettings } from './destinationSource.ts'
import type { DnsSettings } from './dnsSource.ts'
import type { NamedEndpoints } from './namedEndpoints.ts'
import type { Counts, Source } from './source.ts'
import { type FileReader, fileSource, staticSource } from './tableSource.ts'

/** One source, as the policy has it. */
export type SourceSettings =
  | { readonly is: 'static'; readonly settings: NamedEndpoints }
  | { readonly is: 'file'; readonly settings: string }
  | { readonly is: 'dns'; readonly settings: DnsSettings }
  | { readonly is: 'destination'; readonly settings: DestinationSettings }

/** The section of the policy. */
export interface DiscoverySettings {
  readonly sources: readonly SourceSettings[]
  readonly search: readonly string[]
  readonly idle: number
  readonly maxNames: number
}

/** What discovery needs of the world. */
export interface DiscoveryWorld {
  readonly clock: Clock
  readonly random: () => number
  readonly counts: Counts
  readonly readFile: FileReader
  readonly warn: (text: string) => void
}

/** The sources of a policy. What only one kind of them needs is loaded only where it is one of them. */
export const sourcesOf = async (
  { sources, search, idle, maxNames }: DiscoverySettings,
  world: DiscoveryWorld,
): Promise<DiscoverySources> => ({
  sources: await Promise.all(sources.map((each) => sourceOf(each, search, world))),
  search,
  idleMs: idle,
  namesMax: maxNames,
})

const sourceOf = async (
  source: SourceSettings,
  search: readonly string[],
  { clock, random, counts, readFile, warn }: DiscoveryWorld,
): Promise<Source> => {
  switch (source.is) {
    case 'static':
      return staticSource(source.settings, counts)
    case 'file':
      return fileSource(source.settings, { read: readFile, clock, counts, warn })
    case 'dns': {
      const { dnsSource } = await import('./dnsSource.ts')
      const { createResolver } = await import('./dnsLookup.ts')
      const { exchange } = await import('./dnsExchange.ts')
      const { readSystem } = await import('./systemResolver.ts')
      const lookup = createResolver({ exchange: (asked) => exchange(asked, clock), clock })
      return dnsSource(source.settings, { lookup, system: readSystem(clock), search, clock, random, counts })
    }
    case 'destination': {
      const { destinationSource } = await import('./destinationSource.ts')
      const { grpcChannel } = await import('./grpcChannel.ts')
      const channel = grpcChannel(source.settings.address, clock, random, counts.reconnected)
      return destinationSource(source.settings, { channel, clock, random, counts })
    }
  }
}
