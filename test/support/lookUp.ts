import { createDiscovery } from '../../src/discovery/createDiscovery.ts'
import { sourcesOf } from '../../src/discovery/openSources.ts'
import { systemClock } from '../../src/net/clock.ts'
import type { Resolution } from '../../src/net/endpoint.ts'

/** A program: looks up its arguments by the source `dns` with nothing configured but IPv4, as `getent ahostsv4` does. */
const settings = { minTtl: 1_000, maxTtl: 60_000, family: 'ipv4', srv: 'never', hosts: true } as const
const sources = await sourcesOf(
  { sources: [{ is: 'dns', settings }], search: [], idle: 1_000, maxNames: 1_000 },
  {
    clock: systemClock,
    random: Math.random,
    counts: { looked: () => {}, reconnected: () => {} },
    readFile: () => ({ is: 'mistaken', problems: [] }),
    warn: () => {},
  },
)
const discovery = createDiscovery(sources, systemClock)
const alive = setInterval(() => {}, 1_000)
const found = await Promise.all(
  process.argv.slice(2).map(async (host) => {
    const resolution = await new Promise<Resolution>((resolve) => {
      discovery.watch({ host, port: 80 }, resolve)
    })
    const endpoints = resolution.is === 'endpoints' ? resolution.endpoints : []
    return [host, endpoints.map(({ address }) => address.host).sort()] as const
  }),
)
clearInterval(alive)
discovery.close()
process.stdout.write(JSON.stringify(Object.fromEntries(found)))
