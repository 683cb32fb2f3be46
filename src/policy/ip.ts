import { isIP } from 'node:net'
import type { Address } from '../net/address.ts'

/** An IP address as four 32-bit words; IPv4 as ::ffff:a.b.c.d, so one comparison serves both families. */
export type Words = readonly [number, number, number, number]

/** A network: the words of its first address, and of its mask. */
export interface Network {
  readonly words: Words
  readonly mask: Words
  /** Bits of the mask, counted over all 128. */
  readonly bits: number
}

/** The words of an address in text; undefined when it is a host name, or has leading zeros, which are octal to some. */
export const ipWords = (text: string): Words | undefined => {
  const family = isIP(text)
  if (family === 0) return undefined
  return family === 4 ? [0, 0, 0xffff, ipv4Word(text)] : ipv6Words(text)
}

const ipv4Word = (text: string): number => {
  let word = 0
  for (const part of text.split('.')) word = word * 256 + Number(part)
  return word
}

const ipv6Words = (written: string): Words => {
  const text = written.replace(/%.*$/, '').replace(/(?<=:)\d+\.\d+\.\d+\.\d+$/, (tail) => {
    const word = ipv4Word(tail)
    return `${(word >>> 16).toString(16)}:${(word & 0xffff).toString(16)}`
  })
  const [head = '', tail] = text.split('::')
  const left = head === '' ? [] : head.split(':')
  const right = tail === undefined || tail === '' ? [] : tail.split(':')
  const zeros = Array<string>(8 - left.length - right.length).fill('0')
  const groups = [...left, ...(tail === undefined ? [] : zeros), ...right].map((group) => Number.parseInt(group, 16))
  return [0, 2, 4, 6].map((i) => groups[i]! * 65_536 + groups[i + 1]!) as unknown as Words
}

/** Reads `10.0.0.0/8`, `fd00::/8` or a single address; undefined when it is neither. */
export const parseNetwork = (text: string): Network | undefined => {
  const [address = '', prefix] = text.split('/')
  const words = ipWords(address)
  if (words === undefined || text.split('/').length > 2) return undefined
  const width = isIP(address) === 4 ? 32 : 128
  if (prefix !== undefined && (!/^\d{1,3}$/.test(prefix) || Number(prefix) > width)) return undefined
  const bits = prefix === undefined ? 128 : Number(prefix) + 128 - width
  const mask = [0, 1, 2, 3].map((i) => maskWord(Math.min(32, Math.max(0, bits - 32 * i)))) as unknown as Words
  return { words, mask, bits }
}

const maskWord = (bits: number): number => (bits === 0 ? 0 : (0xffff_ffff << (32 - bits)) >>> 0)

/** Whether bits are set beyond the mask: 10.0.0.5/8 was probably meant to be 10.0.0.0/8, or 10.0.0.5. */
export const hasHostBits = ({ words, mask }: Network): boolean => words.some((word, i) => (word & ~mask[i]!) !== 0)

/** Whether the address lies in the network. */
export const networkHas = (network: Network, address: Words): boolean =>
  ((network.words[2] ^ address[2]) & network.mask[2]) === 0 &&
  ((network.words[3] ^ address[3]) & network.mask[3]) === 0 &&
  ((network.words[0] ^ address[0]) & network.mask[0]) === 0 &&
  ((network.words[1] ^ address[1]) & network.mask[1]) === 0

/** Whether every address of `narrow` is one of `wide`. */
export const networkCovers = (wide: Network, narrow: Network): boolean =>
  wide.bits <= narrow.bits && networkHas(wide, narrow.words)

// Many rules look at the same two addresses of a connection: their text is read once.
const seen = new WeakMap<Address, Words | null>()

/** The words of an Address's host; null for a host name. */
export const addressWords = (address: Address): Words | null => {
  let words = seen.get(address)
  if (words === undefined) {
    words = ipWords(address.host) ?? null
    seen.set(address, words)
  }
  return words
}
