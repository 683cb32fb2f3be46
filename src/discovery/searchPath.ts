import { isIP } from 'node:net'
import { type Address, unmapped } from '../net/address.ts'

const NAME_LETTERS_MAX = 253 // RFC 1035 section 3.1, less the length byte and the root
const LABELS = /^[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*\.?$/

/** Whether a host, in lower case, can be looked up at all. */
export const isName = (host: string): boolean =>
  host.length <= NAME_LETTERS_MAX + (host.endsWith('.') ? 1 : 0) && LABELS.test(host)

/** With the dot at its end. */
export const absolute = (name: string): string => (name.endsWith('.') ? name : `${name}.`)

/**
 * The absolute names that a name may mean, in the order they are tried: itself, then itself under each path. A dot at
 * its end says that it means itself alone. A combination that is too long is left out.
 */
export const candidates = (host: string, search: readonly string[]): readonly string[] =>
  host.endsWith('.') ? [host] : unique([`${host}.`, ...under(host, search)])

/** A name under each of these domains. */
export const under = (host: string, search: readonly string[]): string[] =>
  search.map((path) => (path === '.' ? `${host}.` : `${host}.${absolute(path)}`)).filter(isName)

export const unique = <T>(all: readonly T[]): T[] => [...new Set(all)]

const PORTS = { http: 80, https: 443 }

/**
 * Host and port of an authority, with the port of its scheme where it names none. Brackets around an IPv6 address are
 * gone then. Undefined for what is none, or an empty text.
 */
export const addressOf = (authority: string, scheme: keyof typeof PORTS = 'http'): Address | undefined => {
  const found = /^(?:\[([0-9a-f:.]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/i.exec(authority)
  const host = found?.[1] ?? found?.[2]?.toLowerCase()
  const port = found?.[3] === undefined ? PORTS[scheme] : Number(found[3])
  if (host === undefined || port < 1 || port > 65_535) return undefined
  if (found?.[1] !== undefined) return isIP(host) === 6 ? { host: unmapped(host), port } : undefined
  return isIP(host) === 4 || isName(host) ? { host, port } : undefined
}
