import type { Address } from '../net/address.ts'
import { type Match, MORE, NO, yes } from '../net/match.ts'
import { ProtocolError } from '../net/protocolError.ts'
import { ipBytes, ipText } from './ipText.ts'

/** A PROXY protocol header (haproxy's proxy-protocol.txt, versions 1 and 2). */
export interface ProxyHeader {
  /** Bytes the header takes. */
  readonly length: number
  /** Who called and whom; absent for LOCAL and UNKNOWN, where the connection's own addresses count. */
  readonly source?: Address
  readonly destination?: Address
}

const V1_BYTES_MAX = 107 // section 2.1: the longest line, for two full IPv6 addresses
const V2_BYTES_MAX = 16 + 1024 // 16 fixed ones and what follows them: addresses and TLVs; real ones stay under 256
const V1 = Buffer.from('PROXY ')
const V2 = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')

/**
 * Recognises a header at the beginning of a connection. Throws ProtocolError for what begins like one and is none:
 * there is no other protocol it could be.
 */
export const proxyHeader = (bytes: Uint8Array): Match<ProxyHeader> => {
  if (beginsLike(bytes, V2))
    return bytes.length < 16 ? MORE : version2(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length))
  if (beginsLike(bytes, V1)) return bytes.length < V1.length ? MORE : version1(bytes)
  return NO
}

const beginsLike = (bytes: Uint8Array, signature: Uint8Array): boolean => {
  const length = Math.min(bytes.length, signature.length)
  for (let i = 0; i < length; i++) if (bytes[i] !== signature[i]) return false
  return true
}

const version1 = (bytes: Uint8Array): Match<ProxyHeader> => {
  const line = Buffer.from(bytes.subarray(0, V1_BYTES_MAX)).toString('latin1')
  const end = line.indexOf('\r\n')
  if (end < 0) {
    if (bytes.length >= V1_BYTES_MAX || line.includes('\n'))
      throw malformed('a version 1 header is one line of at most 107 bytes')
    return MORE
  }
  if (/[\r\n]/.test(line.slice(0, end))) throw malformed('a version 1 header has one end of line')
  const length = end + 2
  const [, family, source, destination, sourcePort, destinationPort, ...rest] = line.slice(0, end).split(' ')
  if (family === 'UNKNOWN') return yes({ length })
  if ((family !== 'TCP4' && family !== 'TCP6') || rest.length > 0)
    throw malformed(`'${line.slice(0, end)}' is not TCP4, TCP6 or UNKNOWN`)
  const isFour = family === 'TCP4'
  return yes({
    length,
    source: { host: hostOf(source, isFour), port: portOf(sourcePort) },
    destination: { host: hostOf(destination, isFour), port: portOf(destinationPort) },
  })
}

const hostOf = (text: string | undefined, isFour: boolean): string => {
  const host = text === undefined ? undefined : ipBytes(text)
  if (host?.length !== (isFour ? 4 : 16)) throw malformed(`'${text}' is not an ${isFour ? 'IPv4' : 'IPv6'} address`)
  return ipText(host)
}

const portOf = (text: string | undefined): number => {
  // Section 2.1: decimal, without leading zeroes.
  if (text === undefined || !/^(?:0|[1-9]\d{0,4})$/.test(text) || Number(text) > 65_535)
    throw malformed(`'${text}' is not a port`)
  return Number(text)
}

const version2 = (bytes: Buffer): Match<ProxyHeader> => {
  const versionAndCommand = bytes[12]!
  const command = versionAndCommand & 0x0f
  if (versionAndCommand >> 4 !== 2) throw malformed(`version ${versionAndCommand >> 4} of a binary header`)
  if (command > 1) throw malformed(`command ${command} is neither LOCAL nor PROXY`)
  const length = 16 + bytes.readUInt16BE(14)
  if (length > V2_BYTES_MAX) throw malformed(`a binary header of ${length} bytes`)
  const family = bytes[13]!
  // Section 2.2: what is unassigned must be rejected. What LOCAL says of families is to be passed over.
  if (command === 1 && !FAMILIES.has(family)) throw malformed(`0x${family.toString(16)} is no family of addresses`)
  if (bytes.length < length) return MORE
  const size = ADDRESS_BYTES[family]
  // LOCAL, UNSPEC, and families that are not TCP over IP: the sender speaks for itself (section 2.2).
  if (command === 0 || size === undefined) return yes({ length })
  if (length < 16 + 2 * size + 4) throw malformed('a binary header that is too short for its addresses')
  const ports = 16 + 2 * size
  checkVectors(bytes.subarray(0, length), ports + 4)
  return yes({
    length,
    source: { host: ipText(bytes.subarray(16, 16 + size)), port: bytes.readUInt16BE(ports) },
    destination: { host: ipText(bytes.subarray(16 + size, ports)), port: bytes.readUInt16BE(ports + 2) },
  })
}

const ADDRESS_BYTES: Readonly<Record<number, number>> = { 17: 4, 33: 16 } // TCP over IPv4, TCP over IPv6
const FAMILIES = new Set([0, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32])
const CHECKSUM = 3 // PP2_TYPE_CRC32C

/** The vectors behind the addresses must add up, and a checksum among them must be right (section 2.2.3). */
const checkVectors = (header: Buffer, start: number): void => {
  for (let at = start; at < header.length; ) {
    const end = at + 3 > header.length ? Number.POSITIVE_INFINITY : at + 3 + header.readUInt16BE(at + 1)
    if (end > header.length) throw malformed('a binary header with a vector that ends behind it')
    if (header[at] === CHECKSUM) {
      const zeroed = Buffer.from(header).fill(0, at + 3, end)
      if (end !== at + 7 || header.readUInt32BE(at + 3) !== crc32c(zeroed)) throw malformed('the checksum is wrong')
    }
    at = end
  }
}

/** RFC 9260 appendix A: Castagnoli's polynomial, reflected. */
const crc32c = (bytes: Uint8Array): number => {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0)
  }
  return (crc ^ 0xffffffff) >>> 0
}

/** The header that tells an upstream who called whom. Addresses of different families are both written as IPv6. */
export const writeProxyHeader = (version: 'v1' | 'v2', source: Address, destination: Address): Buffer => {
  const [from, to] = [ipBytes(source.host), ipBytes(destination.host)]
  // A name can be the destination, and has no place in a header: the sender then speaks for itself.
  if (from === undefined || to === undefined)
    return version === 'v1' ? Buffer.from('PROXY UNKNOWN\r\n') : Buffer.from([...V2, 0x20, 0, 0, 0])
  const isFour = from.length === 4 && to.length === 4
  if (version === 'v1') {
    const text = (host: Uint8Array) => (host.length === 4 && !isFour ? `::ffff:${ipText(host)}` : ipText(host))
    return Buffer.from(
      `PROXY ${isFour ? 'TCP4' : 'TCP6'} ${text(from)} ${text(to)} ${source.port} ${destination.port}\r\n`,
      'latin1',
    )
  }
  const addresses = isFour ? [...from, ...to] : [...asSix(from), ...asSix(to)]
  const ports = [source.port, destination.port].flatMap((port) => [port >> 8, port & 255])
  return Buffer.from([...V2, 0x21, isFour ? 0x11 : 0x21, 0, addresses.length + 4, ...addresses, ...ports])
}

const asSix = (host: Uint8Array): Uint8Array =>
  host.length === 16 ? host : Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, ...host])

const malformed = (what: string): ProtocolError => new ProtocolError('PROXY_HEADER_MALFORMED', what)
