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
