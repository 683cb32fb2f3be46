import { type Address, formatAddress } from '../../src/net/address.ts'
import type { Discovery, Endpoint, Resolution } from '../../src/net/endpoint.ts'

/** A discovery that knows what it is told. */
export interface ToldDiscovery extends Discovery {
  /** From now on this is where `orders:80` is. */
  say(name: string, resolution: Resolution): void
  /** The same in short: endpoints of weight 1, or as given. */
  at(name: string, ...endpoints: readonly (Address | Endpoint)[]): void
  absent(name: string): void
  /** Names that are watched now. */
  readonly watched: ReadonlyMap<string, number>
}

export const toldDiscovery = (): ToldDiscovery => {
  const known = new Map<string, Resolution>()
  const watchers = new Map<string, Set<(resolution: Resolution) => void>>()
  const watched = new Map<string, number>()
  const say = (name: string, resolution: Resolution) => {
    known.set(name, resolution)
    for (const tell of watchers.get(name) ?? []) tell(resolution)
  }
  return {
    watched,
    say,
    at: (name, ...all) =>
      say(name, {
        is: 'endpoints',
        name: `${name.split(':')[0]}.farm.svc.cluster.local.`,
        source: 'told',
        endpoints: all.map((it) => ('address' in it ? it : { address: it, weight: 1, labels: {} })),
        isStale: false,
      }),
    absent: (name) => say(name, { is: 'absent', dnsAllowed: false, tried: [`${name}.`], source: 'told' }),
    watch: (address, changed) => {
      const name = formatAddress(address)
      const all = watchers.get(name) ?? new Set()
      watchers.set(name, all.add(changed))
      watched.set(name, all.size)
      const resolution = known.get(name)
      if (resolution !== undefined) changed(resolution)
      return () => {
        all.delete(changed)
        watched.set(name, all.size)
      }
    },
  }
}
