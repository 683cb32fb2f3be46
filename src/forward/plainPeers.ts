import { type Address, formatAddress } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'

const REMEMBERED_MS = 60_000 // a Sluice that is installed there now is found a minute later
const PEERS_MAX = 10_000 // whoever calls more different addresses in a minute asks the first ones again

/** The addresses that were found to have no Sluice in front of them: with `upstream.mesh: prefer` they are not asked each time. */
export interface PlainPeers {
  readonly has: (peer: Address) => boolean
  readonly add: (peer: Address) => void
}

export const createPlainPeers = (clock: Clock): PlainPeers => {
  const until = new Map<string, number>()
  return {
    has: (peer) => (until.get(formatAddress(peer)) ?? 0) > clock.now(),
    add: (peer) => {
      const key = formatAddress(peer)
      until.delete(key)
      until.set(key, clock.now() + REMEMBERED_MS)
      if (until.size > PEERS_MAX) until.delete(until.keys().next().value!)
    },
  }
}
