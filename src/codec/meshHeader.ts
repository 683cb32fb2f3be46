import { type Match, MORE, yes } from '../net/match.ts'
import { ProtocolError } from '../net/protocolError.ts'

/** The application protocol two Sluices agree on, by RFC 7301. The number is the version of the header below. */
export const MESH_ALPN = 'sluice/1'

/** What may be inside: the sending proxy has looked already. Absent: look yourself. */
export type InnerProtocol = 'http1' | 'http2' | 'tls' | 'opaque'

/**
 * What one proxy tells the next before the first byte of the application. After the TLS handshake the client sends
 *
 *     length  2 bytes   of all that follows in the header
 *     field   1 byte    1 port, 2 protocol, 3 host
 *     size    1 byte
 *     value   size bytes
 *     …                 more fields, then the application's bytes
 *
 * Numbers are big-endian. Fields 128 to 255 must be understood or the connection refused; others are skipped.
 */
export interface MeshHeader {
  /** The port the application called, before any redirect. */
  readonly port: number
  readonly protocol?: InnerProtocol
  /** The host it called, where that is not the address the connection was made to: an authority behind a gateway. */
  readonly host?: string
}

const HEADER_BYTES_MAX = 1_024 // a host name is at most 255, and there must be an end to it
const PROTOCOLS: readonly (InnerProtocol | undefined)[] = [undefined, 'http1', 'http2', 'tls', 'opaque']
const PORT = 1
const PROTOCOL = 2
const HOST = 3
const MUST_UNDERSTAND = 128

/** The header's bytes. */
export const writeMeshHeader = ({ port, protocol, host }: MeshHeader): Buffer => {
  const fields = [Buffer.from([PORT, 2, port >> 8, port & 255])]
  if (protocol) fields.push(Buffer.from([PROTOCOL, 1, PROTOCOLS.indexOf(protocol)]))
  if (host) fields.push(Buffer.from([HOST, Buffer.byteLength(host)]), Buffer.from(host))
  const body = Buffer.concat(fields)
  return Buffer.concat([Buffer.from([body.length >> 8, body.length & 255]), body])
}

/** The header at the beginning of the bytes and where it ends, or a ProtocolError: there is no "no" once `sluice/1` is agreed. */
export const readMeshHeader = (bytes: Buffer): Match<{ readonly header: MeshHeader; readonly end: number }> => {
  if (bytes.length < 2) return MORE
  const end = 2 + bytes.readUInt16BE(0)
  if (end > HEADER_BYTES_MAX) throw new ProtocolError('MESH_HEADER_TOO_LARGE', `a header of ${end} bytes`)
  if (bytes.length < end) return MORE
  return yes({ header: readFields(bytes.subarray(2, end)), end })
}

const readFields = (bytes: Buffer): MeshHeader => {
  let port: number | undefined
  let protocol: InnerProtocol | undefined
  let host: string | undefined
  for (let at = 0; at < bytes.length; ) {
    const size = bytes[at + 1]
    if (size === undefined || at + 2 + size > bytes.length)
      throw new ProtocolError('MESH_HEADER_CUT', `field ${bytes[at]} is longer than the header`)
    const value = bytes.subarray(at + 2, at + 2 + size)
    if (bytes[at] === PORT) port = readPort(value)
    else if (bytes[at] === PROTOCOL)
      protocol = PROTOCOLS[value[0] ?? 0] // one we do not know: look yourself
    else if (bytes[at] === HOST) host = readHost(value)
    else if (bytes[at]! >= MUST_UNDERSTAND)
      throw new ProtocolError('MESH_HEADER_UNKNOWN', `field ${bytes[at]} must be understood and is not`)
    at += 2 + size
  }
  if (port === undefined) throw new ProtocolError('MESH_HEADER_NO_PORT', 'the header names no port')
  return { port, ...(protocol ? { protocol } : {}), ...(host ? { host } : {}) }
}

const readPort = (value: Buffer): number => {
  const port = value.length === 2 ? value.readUInt16BE(0) : 0
  if (port === 0) throw new ProtocolError('MESH_HEADER_NO_PORT', 'the header names no port that can be called')
  return port
}

const readHost = (value: Buffer): string => {
  const host = value.toString('latin1').toLowerCase()
  if (!/^[a-z0-9._:-]+$/.test(host))
    throw new ProtocolError('MESH_HEADER_BAD_HOST', 'the host is no name and no address')
  return host
}
