import { isIPv6 } from 'node:net'
import type { Address } from '../../net/address.ts'
import { hasHostBits, type Network, parseNetwork, type Words } from '../ip.ts'
import { type Mistake, mistake, readText } from '../shape.ts'

/** A network with the port that may follow a single address. */
export interface Endpoints extends Network {
  readonly port?: number
}

/**
 * Networks by their first bits, as a number: IPv4 by 24 bits or by 16, IPv6 by 32. Wider ones have no key. The numbers
 * of the three kinds do not overlap.
 */
export const networkKeys = (networks: readonly Network[]): number[] | undefined => {
  const keys = networks.map(({ words, bits }) => {
    const isIpv4 = bits >= 96 && isMapped(words)
    if (isIpv4) return bits >= 120 ? narrowKey(words) : bits >= 112 ? wideKey(words) : undefined
    return bits >= 32 ? narrowKey(words) : undefined
  })
  return keys.every((key) => key !== undefined) ? keys : undefined
}

/** The keys by which the networks of an address are found. */
export const narrowKey = (words: Words): number => (isMapped(words) ? words[3] >>> 8 : 2 ** 33 + words[0])
export const wideKey = (words: Words): number => (isMapped(words) ? 2 ** 24 + (words[3] >>> 16) : -1)

const isMapped = (words: Words): boolean => words[0] === 0 && words[1] === 0 && words[2] === 0xffff

/** The same for an Address: a host name is in no network. */
export const addressIndex = (wordsOf: (address: Address) => Words | null) => ({
  keys: networkKeys,
  first: (fact: Address) => narrowKey(wordsOf(fact) ?? NOWHERE),
  second: (fact: Address) => wideKey(wordsOf(fact) ?? NOWHERE),
})

const NOWHERE: Words = [-1, 0, 0, 0]

const readNetwork = (text: string): Network | Mistake => {
  const found = parseNetwork(text)
  if (found === undefined) return mistake(`"${text}" is not an IP address or network, such as 10.0.0.0/8 or fd00::/8`)
  if (!hasHostBits(found)) return found
  return mistake(`"${text}" has bits set after its prefix; write the network's first address, or the address alone`)
}

/** An IP address, or a network in CIDR form. */
export const network = readText('an IP address or network', readNetwork)

/** The same, or a single address with a port: `10.0.0.5:5432`, `[fd00::5]:5432`. */
export const endpoints = readText('an IP address, network, or address:port', (text): Endpoints | Mistake => {
  const found = /^(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(text)
  if (found === null || isIPv6(text)) return readNetwork(text.replace(/^\[(.*)\]$/, '$1'))
  const port = Number(found[3])
  const host = found[1] ?? found[2] ?? ''
  const address = host.includes('/') ? undefined : parseNetwork(host)
  if (port < 1 || port > 65_535) return mistake(`"${text}": a port is a number from 1 to 65535`)
  if (address !== undefined) return { ...address, port }
  return mistake(`"${text}" is not address:port; for names, use sni or authority`)
})
