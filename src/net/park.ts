import { Duplex } from 'node:stream'
import type { Connection } from './connection.ts'

/** Who has a connection parked. */
export interface Guest {
  /** Its stream is PARKED meanwhile: whoever kept the old one would keep all of it. */
  readonly connection: Pick<Connection, 'stream'>
  /** Where it stands: the park's own. */
  place: number
  /** When it is to be woken at the latest, on the clock of the park. */
  until: number
  /** Its stream, made anew: something can be read from it, or it has ended; or, if `isLate`, its time is over. */
  woken(stream: Duplex, isLate: boolean): void
}

/**
 * Where connections wait that are between two requests and hold nothing: as a descriptor and no more. A socket of Node
 * takes some three kilobytes, whatever it does.
 */
export interface Park {
  /** False, and nothing is changed, where the stream is no plain socket, or not the connection's own, or holds something. */
  leave(stream: Duplex, guest: Guest, forMs: number): boolean
  /** Wakes it now, within this call. Only while it is parked. */
  wake(guest: Guest): void
}

/** What a parked connection has for a stream: one that is gone. */
export const PARKED: Duplex = new Duplex().destroy()
