import { type ExposedPort, readPort } from '../codec/exposedPort.ts'
import { taskHash } from '../codec/taskHash.ts'
import type { Sections } from '../policy/sections.ts'

export type GatewaySection = Sections['gateway']

/** A port of a task, and where it runs. */
export interface Target {
  readonly task: string
  readonly settings: GatewaySection['tasks'][string]
  readonly port: ExposedPort
  /** Where the shards run that the name stands for: any of them will do. */
  readonly places: readonly [Place, ...Place[]]
}

/** Where a shard runs: at an IP address, or wherever discovery says that a name is. */
export type Place = Pick<Shard, 'host' | 'authority'>

type Shard = GatewaySection['tasks'][string]['shards'][number]

/** What a server name leads to. */
export type Found = { readonly is: 'port'; readonly target: Target } | { readonly is: 'nothing'; readonly why: string }

const nothing = (why: string): Found => ({ is: 'nothing', why })

const tables = new WeakMap<GatewaySection, ReadonlyMap<string, string>>()

/** The tasks by the hash in their host names. */
const tasksByHash = (section: GatewaySection): ReadonlyMap<string, string> => {
  const known = tables.get(section)
  if (known !== undefined) return known
  const made = new Map(Object.keys(section.tasks).map((task) => [taskHash(task), task] as const))
  tables.set(section, made)
  return made
}

const WHOLE = '00000000' // where the one range of a task in one shard begins

/** The port that a server name leads to: `<hash>-<port>.<domain>`, or `<hash>-<keyBegin>-<rClockBegin>-<port>.<domain>`. */
export const targetOf = (serverName: string | null, section: GatewaySection): Found => {
  if (serverName === null) return nothing('the client sent no TLS ServerName')
  const name = serverName.toLowerCase().replace(/\.$/, '') // RFC 6066 section 3: no case, no trailing dot
  const dot = name.indexOf('.')
  if (dot === -1 || name.slice(dot + 1) !== section.domain)
    return nothing(`TLS ServerName ${name} is an invalid domain`)
  const parts = name.slice(0, dot).split('-')
  if (parts.length !== 2 && parts.length !== 4)
    return nothing(`expected two or four subdomain components, not ${parts.length}`)
  const port = readPort(parts.at(-1)!)
  if (port === undefined) return nothing(`failed to parse subdomain port number: ${parts.at(-1)}`)
  const task = tasksByHash(section).get(parts[0]!)
  const settings = task === undefined ? undefined : section.tasks[task]
  const exposed = settings?.ports.find((one) => one.port === port)
  const places = settings === undefined ? [] : placesOf(settings, parts.slice(1, -1))
  if (task === undefined || settings === undefined || exposed === undefined || !isSome(places))
    return nothing('the requested subdomain does not match a known task and port combination')
  return { is: 'port', target: { task, settings, port: exposed, places } }
}

const placesOf = (
  { shards, host, authority }: GatewaySection['tasks'][string],
  [keyBegin, rClockBegin]: string[],
): Place[] => {
  const all: readonly Shard[] = shards.length > 0 ? shards : [{ keyBegin: WHOLE, rClockBegin: WHOLE, host, authority }]
  return all.filter((one) => keyBegin === undefined || (one.keyBegin === keyBegin && one.rClockBegin === rClockBegin))
}

const isSome = (places: Place[]): places is [Place, ...Place[]] => places.length > 0
