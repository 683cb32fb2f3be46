import { isIP } from 'node:net'
import { normalPath } from '../policy/normalPath.ts'
import { written } from '../policy/written.ts'
import type { Outcome, RequestOutcome } from '../telemetry/outcome.ts'
import { counted } from './counted.ts'
import { type Asked, groupPaths } from './learnPaths.ts'

/** Connections of one kind: they become one rule. */
interface Kind {
  readonly direction: Outcome['direction']
  readonly port: number
  /** Outermost; `opaque` covers whatever is passed as bytes. */
  readonly protocol: string
  count: number
  /** How often detection ran out of time, or the server spoke first. */
  undetected: number
  /** How often each name was asked for, of connections that name one. */
  readonly names: Map<string, number>
  readonly addresses: Map<string, number>
  /** What was asked for in the clear, by authority. */
  readonly asked: Map<string, Asked>
}

/** A line of the log about a request: with the connection it came on. */
export type LearnedRequest = Pick<Outcome, 'direction' | 'peer' | 'destination'> &
  Pick<RequestOutcome, 'method' | 'authority' | 'target' | 'attempts'>

/** Hears Outcomes, and writes the policy that they amount to. */
export interface Learner {
  readonly hear: (outcome: Outcome) => void
  /** A request, before the connection that it came on is heard. */
  readonly hearRequest: (request: LearnedRequest) => void
  readonly policy: () => string
}

const HOST_NAME = /^[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*\.?$/

// Connections that name no host are allowed by address; from this many in one network on, by the network.
const ADDRESSES_MAX = 3

/**
 * The smallest policy that a person can read and that allows what was seen: one rule for each direction, port and
 * protocol, by name where TLS names one, by address where not; inbound from anywhere. Of HTTP in the clear one rule for
 * each authority, with its methods and its paths as globs. What was refused is not allowed.
 */
export const learner = (): Learner => {
  const kinds = new Map<string, Kind>()
  const refused = new Map<string, number>()
  const pending = new Map<string, LearnedRequest[]>()
  return {
    hearRequest: (request) => {
      if (request.attempts === 0 || !isAuthority(request.authority)) return
      const key = connectionKey(request)
      const found = pending.get(key)
      if (found === undefined) pending.set(key, [request])
      else found.push(request)
      // A connection that never ends in this log takes its requests along.
      if (pending.size > CONNECTIONS_MAX) pending.delete(pending.keys().next().value!)
    },
    hear: (outcome) => {
      const { direction, destination, result, protocols, reason } = outcome
      // A client may ask for anything, also for text that would mean something in a document.
      const sni = outcome.sni !== undefined && HOST_NAME.test(outcome.sni) ? outcome.sni : undefined
      const { port, host } = destination
      const requests = pending.get(connectionKey(outcome)) ?? []
      pending.delete(connectionKey(outcome))
      if (result === 'denied' || result === 'refused') {
        const what = `${direction} ${host} port ${port}`
        refused.set(what, (refused.get(what) ?? 0) + 1)
        return
      }
      const protocol = outcome.sni === undefined ? (protocols[0] ?? 'opaque') : 'tls'
      const key = `${direction} ${port} ${protocol} ${sni !== undefined}`
      const kind = kinds.get(key) ?? {
        direction,
        port,
        protocol,
        count: 0,
        undetected: 0,
        names: new Map(),
        addresses: new Map(),
        asked: new Map(),
      }
      kinds.set(key, kind)
      kind.count++
      if (protocol === 'http1' || protocol === 'http2') for (const request of requests) note(kind.asked, request)
      if (reason === 'timeout' || reason === 'serverFirst' || reason === 'policy') kind.undetected++
      const [seen, what] =
        sni === undefined ? [kind.addresses, direction === 'inbound' ? outcome.peer.host : host] : [kind.names, sni]
      seen.set(what, (seen.get(what) ?? 0) + 1)
    },
    policy: () => policyText([...kinds.values()], refused),
  }
}

const CONNECTIONS_MAX = 10_000
const PATHS_MAX = 2_000 // of one authority and method; with more than these, all paths are allowed

const connectionKey = ({ peer, destination }: Pick<Outcome, 'peer' | 'destination'>): string =>
  `${peer.host} ${peer.port} ${destination.host} ${destination.port}`

/** A host and perhaps a port: a client may write anything, also what would mean something in a document. */
const isAuthority = (text: string): boolean => HOST_NAME.test(text.replace(/:\d{1,5}$/, ''))

const note = (asked: Kind['asked'], { method, authority, target }: LearnedRequest): void => {
  const end = target.search(/[?#]/)
  const path = normalPath(end === -1 ? target : target.slice(0, end))
  if (!path.startsWith('/') || !/^[A-Z]{1,20}$/.test(method)) return
  const of = asked.get(authority) ?? new Map<string, Map<string, number>>()
  asked.set(authority, of)
  const paths = of.get(method) ?? new Map<string, number>()
  of.set(method, paths)
  const known = paths.size < PATHS_MAX || paths.has(path) ? path : ''
  paths.set(known, (paths.get(known) ?? 0) + 1)
}

const policyText = (kinds: readonly Kind[], refused: ReadonlyMap<string, number>): string => {
  const ordered = [...kinds].sort(
    (a, b) => a.direction.localeCompare(b.direction) || a.port - b.port || a.protocol.localeCompare(b.protocol),
  )
  const total = kinds.reduce((sum, { count }) => sum + count, 0)
  return [
    `# Learned from ${counted(total, 'connection')}: what was seen is allowed, everything else is denied.`,
    '# Read it, widen what is too narrow, and hold it against more traffic with sluice replay or sluice diff --replay.',
    'apiVersion: sluice/v1',
    'defaults: { deny: true }',
    ordered.length === 0 ? 'rules: []' : 'rules:',
    ...ordered.flatMap(ruleText),
    ...(refused.size === 0 ? [] : ['# Refused while this was learned, and not allowed by it:']),
    ...[...refused].map(([what, count]) => `#   ${what}: ${counted(count, 'time')}`),
    '',
  ].join('\n')
}

const ruleText = (kind: Kind): string[] => (kind.asked.size === 0 ? connectionRule(kind) : requestRules(kind))

/** One rule for each authority, and for each set of methods that its paths were asked for with. */
const requestRules = (kind: Kind): string[] => {
  const { direction, port, addresses } = kind
  const hosts = direction === 'outbound' ? { destination: networks([...addresses.keys()]) } : {}
  return [...kind.asked]
    .sort(([a], [b]) => a.localeCompare(b))
    .flatMap(([authority, asked]) => {
      const groups = groupPaths(asked)
      return groups.flatMap(({ methods, paths, count }) => [
        `  # ${counted(count, 'request')}; ${seen(kind)}`,
        `  - name: ${written(`${direction} ${authority} on ${port}${groups.length > 1 ? `, ${methods.join(' ')}` : ''}`)}`,
        ...whenText({ direction, port, ...hosts, authority, method: methods, path: paths }),
        '    then: { deny: false }',
      ])
    })
}

const whenText = (when: Readonly<Record<string, unknown>>): string[] => [
  '    when:',
  ...Object.entries(when).map(
    ([key, value]) => `      ${key}: ${written(Array.isArray(value) && value.length === 1 ? value[0] : value)}`,
  ),
]

const connectionRule = (kind: Kind): string[] => {
  const { direction, port, protocol, count, undetected, names, addresses } = kind
  const isOpaque = protocol === 'opaque'
  const isSlow = isOpaque && undetected === count
  const hosts = direction === 'outbound' && names.size === 0 ? { destination: networks([...addresses.keys()]) } : {}
  const sni = names.size === 0 ? {} : { sni: [...names.keys()].sort() }
  // An opaque connection is allowed before a byte is read, so that a server that speaks first is heard.
  const when = { direction, port, ...hosts, ...(isOpaque || names.size > 0 ? {} : { protocol }), ...sni }
  const says = { deny: false, ...(isSlow && { protocol: 'opaque' }) }
  const by = names.size > 0 ? 'by name' : ''
  return [
    `  # ${seen(kind)}`,
    ...(isSlow ? ['  # It never said what it is in time, or the server spoke first: there is nothing to detect.'] : []),
    `  - name: ${written(`${direction} ${protocol} on ${port} ${by}`.trim())}`,
    ...whenText(when),
    `    then: ${written(says)}`,
  ]
}

const EXAMPLES_MAX = 5

const seen = ({ count, names, addresses, direction }: Kind): string => {
  const [what, whom] = names.size > 0 ? ['to', names] : [direction === 'inbound' ? 'from' : 'to', addresses]
  const most = [...whom].sort(([, a], [, b]) => b - a).slice(0, EXAMPLES_MAX)
  const more = whom.size > most.length ? ` and ${whom.size - most.length} more` : ''
  return `seen ${counted(count, 'time')}, ${what} ${most.map(([name, times]) => `${name} (${times})`).join(', ')}${more}`
}

/** Addresses, and networks in place of those of which many were seen. */
const networks = (addresses: readonly string[]): string[] => {
  const groups = Map.groupBy(addresses.filter((it) => isIP(it) !== 0).sort(), networkOf)
  return [...groups].flatMap(([network, members]) =>
    members.length > ADDRESSES_MAX && network !== '' ? [network] : members,
  )
}

const networkOf = (address: string): string => (isIP(address) === 4 ? address.replace(/\d+$/, '0/24') : '')
