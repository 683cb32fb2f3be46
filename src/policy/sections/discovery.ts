import * as v from 'valibot'
import { type Address, formatAddress, parseAddress } from '../../net/address.ts'
import { ipWords } from '../ip.ts'
import {
  count,
  duration,
  either,
  flag,
  listOf,
  type Mistake,
  mistake,
  named,
  object,
  oneOf,
  readText,
  setting,
  text,
} from '../shape.ts'
import { section } from './section.ts'

/** A name in lower case, absolute or not, with the port it counts for where it counts for one only. */
const NAME = /^(?=.{1,254}(?::|$))[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*\.?(?::\d{1,5})?$/

const ip = readText('an IP address, with a port if need be', (written): Address | Mistake => {
  if (ipWords(written) !== undefined) return { host: written, port: 0 }
  const found = parseAddress(written)
  if (found !== undefined && found.port > 0 && ipWords(found.host) !== undefined) return found
  return mistake(`"${written}" is not an IP address with a port if need be, such as 10.0.0.5:8080 or "[fd00::5]:8080"`)
})

const endpointMapping = object({
  address: v.pipe(ip, v.description('where it is served: an IP address; without a port, the port that was asked for')),
  weight: v.pipe(
    v.optional(count(0, 1_000_000), 1),
    v.description('its share of the traffic, relative to the others; 1 when not given; 0 is none'),
  ),
  protocol: v.pipe(
    v.optional(oneOf(['http1', 'http2', 'opaque'])),
    v.description('what it is known to speak; otherwise what the client spoke'),
  ),
  identity: v.pipe(
    v.optional(text('a DNS name')),
    v.description('the name its certificate has to prove, where it is reached by mutual TLS'),
  ),
  authority: v.pipe(
    v.optional(text('an authority')),
    v.description('the authority that requests to it carry instead of their own'),
  ),
  zone: v.pipe(v.optional(text('a zone')), v.description('where it is, such as an availability zone')),
  labels: v.pipe(
    v.optional(named(text('the value of a label')), {}),
    v.description('for metrics and for people, such as a version'),
  ),
})

const endpointText = v.pipe(
  ip,
  v.transform((address) => ({ address, weight: 1, labels: {} }) as v.InferOutput<typeof endpointMapping>),
)

const endpoint = either([endpointText, endpointMapping], (input) =>
  typeof input === 'object' && input !== null ? endpointMapping : endpointText,
)

/** Where names are served, as written in the policy or in a file of their own. Port 0: the port that was asked for. */
export const endpointsByName = v.pipe(
  named(v.pipe(listOf(endpoint), v.maxLength(20_000, 'more than 20000 endpoints'))),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return
    const at = (key: string, message: string) =>
      addIssue({
        message,
        path: [{ type: 'object', origin: 'value', input: dataset.value, key, value: dataset.value[key] }],
      })
    for (const [key, endpoints] of Object.entries(dataset.value)) {
      if (
        !NAME.test(key) ||
        ipWords(key.replace(/:\d+$/, '')) !== undefined ||
        Number(/:(\d+)$/.exec(key)?.[1] ?? 1) > 65_535
      )
        at(key, `"${key}" is not a name in lower case, such as orders, orders:8080 or orders.farm.svc.cluster.local.`)
      const twice = repeated(endpoints.map(({ address }) => formatAddress(address)))
      if (twice !== undefined) at(key, `${twice.replace(/:0$/, '')} is written twice for "${key}"`)
    }
  }),
)

const repeated = (texts: readonly string[]): string | undefined => {
  const seen = new Set<string>()
  return texts.find((text) => seen.size === seen.add(text).size)
}

/** As `endpointsByName` reads them. */
export type WrittenEndpoints = v.InferOutput<typeof endpointsByName>

const server = readText('the IP address of a DNS server, with a port if it is not 53', (written): Address | Mistake => {
  if (ipWords(written) !== undefined) return { host: written, port: 53 }
  const found = parseAddress(written)
  if (found !== undefined && found.port > 0 && ipWords(found.host) !== undefined) return found
  return mistake(`"${written}" is not the IP address of a DNS server, such as 10.96.0.10 or 127.0.0.1:5353`)
})

const dns = object({
  servers: v.pipe(
    v.optional(listOf(server)),
    v.description('the servers to ask, in this order; without it those of `/etc/resolv.conf`'),
  ),
  timeout: v.pipe(
    v.optional(duration('100ms', '30s')),
    v.description('how long to wait for one server; without it what `/etc/resolv.conf` says, or 2s'),
  ),
  minTtl: setting(duration('1s', '1h'), {
    builtIn: '1s',
    says: 'an answer is kept at least so long, whatever its TTL',
    because: 'a TTL of 0 must not mean a question for each request',
  }),
  maxTtl: setting(duration('1s', '24h'), {
    builtIn: '5m',
    says: 'an answer is asked for again after this time at the latest',
    because: 'a TTL of a day was written by somebody who did not know about today',
  }),
  family: setting(oneOf(['auto', 'both', 'ipv4', 'ipv6']), {
    builtIn: 'auto',
    says: 'which addresses to ask for: A, AAAA or both; `auto` asks for those families of which this host has an address',
    because: 'what getaddrinfo does (AI_ADDRCONFIG): endpoints that cannot be reached from here help nobody',
  }),
  srv: setting(oneOf(['underscore', 'first', 'never']), {
    builtIn: 'underscore',
    says: 'which names to ask for SRV records: those that begin with an underscore, all before their addresses, or none',
    because: 'RFC 2782 gives such records names like _http._tcp.orders; others have them only in some clusters',
  }),
  hosts: setting(flag, {
    builtIn: true,
    says: 'whether `/etc/hosts` counts, as `/etc/nsswitch.conf` says',
    because: 'it does for every other program',
  }),
})

const destinationAddress = readText('host:port', (written): Address | Mistake => {
  const found = parseAddress(written)
  return found !== undefined && found.port > 0
    ? found
    : mistake(`"${written}" is not host:port, such as linkerd-dst.linkerd.svc.cluster.local:8086`)
})

const destination = object({
  address: v.pipe(destinationAddress, v.description('`host:port` of the control plane, spoken to by gRPC without TLS')),
  api: setting(oneOf(['linkerd', 'conduit']), {
    builtIn: 'linkerd',
    says: 'which package: `io.linkerd.proxy.destination`, or the older `conduit.proxy.destination`',
    because: 'the control planes that are in use speak it',
  }),
  token: v.pipe(
    v.optional(text('the context token')),
    v.description('sent with each question as it is, such as `{"ns":"farm","nodeName":"n1"}`; only with `linkerd`'),
  ),
  profiles: setting(flag, {
    builtIn: true,
    says: 'whether to ask for the profile as well, which says what is opaque; only with `linkerd`',
    because: 'a control plane knows which ports a server speaks first on',
  }),
})

const endpointFile = v.pipe(
  text('the path of a file'),
  v.description('a YAML or JSON file with names as in `static`; watched'),
)

const oneSource = object({
  static: v.pipe(
    v.optional(endpointsByName),
    v.description('names, each with the list of its endpoints: `address:port`, or a mapping'),
  ),
  file: v.optional(endpointFile),
  destination: v.pipe(v.optional(destination), v.description('a control plane with the destination API of Linkerd')),
  dns: v.pipe(v.optional(dns), v.description('DNS, as this host does it; `{}` is enough')),
})

type OneSource = v.InferOutput<typeof oneSource>

/** One source, as configured. */
export type SourceSettings = {
  [K in keyof OneSource]-?: { readonly is: K; readonly settings: NonNullable<OneSource[K]> }
}[keyof OneSource]

const source = v.pipe(
  oneSource,
  v.check(
    (value) => Object.keys(value).length === 1,
    'expected exactly one of static, file, destination and dns; each source is an entry of its own, in the order they are asked',
  ),
  v.transform((value): SourceSettings => {
    const [is, settings] = Object.entries(value)[0]!
    return { is, settings } as SourceSettings
  }),
)

const searchPath = readText('a domain', (written): string | Mistake => {
  const name = written.toLowerCase()
  return NAME.test(name) && !name.includes(':')
    ? `${name.replace(/\.$/, '')}.`
    : mistake(`"${written}" is not a domain such as farm.svc.cluster.local.`)
})

export const discovery = section({
  shape: object({
    sources: v.pipe(
      v.optional(v.pipe(listOf(source), v.maxLength(16, 'more than 16 sources')), []),
      v.description(
        'who is asked for the endpoints of a name, in this order: the first that knows it answers; without sources there is no discovery',
      ),
    ),
    search: v.pipe(
      v.optional(v.pipe(listOf(searchPath), v.maxLength(16, 'more than 16 search paths')), []),
      v.description(
        'domains under which a name without a dot at its end is tried after the name itself, in this order; for DNS those of `/etc/resolv.conf` follow',
      ),
    ),
    idle: setting(duration('1s', '24h'), {
      builtIn: '60s',
      says: 'how long a name that nobody uses is kept up to date',
      because: 'a workload that calls once a minute finds it ready',
    }),
    maxNames: setting(count(1, 100_000), {
      builtIn: 1_000,
      says: 'how many names are known at once; one more replaces the one unused longest, or is refused where all are in use',
      because: 'a workload calls dozens; whoever calls a thousand is scanning',
    }),
  }),
  says: 'names to endpoints: who is asked, and under which names',
  byName: false,
  onReload: true,
  resolve: (value, open) => ({
    ...value,
    sources: value.sources.map((each) => (each.is === 'file' ? { ...each, settings: open(each.settings) } : each)),
  }),
})

/** The section as read. */
export type DiscoverySettings = v.InferOutput<typeof discovery.shape>
