import { isIPv4 } from 'node:net'
import { type Address, unmapped } from '../net/address.ts'
import { type Match, MORE, NO, yes } from '../net/match.ts'
import { ProtocolError } from '../net/protocolError.ts'

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
  const isRight = text !== undefined && (isFour ? isIPv4(text) : text.includes(':') && URL.canParse(`http://[${text}]`))
  if (!isRight) throw malformed(`'${text}' is not an ${isFour ? 'IPv4' : 'IPv6'} address`)
  return unmapped(text)
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
  if (bytes.length < length) return MORE
  const family = bytes[13]!
  const size = ADDRESS_BYTES[family]
  // LOCAL, UNSPEC, and families that are not TCP over IP: the sender speaks for itself (section 2.2).
  if (command === 0 || size === undefined) return yes({ length })
  if (length < 16 + 2 * size + 4) throw malformed('a binary header that is too short for its addresses')
  const ports = 16 + 2 * size
  return yes({
    length,
    source: { host: ipText(bytes.subarray(16, 16 + size)), port: bytes.readUInt16BE(ports) },
    destination: { host: ipText(bytes.subarray(16 + size, ports)), port: bytes.readUInt16BE(ports + 2) },
  })
}

const ADDRESS_BYTES: Readonly<Record<number, number>> = { 17: 4, 33: 16 } // TCP over IPv4, TCP over IPv6

/** The header that tells an upstream who called whom. Addresses of different families are both written as IPv6. */
export const writeProxyHeader = (version: 'v1' | 'v2', source: Address, destination: Address): Buffer => {
  const isFour = isIPv4(source.host) && isIPv4(destination.host)
  if (version === 'v1') {
    const [from, to] = isFour ? [source.host, destination.host] : [asSix(source.host), asSix(destination.host)]
    return Buffer.from(
      `PROXY ${isFour ? 'TCP4' : 'TCP6'} ${from} ${to} ${source.port} ${destination.port}\r\n`,
      'latin1',
    )
  }
  const addresses = Buffer.concat([ipBytes(source.host, isFour), ipBytes(destination.host, isFour)])
  const header = Buffer.alloc(16 + addresses.length + 4)
  V2.copy(header)
  header[12] = 0x21
  header[13] = isFour ? 0x11 : 0x21
  header.writeUInt16BE(addresses.length + 4, 14)
  addresses.copy(header, 16)
  header.writeUInt16BE(source.port, header.length - 4)
  header.writeUInt16BE(destination.port, header.length - 2)
  return header
}

const asSix = (host: string): string => (isIPv4(host) ? `::ffff:${host}` : host)

const ipBytes = (host: string, isFour: boolean): Buffer => {
  const four = isIPv4(host) ? Buffer.from(host.split('.').map(Number)) : undefined
  if (four) return isFour ? four : Buffer.concat([Buffer.from('00000000000000000000ffff', 'hex'), four])
  const [head = '', tail] = host.split('::')
  const groups = (part: string | undefined) => (part ? part.split(':') : [])
  const missing = tail === undefined ? 0 : 8 - groups(head).length - groups(tail).length
  const all = [...groups(head), ...Array<string>(missing).fill('0'), ...groups(tail)]
  return Buffer.from(all.map((group) => group.padStart(4, '0')).join(''), 'hex')
}

const ipText = (bytes: Buffer): string => {
  if (bytes.length === 4) return bytes.join('.')
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16)).join(':')
  // The URL parser writes the shortest form (RFC 5952), as the system's own addresses are printed.
  const shortest = new URL(`http://[${groups}]`).hostname.slice(1, -1)
  const mapped = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.test(shortest)
  return mapped ? bytes.subarray(12).join('.') : shortest
}

const malformed = (what: string): ProtocolError => new ProtocolError('PROXY_HEADER_MALFORMED', what)
