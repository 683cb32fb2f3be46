import type { Address } from '../net/address.ts'
import type { Direction } from '../net/connection.ts'

/** What is being spoken, as the policy names it. */
export type Protocol = 'tls' | 'http1' | 'http2' | 'opaque'

/** What is known of a connection when the policy is asked. Undefined: not known yet. Null: known to be absent. */
export interface Facts {
  readonly direction: Direction
  /** Who opened it. Undefined: the workload, or for inbound the world; `command`: a command of the connector. */
  readonly source?: 'command'
  readonly peer: Address
  readonly destination: Address
  readonly protocol?: Protocol
  readonly sni?: string | null
  readonly alpn?: readonly string[] | null
  /** Extension types of the ClientHello, in its order. */
  readonly extensions?: readonly number[] | null
  /** The peer's verified name: a URI or DNS subject alternative name. */
  readonly identity?: string | null
  readonly request?: RequestFacts | null
}

/** One HTTP request, as rules see it. */
export interface RequestFacts {
  readonly method: string
  /** Lower case, with the port only where the client wrote one. */
  readonly authority: string
  /** The path without the query. */
  readonly path: string
  /** The values of a field, by lower-case name, in order; empty when absent. */
  readonly header: (name: string) => readonly string[]
}
