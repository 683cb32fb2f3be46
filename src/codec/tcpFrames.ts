import { ipBytes } from './ipText.ts'
import { ACK, FIN, RST, SYN } from './segment.ts'

const PSH = 8
const TCP_HEAD_BYTES = 20
const PAYLOAD_BYTES_MAX = 32_768 // no network does, and every reader takes it: an IPv4 packet may have 65,535
const WINDOW = 65_535

/** One end of a conversation, as its packets name it. */
export interface End {
  readonly host: string
  readonly port: number
}

/** Packets, each an IP header, a TCP header and payload, as if the streams had travelled in them. */
export interface TcpFrames {
  /** The three of a handshake. */
  readonly open: () => Buffer[]
  readonly data: (from: 'client' | 'server', bytes: Uint8Array) => Buffer[]
  readonly end: (from: 'client' | 'server') => Buffer
  readonly reset: (from: 'client' | 'server') => Buffer
  /** A packet that says nothing new, to hang a comment on. */
  readonly nothing: (from: 'client' | 'server') => Buffer
}

/**
 * Makes the packets of one TCP connection (RFC 9293 section 3.1) from what its streams carry. Sequence numbers begin at
 * 0 on both sides, so that a reader sees offsets. Each packet acknowledges all that the other side has sent.
 */
export const tcpFrames = (client: End, server: End): TcpFrames => {
  const from = { client: sideOf(client, server), server: sideOf(server, client) }
  const next = { client: 0, server: 0 }
  const packet = (who: 'client' | 'server', flags: number, payload: Uint8Array = NOTHING): Buffer => {
    const other = who === 'client' ? 'server' : 'client'
    const acknowledged = (flags & ACK) === 0 ? 0 : next[other]
    const made = from[who](next[who], acknowledged, flags, payload)
    const length = payload.length + ((flags & (SYN | FIN)) === 0 ? 0 : 1)
    next[who] = (next[who] + length) >>> 0
    return made
  }
  return {
    open: () => [packet('client', SYN), packet('server', SYN | ACK), packet('client', ACK)],
    data: (who, bytes) => {
      const packets: Buffer[] = []
      for (let at = 0; at < bytes.length; at += PAYLOAD_BYTES_MAX)
        packets.push(packet(who, PSH | ACK, bytes.subarray(at, at + PAYLOAD_BYTES_MAX)))
      return packets
    },
    end: (who) => packet(who, FIN | ACK),
    reset: (who) => packet(who, RST | ACK),
    nothing: (who) => packet(who, ACK),
  }
}

const NOTHING = new Uint8Array()

/** What one side sends: everything of a packet that does not change, and its pseudo-header's sum, are made once. */
const sideOf = (source: End, destination: End) => {
  const [from, to] = sameFamily(ipBytes(source.host), ipBytes(destination.host))
  const isV4 = from.length === 4
  const headBytes = isV4 ? 20 : 40
  return (sequence: number, acknowledged: number, flags: number, payload: Uint8Array): Buffer => {
    const length = TCP_HEAD_BYTES + payload.length
    const packet = Buffer.alloc(headBytes + length)
    if (isV4) {
      packet[0] = 0x45
      packet.writeUInt16BE(headBytes + length, 2)
      packet.writeUInt16BE(0x4000, 6) // not to be fragmented
      packet[8] = 64
      packet[9] = 6
    } else {
      packet[0] = 0x60
      packet.writeUInt16BE(length, 4)
      packet[6] = 6
      packet[7] = 64
    }
    packet.set(from, headBytes - 2 * from.length)
    packet.set(to, headBytes - from.length)
    if (isV4) packet.writeUInt16BE(checksum(packet.subarray(0, headBytes), 0), 10)
    packet.writeUInt16BE(source.port, headBytes)
    packet.writeUInt16BE(destination.port, headBytes + 2)
    packet.writeUInt32BE(sequence, headBytes + 4)
    packet.writeUInt32BE(acknowledged, headBytes + 8)
    packet[headBytes + 12] = (TCP_HEAD_BYTES / 4) << 4
    packet[headBytes + 13] = flags
    packet.writeUInt16BE(WINDOW, headBytes + 14)
    packet.set(payload, headBytes + TCP_HEAD_BYTES)
    // The pseudo-header: both addresses, the protocol and the length (RFC 9293 section 3.1, RFC 8200 section 8.1).
    const pseudo = sumOf(from) + sumOf(to) + 6 + length
    packet.writeUInt16BE(checksum(packet.subarray(headBytes), pseudo), headBytes + 16)
    return packet
  }
}

/** Both as IPv4, or both as IPv6; what is no address (a name) becomes the unspecified one. */
const sameFamily = (a = UNSPECIFIED, b = UNSPECIFIED): readonly [Uint8Array, Uint8Array] =>
  a.length === b.length ? [a, b] : [mapped(a), mapped(b)]

const UNSPECIFIED: Uint8Array = new Uint8Array(4)

const mapped = (address: Uint8Array): Uint8Array =>
  address.length === 16 ? address : Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ...address])

const sumOf = (bytes: Uint8Array): number => {
  let sum = 0
  const even = bytes.length & ~1
  for (let at = 0; at < even; at += 2) sum += (bytes[at]! << 8) | bytes[at + 1]!
  return even === bytes.length ? sum : sum + (bytes[even]! << 8)
}

/** RFC 1071. */
const checksum = (bytes: Uint8Array, start: number): number => {
  let sum = start + sumOf(bytes)
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 65_536)
  return ~sum & 0xffff
}
