import * as v from 'valibot'
import { count, object, oneOf, oneOrMany, setting } from '../shape.ts'
import { fixedAddress, listenAddress } from './listenAddress.ts'
import { section } from './section.ts'

const listener = (addresses: string[], because: string) =>
  object({
    address: setting(oneOrMany(listenAddress), {
      builtIn: addresses,
      says: 'where to listen; an empty list listens nowhere',
      because,
    }),
    maxConnections: setting(count(1, 1_000_000), {
      builtIn: 10_000,
      says: 'connections open at once, on each of its addresses; one more is refused and counted',
      because: 'each holds two descriptors, and 20,000 is what most containers may open',
    }),
    proxyProtocol: setting(oneOf(['none', 'accept', 'require']), {
      builtIn: 'none',
      says: 'whether a connection may, or must, begin with a PROXY protocol header that names its client and destination',
      because: 'whoever may send the header may claim any address; only a load balancer in front earns that trust',
    }),
    destination: v.pipe(
      v.optional(fixedAddress),
      v.description(
        'where connections go that no redirect brought, and so have no original destination; without it they are refused',
      ),
    ),
  })

const outbound = listener(['127.0.0.1:4140', '[::1]:4140'], 'only the workload itself calls out through it')
const inbound = listener(['0.0.0.0:4143', '[::]:4143'], 'the world calls in')

export const listeners = section({
  shape: object({
    outbound: v.pipe(v.optional(outbound, {}), v.description('takes what the workload calls')),
    inbound: v.pipe(v.optional(inbound, {}), v.description('takes what calls the workload')),
  }),
  says: 'where Sluice listens for redirected connections',
  byName: false,
  onReload: false,
})
