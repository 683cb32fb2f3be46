import { type Address, formatAddress, parseAddress } from '../net/address.ts'
import { type Arguments, type Option, repeated, single, UsageError } from '../net/commandLine.ts'
import type { Facts, Protocol, RequestFacts } from '../policy/facts.ts'

/** The flags that say what is known of a connection. */
export const FACT_OPTIONS: Readonly<Record<string, Option>> = {
  direction: { value: 'DIRECTION', help: 'inbound or outbound (outbound)' },
  destination: { value: 'IP:PORT', help: 'where the client meant to go' },
  peer: { value: 'IP[:PORT]', help: 'who called (127.0.0.1)' },
  protocol: { value: 'PROTOCOL', help: 'tls, http1, http2 or opaque; without it, not known yet' },
  sni: { value: 'NAME', help: "the ClientHello's server name; none: TLS without one" },
  alpn: { value: 'ID', help: 'a protocol id offered in ALPN; may be repeated; none: TLS without ALPN', multiple: true },
  extension: { value: 'NUMBER', help: 'an extension type in the ClientHello; may be repeated', multiple: true },
  identity: { value: 'NAME', help: "the peer's verified name; none: nobody was verified" },
  authority: { value: 'HOST[:PORT]', help: 'the Host or :authority of a request' },
  method: { value: 'METHOD', help: 'the method of a request (GET, once anything else of a request is given)' },
  path: { value: 'PATH', help: 'the path of a request (/)' },
  header: { value: "'NAME: VALUE'", help: 'a field of a request; may be repeated', multiple: true },
}

const PROTOCOLS: readonly string[] = ['tls', 'http1', 'http2', 'opaque'] satisfies Protocol[]

/** The facts that flags give; what they rule out is known to be absent, and the rest is not known. */
export const factsFromFlags = (args: Arguments): Facts => {
  const direction = single(args, 'direction') ?? 'outbound'
  if (direction !== 'inbound' && direction !== 'outbound')
    throw new UsageError(`--direction is inbound or outbound, not '${direction}'`)
  const protocol = single(args, 'protocol')
  if (protocol !== undefined && !PROTOCOLS.includes(protocol))
    throw new UsageError(`--protocol is one of ${PROTOCOLS.join(', ')}, not '${protocol}'`)
  const destination = addressOf(args, 'destination')
  const request = requestFrom(args, destination)
  const known = {
    protocol: protocol as Protocol | undefined,
    identity: noneIsNull(single(args, 'identity')),
    request: request ?? (protocol === 'opaque' ? null : undefined),
    ...helloFrom(args, protocol),
  }
  const given = Object.fromEntries(Object.entries(known).filter(([, fact]) => fact !== undefined))
  return { direction, destination, peer: peerOf(args), ...given }
}

// Something that is spoken in the clear has no ClientHello, unless flags say that there was one around it.
const helloFrom = (args: Arguments, protocol: string | undefined): Pick<Facts, 'sni' | 'alpn' | 'extensions'> => {
  const sni = noneIsNull(single(args, 'sni'))
  const ids = repeated(args, 'alpn')
  const types = repeated(args, 'extension').map((written) => {
    if (!/^\d{1,5}$/.test(written)) throw new UsageError(`--extension is a number, not '${written}'`)
    return Number(written)
  })
  const isTls = protocol === 'tls' || sni !== undefined || ids.length > 0 || types.length > 0
  const otherwise = isTls || protocol === undefined ? undefined : null
  const alpn = ids.length === 0 ? otherwise : ids.includes('none') ? null : ids
  return { sni: sni === undefined ? otherwise : sni, alpn, extensions: types.length === 0 ? otherwise : types } as never
}

const noneIsNull = (written: string | undefined): string | null | undefined => (written === 'none' ? null : written)

const addressOf = (args: Arguments, name: string): Address => {
  const written = single(args, name)
  if (written === undefined)
    throw new UsageError(`--${name} is missing: give an address and port, such as 10.0.0.5:3306`)
  const address = parseAddress(written)
  if (address === undefined)
    throw new UsageError(`--${name}: '${written}' is not an address and port, such as 10.0.0.5:3306`)
  return address
}

const peerOf = (args: Arguments): Address => {
  const written = single(args, 'peer') ?? '127.0.0.1'
  return parseAddress(written) ?? { host: written.replace(/^\[(.*)\]$/, '$1'), port: 0 }
}

const requestFrom = (args: Arguments, destination: Address): RequestFacts | undefined => {
  const [authority, method, path] = ['authority', 'method', 'path'].map((name) => single(args, name))
  const fields = repeated(args, 'header').map((written) => {
    const found = /^([^:\s]+):\s*(.*)$/.exec(written)
    if (found === null) throw new UsageError(`--header: '${written}' is not 'NAME: VALUE'`)
    return { name: found[1]!.toLowerCase(), value: found[2]! }
  })
  if (authority === undefined && method === undefined && path === undefined && fields.length === 0) return undefined
  return {
    method: method ?? 'GET',
    authority: authority?.toLowerCase() ?? formatAddress(destination),
    path: path?.replace(/[?#].*$/, '') ?? '/',
    header: (name) => fields.filter((field) => field.name === name).map((field) => field.value),
  }
}

/** One line that says what is known. */
export const factsText = (facts: Facts): string => {
  const told = (name: string, fact: unknown): string =>
    fact === undefined ? '' : `, ${name} ${fact === null ? 'none' : fact}`
  const { direction, peer, destination, request } = facts
  const from = peer.port === 0 ? peer.host : formatAddress(peer)
  const hello = `${told('SNI', facts.sni)}${told('ALPN', facts.alpn)}${told('extensions', facts.extensions)}`
  const asked = request ? `, ${request.method} ${request.authority} ${request.path}` : ''
  return `${direction}, ${from} to ${formatAddress(destination)}${told('protocol', facts.protocol)}${hello}${told('identity', facts.identity)}${asked}`
}
