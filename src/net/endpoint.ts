import type { Address } from './address.ts'

/** One place where a name is served. */
export interface Endpoint {
  readonly address: Address
  /** Its share of the traffic, relative to the others of its set. Zero: none, unless all are zero. */
  readonly weight: number
  /** What it is known to speak. Undefined: what the client spoke. */
  readonly protocol?: 'http1' | 'http2' | 'opaque' | undefined
  /** The name its certificate has to prove, where it is to be reached by the mesh's TLS. */
  readonly identity?: string | undefined
  /** The authority that requests to it are to carry instead of their own. */
  readonly authority?: string | undefined
  /** Where it is, such as an availability zone. */
  readonly zone?: string | undefined
  /** For metrics and for people: pod, namespace, version. */
  readonly labels: Readonly<Record<string, string>>
}

/** A name that exists, and where it is served. */
export interface Found {
  readonly is: 'endpoints'
  /** The name that matched, absolute: `rabbits.farm.svc.cluster.local.` */
  readonly name: string
  /** Which source answered, for people: `static`, `file endpoints.yaml`, `dns 10.0.0.10:53`, `destination …`. */
  readonly source: string
  /** Never two of the same address. May be empty: the name exists, and nothing serves it now. */
  readonly endpoints: readonly Endpoint[]
  /** The source cannot be reached at the moment, and this is the last it said. */
  readonly isStale: boolean
}

/** What is known of a name. A name that exists and has no endpoint is something else than one that does not exist. */
export type Resolution =
  | Found
  | {
      readonly is: 'absent'
      /** Whether local DNS may be asked. Where it may, it has been already if it is configured. */
      readonly dnsAllowed: boolean
      /** Every name that was tried, in order. */
      readonly tried: readonly string[]
      readonly source: string
      /** In words, where it is not simply that nobody knows the name: a limit that was reached, a name that is none. */
      readonly because?: string | undefined
    }

/** One name that is being watched, or was a moment ago, for whoever looks at the page. Times are milliseconds. */
export interface NameState {
  /** As it was asked for: host and port. */
  readonly asked: Address
  /** The last that was said of it; undefined while nobody has said anything. */
  readonly resolution: Resolution | undefined
  readonly watchers: number
  /** Since that was said, or said again. */
  readonly ageMs: number | undefined
  /** Until it is asked again; undefined where the source tells by itself, or asking is under way. */
  readonly refreshMs: number | undefined
  /** How long the source has been unreachable. */
  readonly staleMs: number | undefined
  /** The last thing that went wrong, while it is still wrong. */
  readonly error: string | undefined
}

/**
 * Names to endpoints. `changed` is called with every new state, first as soon as one is known, which may be before
 * `watch` returns; the result ends that. An IP address is its own endpoint. While a source cannot be reached and has
 * never said anything, nothing is known and `changed` is not called: whoever waits has a limit of their own.
 */
export interface Discovery {
  readonly watch: (name: Address, changed: (resolution: Resolution) => void) => () => void
  /** What is known now, of every name. */
  readonly describe?: () => readonly NameState[]
}
