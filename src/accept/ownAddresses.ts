import { networkInterfaces } from 'node:os'
import { type Address, isLoopback, isWildcard, unmapped } from '../net/address.ts'

const REFRESH_MS = 5_000 // pods get addresses late, and asking the kernel for each connection costs more than it tells

/**
 * Whether an address is one of our listeners. A wildcard listener answers on every address of this host, so those count.
 */
export const ownAddresses = (
  listeners: () => readonly Address[],
  now: () => number,
  hosts: () => ReadonlySet<string> = hostAddresses,
): ((address: Address) => boolean) => {
  let known: ReadonlySet<string> = new Set()
  let askedAt = Number.NEGATIVE_INFINITY
  const isHere = (host: string): boolean => {
    if (isLoopback(host) || isWildcard(host)) return true
    if (now() - askedAt > REFRESH_MS) {
      known = hosts()
      askedAt = now()
    }
    return known.has(host)
  }
  return ({ host, port }) =>
    listeners().some((own) => own.port === port && (own.host === host || (isWildcard(own.host) && isHere(host))))
}

const hostAddresses = (): ReadonlySet<string> =>
  new Set(Object.values(networkInterfaces()).flatMap((each) => each?.map(({ address }) => unmapped(address)) ?? []))
