/** What is inside a frame: where its bytes begin, and their ethertype. */
export interface Inside {
  readonly etherType: number
  readonly at: number
}

export const IPV4 = 0x0800
export const IPV6 = 0x86dd
export const ETHERNET_FRAME = 0x6558 // as GRE names a frame in a frame
const PPPOE_SESSION = 0x8864
const MPLS = new Set([0x8847, 0x8848])
const VLAN = new Set([0x8100, 0x88a8, 0x9100, 0x9200])
const TAGS_MAX = 8 // two are in use (QinQ); a loop needs an end

type LinkLayer = (bytes: Uint8Array) => Inside | undefined

/** The ethertype at `at`, behind its tags and labels. */
export const behindTags = (bytes: Uint8Array, etherType: number, start: number): Inside | undefined => {
  let type = etherType
  let at = start
  for (let tags = 0; tags < TAGS_MAX; tags++) {
    if (VLAN.has(type)) {
      type = uint16(bytes, at + 2)
      at += 4
    } else if (MPLS.has(type)) {
      const bottom = (bytes[at + 2]! & 1) === 1
      at += 4
      if (bottom) return byVersion(bytes, at)
    } else if (type === PPPOE_SESSION) {
      return pointToPoint(bytes, at + 6)
    } else if (type <= 1_500) {
      // IEEE 802.3 with a SNAP header; anything else inside a length is not IP.
      return bytes[at] === 0xaa && bytes[at + 1] === 0xaa ? { etherType: uint16(bytes, at + 6), at: at + 8 } : undefined
    } else {
      return { etherType: type, at }
    }
  }
  return undefined
}

/** Inside a packet that begins with an IP header, whichever it is. */
const byVersion = (bytes: Uint8Array, at: number): Inside | undefined => {
  const version = bytes[at]! >> 4
  return version === 4 ? { etherType: IPV4, at } : version === 6 ? { etherType: IPV6, at } : undefined
}

/** RFC 1661: the protocol may be one byte, or two behind an address and a control byte (RFC 1662). */
export const pointToPoint = (bytes: Uint8Array, start: number): Inside | undefined => {
  const at = bytes[start] === 0xff && bytes[start + 1] === 3 ? start + 2 : start
  const short = (bytes[at]! & 1) === 1
  const protocol = short ? bytes[at]! : uint16(bytes, at)
  const inside = at + (short ? 1 : 2)
  return protocol === 0x21
    ? { etherType: IPV4, at: inside }
    : protocol === 0x57
      ? { etherType: IPV6, at: inside }
      : undefined
}

/** An ethernet frame. */
export const ethernet: LinkLayer = (bytes) => behindTags(bytes, uint16(bytes, 12), 14)

const rawIp: LinkLayer = (bytes) => byVersion(bytes, 0)

/** Four bytes of address family, in the byte order of whoever wrote them: what follows says it better. */
const loopback: LinkLayer = (bytes) => byVersion(bytes, 4)

/** LINKTYPE_ numbers, as tcpdump.org assigns them, to how what is inside is found. */
const LINK_LAYERS: Readonly<Record<number, LinkLayer>> = {
  0: loopback, // BSD null
  1: ethernet,
  9: (bytes) => pointToPoint(bytes, 0), // PPP
  12: rawIp, // raw IP as OpenBSD numbers it
  14: rawIp, // and others
  50: (bytes) => pointToPoint(bytes, 0), // PPP in HDLC framing
  51: (bytes) => pointToPoint(bytes, 6), // PPPoE
  101: rawIp,
  104: (bytes) => behindTags(bytes, uint16(bytes, 2), 4), // Cisco HDLC
  108: loopback, // OpenBSD's, in network order
  113: (bytes) => behindTags(bytes, uint16(bytes, 14), 16), // Linux cooked
  129: (bytes) => arcnet(bytes),
  228: () => ({ etherType: IPV4, at: 0 }),
  229: () => ({ etherType: IPV6, at: 0 }),
  242: (bytes) => ({ etherType: uint16(bytes, 40), at: 44 }), // IP over InfiniBand
  276: (bytes) => behindTags(bytes, uint16(bytes, 0), 20), // Linux cooked, version 2
}

/** Linux ARCNET (RFC 1201 and RFC 1051): source, destination, two of offset, then the protocol. */
const arcnet = (bytes: Uint8Array): Inside | undefined => {
  const protocol = bytes[4]
  if (protocol === 212) return { etherType: IPV4, at: 8 }
  return protocol === 240 ? { etherType: IPV4, at: 5 } : undefined
}

/** Whether packets of this link type can be read at all. */
export const isKnownLinkType = (linkType: number): boolean => LINK_LAYERS[linkType] !== undefined

/** What is inside a frame of this link type; undefined for what is not IP. Bytes beyond the end read as NaN, never match. */
export const insideOf = (linkType: number, bytes: Uint8Array): Inside | undefined => LINK_LAYERS[linkType]?.(bytes)

const uint16 = (bytes: Uint8Array, at: number): number => bytes[at]! * 256 + bytes[at + 1]!
