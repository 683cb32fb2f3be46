import { ProtocolError } from '../net/protocolError.ts'
import type { CaptureFormat, Taken } from './capture.ts'
import { PACKET_BYTES_MAX } from './pcap.ts'

const SECTION = 0x0a0d0d0a
const INTERFACE = 1
const OLD_PACKET = 2
const SIMPLE_PACKET = 3
const ENHANCED_PACKET = 6
const BLOCK_BYTES_MIN = 12
const BLOCK_BYTES_MAX = PACKET_BYTES_MAX + 65_536 // a packet and its options, or a block of names or secrets
const OPTION_RESOLUTION = 9
const OPTION_OFFSET = 14

interface Interface {
  readonly linkType: number
  readonly snapLength: number
  /** Timestamp units a second. */
  readonly perSecond: number
  readonly offsetSeconds: number
}

/** Whether a file begins with a section header block, which reads the same in either byte order. */
export const isPcapng = (bytes: Uint8Array): boolean =>
  bytes[0] === 0x0a && bytes[1] === 0x0d && bytes[2] === 0x0d && bytes[3] === 0x0a

/** The pcapng file format (draft-ietf-opsawg-pcapng): sections of either byte order, a link type for each interface. */
export const pcapngFormat = (): CaptureFormat => {
  let little = true
  let interfaces: Interface[] = []
  let lastTime = 0

  const packet = (view: DataView, from: Interface | undefined, at: number, captured: number, length: number): Taken => {
    if (from === undefined) throw new ProtocolError('CAPTURE_INTERFACE', 'an interface that was not described')
    if (at + captured > view.byteLength - 4) throw new ProtocolError('CAPTURE_LENGTH', `a length of ${captured} bytes`)
    const bytes = new Uint8Array(view.buffer, view.byteOffset + at, captured)
    const { linkType } = from
    return { bytes: view.byteLength, packet: { time: lastTime, linkType, bytes, length: Math.max(length, captured) } }
  }
  const timed = (view: DataView, from: Interface | undefined, at: number): void => {
    if (from === undefined) return
    const ticks = view.getUint32(at, little) * 4_294_967_296 + view.getUint32(at + 4, little)
    lastTime = (from.offsetSeconds + ticks / from.perSecond) * 1e3
  }
  const block = (view: DataView, type: number): Taken => {
    if (type === ENHANCED_PACKET && view.byteLength >= 32) {
      const from = interfaces[view.getUint32(8, little)]
      timed(view, from, 12)
      return packet(view, from, 28, view.getUint32(20, little), view.getUint32(24, little))
    }
    if (type === OLD_PACKET && view.byteLength >= 32) {
      const from = interfaces[view.getUint16(8, little)]
      timed(view, from, 12)
      return packet(view, from, 28, view.getUint32(20, little), view.getUint32(24, little))
    }
    if (type === SIMPLE_PACKET && view.byteLength >= 16) {
      const length = view.getUint32(8, little)
      const snapLength = interfaces[0]?.snapLength || length
      return packet(view, interfaces[0], 12, Math.min(length, snapLength, view.byteLength - 16), length)
    }
    if (type === INTERFACE && view.byteLength >= 20) interfaces.push(interfaceOf(view, little))
    if (type === SECTION) interfaces = []
    return { bytes: view.byteLength }
  }

  return (bytes) => {
    if (bytes.length < BLOCK_BYTES_MIN) return undefined
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    if (view.getUint32(0) === SECTION) {
      little = view.getUint32(8, true) === 0x1a2b3c4d
      if (!little && view.getUint32(8) !== 0x1a2b3c4d) throw new ProtocolError('CAPTURE_ORDER', 'no byte order')
    }
    const length = view.getUint32(4, little)
    if (length < BLOCK_BYTES_MIN || length > BLOCK_BYTES_MAX || length % 4 !== 0)
      throw new ProtocolError('CAPTURE_LENGTH', `a block of ${length} bytes`)
    if (bytes.length < length) return undefined
    if (view.getUint32(length - 4, little) !== length)
      throw new ProtocolError('CAPTURE_LENGTH', `a block of ${length} bytes that does not end as it began`)
    return block(new DataView(bytes.buffer, bytes.byteOffset, length), view.getUint32(0, little))
  }
}

const interfaceOf = (view: DataView, little: boolean): Interface => {
  let perSecond = 1e6
  let offsetSeconds = 0
  for (let at = 16; at + 4 <= view.byteLength - 4; ) {
    const code = view.getUint16(at, little)
    const length = view.getUint16(at + 2, little)
    if (code === 0 || at + 4 + length > view.byteLength - 4) break
    if (code === OPTION_RESOLUTION && length >= 1) {
      const power = view.getUint8(at + 4)
      perSecond = power < 128 ? 10 ** power : 2 ** (power - 128)
    }
    if (code === OPTION_OFFSET && length >= 8) offsetSeconds = Number(view.getBigInt64(at + 4, little))
    at += 4 + length + ((4 - (length % 4)) % 4)
  }
  return { linkType: view.getUint16(8, little), snapLength: view.getUint32(12, little), perSecond, offsetSeconds }
}
