import type { Duplex } from 'node:stream'
import type { Address } from './address.ts'

/** Outbound: the workload calls out. Inbound: the world calls in. */
export type Direction = 'inbound' | 'outbound'

/** What an accepter brings: who called, where to, and the bytes. */
export interface Connection {
  readonly direction: Direction
  readonly peer: Address
  /** Where the client meant to go, before any redirect. */
  readonly destination: Address
  /** While it is parked, none that can be read. */
  stream: Duplex
  /** The listener that took it, for the log: its name in the configuration. */
  readonly listener: string
}

/** Opens the other side. Rejects with an Error whose `code` is errno's name, or `ABORT_ERR` when the signal fires. */
export type Dial = (to: Address, signal?: AbortSignal) => Promise<Duplex>
