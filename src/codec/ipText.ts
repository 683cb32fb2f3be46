import { isIPv4, isIPv6 } from 'node:net'

/** An address of 4 or 16 bytes as text: dotted decimal, or RFC 5952. */
export const ipText = (bytes: Uint8Array): string => (bytes.length === 4 ? bytes.join('.') : ipv6Text(bytes))

const ipv6Text = (bytes: Uint8Array): string => {
  const groups = Array.from({ length: 8 }, (_, at) => bytes[at * 2]! * 256 + bytes[at * 2 + 1]!)
  if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff) return bytes.subarray(12).join('.')
  const { start, length } = longestZeros(groups)
  const text = (from: number, to: number): string =>
    groups
      .slice(from, to)
      .map((group) => group.toString(16))
      .join(':')
  return length < 2 ? text(0, 8) : `${text(0, start)}::${text(start + length, 8)}`
}

/** The first of the longest runs of zero groups (RFC 5952 section 4.2.3). */
const longestZeros = (groups: readonly number[]): { start: number; length: number } => {
  let best = { start: 0, length: 0 }
  for (let start = 0; start < 8; start++) {
    let length = 0
    while (start + length < 8 && groups[start + length] === 0) length++
    if (length > best.length) best = { start, length }
  }
  return best
}

/** The bytes of an address in text, without a zone; undefined for what is none, or is not strictly one (`010.0.0.1`). */
export const ipBytes = (text: string): Uint8Array | undefined => {
  if (isIPv4(text)) return Uint8Array.from(text.split('.'), Number)
  if (!isIPv6(text) || text.includes('%')) return undefined
  const dotted = /[^:]*\.[^:]*$/.exec(text)
  const tail = dotted === null ? [] : dotted[0].split('.').map(Number)
  const [left = '', right] = (dotted === null ? text : text.slice(0, dotted.index)).split('::')
  const groups = (part: string) => part.split(':').filter((group) => group !== '')
  const bytesOf = (part: string) =>
    groups(part).flatMap((group) => [Number.parseInt(group, 16) >> 8, Number.parseInt(group, 16) & 255])
  const [before, after] = [bytesOf(left), [...bytesOf(right ?? ''), ...tail]]
  const bytes = new Uint8Array(16)
  bytes.set(before)
  bytes.set(after, 16 - after.length)
  return bytes
}
