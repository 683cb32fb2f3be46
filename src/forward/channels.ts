import type { Duplex } from 'node:stream'
import type { Address } from '../net/address.ts'
import type { Waiter } from './pool.ts'

/** One connection that an app opened towards us, as an Outcome names it. */
export interface ChannelName {
  /** The app and the number of its channel, such as `orders/3`. */
  readonly name: string
  /** The app's end of it. */
  readonly peer: Address
}

/** Ways to apps that nobody can dial: connections which they opened and on which we call, by the id of the app. */
export interface Channels {
  /**
   * Finds a channel that has room for a request, or waits for one, not for long. Returns how to stop waiting. Fails with
   * the codes NO_CHANNEL, CONNECT_TIMEOUT (there are some, all of them full) and POOL_PENDING.
   */
  readonly acquire: (app: string, waiter: Waiter) => () => void
  /** A stream through a channel for bytes that are not HTTP; `to` is what the client meant. Rejects with such codes. */
  readonly tunnel: (app: string, to: Address, signal: AbortSignal) => Promise<Tunnel>
  /** Every channel there is, for people. */
  readonly views: () => readonly ChannelView[]
}

/** One channel as people see it. */
export interface ChannelView extends ChannelName {
  readonly app: string
  /** opening: it has not pinged yet; leaving: it takes no new calls. */
  readonly state: 'opening' | 'up' | 'leaving' | 'gone'
  /** The next call of its app would go here. */
  readonly isNext: boolean
  /** Of our own SDK: it proved by its nonce that it is the one that asked, and takes TCP as well. */
  readonly isOurs: boolean
  /** By its certificate, where apps must show one. */
  readonly identity: string | null
  readonly inFlight: number
  readonly calls: number
  readonly pingsMissed: number
  /** Milliseconds since 1970. */
  readonly openedAt: number
}

/** Bytes both ways, and the channel that carries them. */
export interface Tunnel {
  readonly stream: Duplex
  readonly channel: ChannelName
}
