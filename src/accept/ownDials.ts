import { isIP, type Socket } from 'node:net'
import { type Address, formatAddress } from '../net/address.ts'

/**
 * The connections that the proxy itself has just opened. Where the redirect does not spare the proxy, each of them comes back
 * as if somebody had called, is dialled again, and so on until no descriptor is left: the one that comes back is known
 * by its two ends, which no other connection can have at the same time.
 */
export interface OwnDials {
  /** To be told of every socket as it begins to connect. */
  opened(socket: Socket, to: Address): void
  /** Whether a connection that was accepted is one of ours. */
  isOwn(peer: Address, destination: Address): Promise<boolean>
}

const REMEMBERED_MS = 1_000 // a connection that comes back does so at once; by then the pump may have taken its socket away

/** Knows no connection yet. `turn` resolves after the next look at the sockets. */
export const ownDials = (now: () => number, turn: () => Promise<void> = nextTurn): OwnDials => {
  let young = new Set<string>()
  let old = young
  let youngSince = now()
  const age = () => {
    if (now() - youngSince < REMEMBERED_MS) return
    old = now() - youngSince < 2 * REMEMBERED_MS ? young : new Set()
    young = new Set()
    youngSince = now()
  }
  const isKnown = (ends: string): boolean => {
    age()
    return young.has(ends) || old.has(ends)
  }
  const connecting = new Map<string, number>()
  const count = (to: string, change: number) => {
    const found = (connecting.get(to) ?? 0) + change
    if (found > 0) connecting.set(to, found)
    else connecting.delete(to)
  }
  return {
    opened(socket, to) {
      const key = isIP(to.host) === 0 ? A_NAME : formatAddress(to)
      let isConnecting = true
      count(key, 1)
      const settled = () => {
        if (isConnecting) count(key, -1)
        isConnecting = false
      }
      socket.once('close', settled)
      socket.once('connect', () => {
        settled()
        const { localAddress, localPort, remoteAddress, remotePort } = socket
        if (localAddress === undefined || remoteAddress === undefined) return
        age()
        young.add(endsOf({ host: localAddress, port: localPort ?? 0 }, { host: remoteAddress, port: remotePort ?? 0 }))
      })
    },
    async isOwn(peer, destination) {
      const ends = endsOf(peer, destination)
      if (isKnown(ends)) return true
      if (!connecting.has(formatAddress(destination)) && !connecting.has(A_NAME)) return false
      // Its other end is connected, but we may not have been told: the next look at the sockets is sure to tell.
      await turn()
      await turn()
      return isKnown(ends)
    },
  }
}

const A_NAME = 'a name' // where a dial to a name goes is known only once it is there
const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
const endsOf = (from: Address, to: Address): string => `${formatAddress(from)}>${formatAddress(to)}`
