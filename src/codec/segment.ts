import type { Packet } from './capture.ts'
import { type Fragment, fragments } from './fragments.ts'
import { behindTags, ETHERNET_FRAME, ethernet, type Inside, IPV4, IPV6, insideOf, pointToPoint } from './linkLayer.ts'

/** One TCP segment (RFC 9293 section 3.1). Addresses and payload are views of the packet. */
export interface Segment {
  readonly time: number
  readonly source: Uint8Array
  readonly sourcePort: number
  readonly destination: Uint8Array
  readonly destinationPort: number
  readonly sequence: number
  readonly acknowledgement: number
  readonly flags: number
  readonly payload: Uint8Array
  /** Bytes of payload on the wire: more than there are here when the capture cut the packet short. */
  readonly length: number
}

export const FIN = 1
export const SYN = 2
export const RST = 4
export const ACK = 16

const TCP = 6
const UDP = 17
const GRE = 47
const VXLAN_PORT = 4_789 // RFC 7348
const GENEVE_PORT = 6_081 // RFC 8926
const L2TP_PORT = 1_701 // RFC 2661
const TUNNELS_MAX = 4 // an overlay inside an overlay is two
const IPV6_EXTENSIONS_MAX = 8

/** An IP packet without its header; `length` is what the header says, which may be more than was captured. */
interface Payload {
  readonly protocol: number
  readonly source: Uint8Array
  readonly destination: Uint8Array
  readonly bytes: Uint8Array
  readonly length: number
  readonly fragment?: Fragment['fragment']
}

/**
 * Finds the TCP segment in a packet: behind VLAN tags and MPLS labels, in IPv4 or IPv6 (fragments are put together),
 * inside IP-in-IP, GRE, VXLAN, GENEVE and L2TP. Whatever is not TCP, or not whole enough to be one, is undefined.
 */
export const segmentReader = (): ((packet: Packet) => Segment | undefined) => {
  const whole = fragments()

  const fromInside = (
    bytes: Uint8Array,
    inside: Inside | undefined,
    time: number,
    depth: number,
  ): Segment | undefined => {
    if (inside === undefined || depth > TUNNELS_MAX) return undefined
    const { etherType, at } = inside
    if (etherType === ETHERNET_FRAME) return fromFrame(bytes.subarray(at), time, depth)
    const packet = bytes.subarray(at)
    const found = etherType === IPV4 ? ipv4(packet) : etherType === IPV6 ? ipv6(packet) : undefined
    if (found === undefined) return undefined
    const payload = found.fragment === undefined ? found : whole(found as Fragment)
    return payload === undefined ? undefined : fromPayload(payload, time, depth)
  }
  const fromFrame = (bytes: Uint8Array, time: number, depth: number) =>
    fromInside(bytes, ethernet(bytes), time, depth + 1)

  const fromPayload = (payload: Payload, time: number, depth: number): Segment | undefined => {
    const { protocol, bytes } = payload
    if (protocol === TCP) return tcp(payload, time)
    if (protocol === 4) return fromInside(bytes, { etherType: IPV4, at: 0 }, time, depth + 1)
    if (protocol === 41) return fromInside(bytes, { etherType: IPV6, at: 0 }, time, depth + 1)
    if (protocol === GRE) return fromInside(bytes, gre(bytes), time, depth + 1)
    if (protocol !== UDP || bytes.length < 16) return undefined
    const port = uint16(bytes, 2)
    if (port === VXLAN_PORT && (bytes[8]! & 8) === 8) return fromFrame(bytes.subarray(16), time, depth)
    if (port === L2TP_PORT) return fromInside(bytes, l2tp(bytes), time, depth + 1)
    if (port !== GENEVE_PORT || bytes[8]! >> 6 !== 0) return undefined
    return fromInside(bytes, { etherType: uint16(bytes, 10), at: 16 + (bytes[8]! & 0x3f) * 4 }, time, depth + 1)
  }

  return ({ linkType, bytes, time }) => fromInside(bytes, insideOf(linkType, bytes), time, 0)
}

/** RFC 791. A total length of 0 is what a network card that cuts packets itself leaves behind. */
const ipv4 = (bytes: Uint8Array): Payload | undefined => {
  if (bytes.length < 20 || bytes[0]! >> 4 !== 4) return undefined
  const head = (bytes[0]! & 15) * 4
  const total = uint16(bytes, 2) || bytes.length
  if (head < 20 || total < head || bytes.length < head) return undefined
  const payload: Payload = {
    protocol: bytes[9]!,
    source: bytes.subarray(12, 16),
    destination: bytes.subarray(16, 20),
    bytes: bytes.subarray(head, total),
    length: total - head,
  }
  const offset = (uint16(bytes, 6) & 0x1fff) * 8
  const more = (bytes[6]! & 0x20) !== 0
  return offset === 0 && !more ? payload : { ...payload, fragment: { id: uint16(bytes, 4), offset, more } }
}

/** RFC 8200, with the extension headers that may stand before TCP. */
const ipv6 = (bytes: Uint8Array): Payload | undefined => {
  if (bytes.length < 40 || bytes[0]! >> 4 !== 6) return undefined
  const total = uint16(bytes, 4) === 0 ? bytes.length : 40 + uint16(bytes, 4)
  const [source, destination] = [bytes.subarray(8, 24), bytes.subarray(24, 40)]
  let protocol = bytes[6]!
  let at = 40
  for (let headers = 0; headers < IPV6_EXTENSIONS_MAX; headers++) {
    const isExtension = protocol === 0 || protocol === 43 || protocol === 60 || protocol === 135 || protocol === 51
    if (protocol !== 44 && !isExtension) {
      return { protocol, source, destination, bytes: bytes.subarray(at, total), length: total - at }
    }
    if (at + 8 > bytes.length || at + 8 > total) return undefined
    const next = bytes[at]!
    if (protocol === 44) {
      const [offset, more] = [uint16(bytes, at + 2) & 0xfff8, (bytes[at + 3]! & 1) === 1]
      if (offset > 0 || more) {
        const fragment = { id: uint32(bytes, at + 4), offset, more }
        return {
          protocol: next,
          source,
          destination,
          bytes: bytes.subarray(at + 8, total),
          length: total - at - 8,
          fragment,
        }
      }
      at += 8
    } else {
      at += protocol === 51 ? (bytes[at + 1]! + 2) * 4 : (bytes[at + 1]! + 1) * 8
    }
    if (at > total) return undefined
    protocol = next
  }
  return undefined
}

/** RFC 2784 and RFC 2890. */
const gre = (bytes: Uint8Array): Inside | undefined => {
  if (bytes.length < 4 || (bytes[1]! & 7) !== 0) return undefined
  const optional = [0x80, 0x20, 0x10].filter((bit) => (bytes[0]! & bit) !== 0).length
  return behindTags(bytes, uint16(bytes, 2), 4 + 4 * optional)
}

/** RFC 2661 section 3.1, data messages: behind UDP's header, a header whose fields are optional, then PPP. */
const l2tp = (bytes: Uint8Array): Inside | undefined => {
  const flags = bytes[8]!
  if ((flags & 0x80) !== 0 || (bytes[9]! & 15) !== 2) return undefined
  const at = 8 + 6 + ((flags & 0x40) === 0 ? 0 : 2) + ((flags & 8) === 0 ? 0 : 4)
  return pointToPoint(bytes, (flags & 2) === 0 ? at : at + 2 + uint16(bytes, at))
}

const tcp = ({ bytes, length, source, destination }: Payload, time: number): Segment | undefined => {
  if (bytes.length < 20) return undefined
  const head = (bytes[12]! >> 4) * 4
  if (head < 20 || head > length) return undefined
  return {
    time,
    source,
    sourcePort: uint16(bytes, 0),
    destination,
    destinationPort: uint16(bytes, 2),
    sequence: uint32(bytes, 4),
    acknowledgement: uint32(bytes, 8),
    flags: bytes[13]!,
    payload: bytes.subarray(head),
    length: length - head,
  }
}

const uint16 = (bytes: Uint8Array, at: number): number => bytes[at]! * 256 + bytes[at + 1]!
const uint32 = (bytes: Uint8Array, at: number): number => uint16(bytes, at) * 65_536 + uint16(bytes, at + 2)
