import { isIPv6 } from 'node:net'
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
  const word = ipv4Word(text)
  if (word >= 0) return [0, 0, 0xffff, word]
  return isIPv6(text) ? ipv6Words(text) : undefined
}

/** A dotted quad as a number; -1 when it is not one. Every connection brings two, so no expression and no list. */
const ipv4Word = (text: string): number => {
  let word = 0
  let parts = 1
  let digits = 0
  let part = 0
  for (let i = 0; i < text.length; i++) {
    const digit = text.charCodeAt(i) - 48
    if (digit === DOT) {
      if (digits === 0 || parts === 4) return -1
      word = word * 256 + part
      parts++
      part = digits = 0
    } else {
      if (digit < 0 || digit > 9 || (digits > 0 && part === 0)) return -1
      part = part * 10 + digit
      digits++
      if (part > 255) return -1
    }
  }
  return parts === 4 && digits > 0 ? word * 256 + part : -1
}

const DOT = '.'.charCodeAt(0) - 48

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
  const width = isIPv6(address) ? 128 : 32
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

/**
 * Reads the words of an Address's host, null for a host name, and remembers the last one: many rules in a row look at
 * the same address.
 */
export const rememberingWords = (): ((address: Address) => Words | null) => {
  let last: Address | undefined
  let words: Words | null = null
  return (address) => {
    if (address !== last) {
      words = ipWords(address.host) ?? null
      last = address
    }
    return words
  }
}

/** The address of some words, in text. */
export const wordsText = (words: Words): string => {
  const bytes = (word: number) => [word >>> 24, (word >>> 16) & 255, (word >>> 8) & 255, word & 255]
  if (words[0] === 0 && words[1] === 0 && words[2] === 0xffff) return bytes(words[3]).join('.')
  const groups = words.flatMap((word) => [(word >>> 16).toString(16), (word & 0xffff).toString(16)])
  return groups.join(':').replace(/(^|:)0(?::0)+(:|$)/, '::')
}
