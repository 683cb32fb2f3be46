import { type Address, formatAddress } from '../net/address.ts'
import type { Facts, Protocol } from './facts.ts'

/** What somebody says of a connection or request: in a test of a policy, or to `sluice explain`. */
export interface GivenFacts {
  readonly direction?: Facts['direction'] | undefined
  readonly source?: 'listener' | 'command' | undefined
  readonly destination: Address
  readonly peer?: Address | undefined
  readonly protocol?: Protocol | undefined
  /** Null: a ClientHello without. */
  readonly sni?: string | null | undefined
  readonly alpn?: readonly string[] | null | undefined
  readonly extension?: readonly number[] | undefined
  readonly identity?: string | null | undefined
  readonly authority?: string | undefined
  readonly method?: string | undefined
  readonly path?: string | undefined
  /** Values by name, in any case. */
  readonly header?: Readonly<Record<string, readonly string[]>> | undefined
}

/** The facts, where what is said rules something out it is known to be absent, and the rest is not known. */
export const factsFrom = (given: GivenFacts): Facts => {
  const { direction = 'outbound', destination, peer = { host: '127.0.0.1', port: 0 }, identity } = given
  const request = requestFrom(given)
  // A request of which nothing else is said is one of HTTP/1.
  const protocol = given.protocol ?? (request === undefined ? undefined : 'http1')
  const asked = request ?? (protocol === 'opaque' ? null : undefined)
  const source = given.source === 'command' ? given.source : undefined
  const known = { source, protocol, identity, request: asked, ...helloFrom({ ...given, protocol }) }
  return {
    direction,
    destination,
    peer,
    ...Object.fromEntries(Object.entries(known).filter(([, fact]) => fact !== undefined)),
  }
}

// What is spoken in the clear has no ClientHello, unless something is said of one around it.
const helloFrom = ({ protocol, sni, alpn, extension }: GivenFacts) => {
  const isTls = protocol === 'tls' || sni !== undefined || alpn !== undefined || extension !== undefined
  const otherwise = isTls || protocol === undefined ? undefined : null
  const [name = otherwise, ids = otherwise, extensions = otherwise] = [sni, alpn, extension] as const
  return { sni: name, alpn: ids, extensions }
}

const requestFrom = ({ authority, method, path, header, destination }: GivenFacts): Facts['request'] => {
  if (authority === undefined && method === undefined && path === undefined && header === undefined) return undefined
  const fields = Object.entries(header ?? {}).map(([name, values]) => ({ name: name.toLowerCase(), values }))
  return {
    method: method ?? 'GET',
    authority: authority?.toLowerCase() ?? formatAddress(destination),
    path: path?.replace(/[?#].*$/, '') ?? '/',
    header: (name) => fields.filter((field) => field.name === name).flatMap(({ values }) => values),
  }
}
