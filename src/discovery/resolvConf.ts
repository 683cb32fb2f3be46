import { isIP } from 'node:net'
import { absolute, candidates, isName, under, unique } from './searchPath.ts'

/** What resolv.conf says (resolv.conf(5)), with the defaults of what it does not. */
export interface ResolvConf {
  readonly servers: readonly string[]
  readonly search: readonly string[]
  /** A name with fewer dots is tried under the search paths first. */
  readonly ndots: number
  /** For each question to each server; undefined where nothing is said. */
  readonly timeoutMs: number | undefined
  readonly attempts: number
  readonly rotate: boolean
  /** TCP from the start. */
  readonly useTcp: boolean
}

// The C library stops at 3 servers; we ask all that somebody wrote, up to where it is no list of servers any more.
const SERVERS_MAX = 16
const SEARCH_MAX = 32

/** Reads resolv.conf. What it does not know it leaves out, as the C library does; of `search` and `domain` the last counts. */
export const parseResolvConf = (text: string): ResolvConf => {
  const servers: string[] = []
  let search: string[] = []
  const options = new Map<string, number>()
  for (const line of text.split('\n')) {
    if (/^\s*[#;]/.test(line)) continue
    const [key, ...values] = line.trim().split(/\s+/)
    const first = values[0]
    if (key === 'nameserver' && first !== undefined && isIP(first) > 0) servers.push(first)
    if (key === 'search') search = values
    if (key === 'domain' && first !== undefined) search = [first]
    if (key === 'options') for (const option of values) readOption(option, options)
  }
  const timeout = options.get('timeout')
  return {
    servers: servers.length === 0 ? ['127.0.0.1'] : unique(servers).slice(0, SERVERS_MAX),
    search: unique(
      search.map((path) => absolute(path.toLowerCase())).filter((path) => path === '.' || isName(path)),
    ).slice(0, SEARCH_MAX),
    // The bounds are those of the C library.
    ndots: Math.min(options.get('ndots') ?? 1, 15),
    timeoutMs: timeout === undefined ? undefined : Math.min(Math.max(timeout, 1), 30) * 1000,
    attempts: Math.min(Math.max(options.get('attempts') ?? 2, 1), 5),
    rotate: options.has('rotate'),
    useTcp: options.has('use-vc'),
  }
}

const readOption = (text: string, options: Map<string, number>): void => {
  const found = /^([a-z-]+)(?::(\d{1,6}))?$/.exec(text)
  if (found !== null) options.set(found[1]!, Number(found[2] ?? 0))
}

/** The names a stub resolver tries, in its order: with enough dots the name itself first, otherwise last. */
export const resolverNames = (host: string, { search, ndots }: Pick<ResolvConf, 'search' | 'ndots'>): string[] => {
  if (host.endsWith('.')) return [host]
  const dots = host.split('.').length - 1
  const own = `${host}.`
  return unique(dots >= ndots ? [own, ...under(host, search)] : [...under(host, search), own])
}

/**
 * The names to ask DNS for: with search paths of our own, those first, in our order, and whatever else this host would
 * have tried after them; without, just as this host does it.
 */
export const dnsNames = (host: string, own: readonly string[], conf: Pick<ResolvConf, 'search' | 'ndots'>): string[] =>
  own.length === 0 ? resolverNames(host, conf) : unique([...candidates(host, own), ...resolverNames(host, conf)])

/** Addresses by name, in lower case and without the dot at the end (hosts(5)). */
export const parseHosts = (text: string): ReadonlyMap<string, readonly string[]> => {
  const found = new Map<string, string[]>()
  for (const line of text.split('\n')) {
    const [address = '', ...names] = line.replace(/#.*/, '').trim().split(/\s+/)
    if (isIP(address) === 0 || address.includes('%')) continue
    for (const name of names) {
      const key = name.toLowerCase().replace(/\.$/, '')
      const addresses = found.get(key) ?? []
      if (!addresses.includes(address)) found.set(key, [...addresses, address])
    }
  }
  return found
}

/** Who is asked for hosts, in this order. */
export type HostsOrder = readonly ('files' | 'dns')[]

/**
 * The line `hosts:` of nsswitch.conf(5), as far as it concerns the two we have; without it `files dns`. A service whose
 * "not found" is final (`[NOTFOUND=return]`, also as `!SUCCESS`) ends the list. What others would add (mdns, myhostname,
 * resolve) is left out, and so is their action.
 */
export const parseNsswitch = (text: string): HostsOrder => {
  const line = text.split('\n').find((each) => /^\s*hosts:/.test(each))
  if (line === undefined) return ['files', 'dns']
  const words =
    line
      .replace(/#.*/, '')
      .replace(/^\s*hosts:/, '')
      .match(/\[[^\]]*\]|[^\s[]+/g) ?? []
  const order: ('files' | 'dns')[] = []
  let last: string | undefined
  for (const word of words) {
    if (word.startsWith('[')) {
      if ((last === 'files' || last === 'dns') && endsSearch(word)) break
    } else {
      last = word
      if ((word === 'files' || word === 'dns') && !order.includes(word)) order.push(word)
    }
  }
  return order
}

const endsSearch = (actions: string): boolean =>
  [...actions.toLowerCase().matchAll(/(!?)(success|notfound|unavail|tryagain)\s*=\s*(\w+)/g)].some(
    ([, not, status, action]) => action === 'return' && (not === '!' ? status !== 'notfound' : status === 'notfound'),
  )
