import { isIP } from 'node:net'
import { written } from '../policy/written.ts'
import type { Outcome } from '../telemetry/outcome.ts'
import { counted } from './counted.ts'

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
}

/** Hears Outcomes, and writes the policy that they amount to. */
export interface Learner {
  readonly hear: (outcome: Outcome) => void
  readonly policy: () => string
}

const HOST_NAME = /^[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*\.?$/

// Connections that name no host are allowed by address; from this many in one network on, by the network.
const ADDRESSES_MAX = 3

/**
 * The smallest policy that a person can read and that allows what was seen: one rule for each direction, port and
 * protocol, by name where TLS names one, by address where not; inbound from anywhere. What was refused is not allowed.
 */
export const learner = (): Learner => {
  const kinds = new Map<string, Kind>()
  const refused = new Map<string, number>()
  return {
    hear: (outcome) => {
      const { direction, destination, result, protocols, reason } = outcome
      // A client may ask for anything, also for text that would mean something in a document.
      const sni = outcome.sni !== undefined && HOST_NAME.test(outcome.sni) ? outcome.sni : undefined
      const { port, host } = destination
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
      }
      kinds.set(key, kind)
      kind.count++
      if (reason === 'timeout' || reason === 'serverFirst' || reason === 'policy') kind.undetected++
      const [seen, what] =
        sni === undefined ? [kind.addresses, direction === 'inbound' ? outcome.peer.host : host] : [kind.names, sni]
      seen.set(what, (seen.get(what) ?? 0) + 1)
    },
    policy: () => policyText([...kinds.values()], refused),
  }
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

const ruleText = (kind: Kind): string[] => {
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
    '    when:',
    ...Object.entries(when).map(
      ([key, value]) => `      ${key}: ${written(Array.isArray(value) && value.length === 1 ? value[0] : value)}`,
    ),
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
