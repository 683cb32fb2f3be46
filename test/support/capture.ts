import { ACK, FIN, SYN } from '../../src/codec/segment.ts'

/** One TCP segment to write into a capture. */
export interface Wire {
  readonly from: string
  readonly to: string
  readonly sequence: number
  readonly acknowledgement?: number
  readonly flags?: number
  readonly payload?: Uint8Array | string
}

const uint16 = (value: number): Buffer => Buffer.from([(value >> 8) & 255, value & 255])
const uint32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value >>> 0)
  return bytes
}

const endpoint = (text: string): { host: Buffer; port: number } => {
  const colon = text.lastIndexOf(':')
  const host = text.slice(0, colon)
  const port = Number(text.slice(colon + 1))
  return { host: host.includes('.') ? Buffer.from(host.split('.').map(Number)) : ipv6(host), port }
}

const ipv6 = (text: string): Buffer => {
  const [left = '', right = ''] = text.split('::')
  const groups = (part: string) => part.split(':').filter((group) => group !== '')
  const zeros = 8 - groups(left).length - groups(right).length
  const all = [...groups(left), ...Array.from({ length: zeros }, () => '0'), ...groups(right)]
  return Buffer.concat(all.map((group) => uint16(Number.parseInt(group, 16))))
}

/** The TCP segment alone. */
export const tcp = ({ from, to, sequence, acknowledgement = 0, flags = ACK, payload = '' }: Wire): Buffer =>
  Buffer.concat([
    uint16(endpoint(from).port),
    uint16(endpoint(to).port),
    uint32(sequence),
    uint32(acknowledgement),
    Buffer.from([5 << 4, flags, 255, 255, 0, 0, 0, 0]),
    Buffer.from(payload as string),
  ])

/** Bytes in an IPv4 or IPv6 packet between the hosts of a segment; a fragment where asked for. */
export const ip = (
  { from, to }: Pick<Wire, 'from' | 'to'>,
  payload: Uint8Array,
  { protocol = 6, fragment = 0, id = 1 }: { protocol?: number; fragment?: number; id?: number } = {},
): Buffer => {
  const [source, destination] = [endpoint(from).host, endpoint(to).host]
  if (source.length === 16) {
    const head = Buffer.concat([uint32(6 * 2 ** 28), uint16(payload.length), Buffer.from([protocol, 64])])
    return Buffer.concat([head, source, destination, payload])
  }
  const head = [Buffer.from([0x45, 0]), uint16(20 + payload.length), uint16(id), uint16(fragment)]
  return Buffer.concat([...head, Buffer.from([64, protocol, 0, 0]), source, destination, payload])
}

/** A whole IP packet with one segment. */
export const packet = (wire: Wire): Buffer => ip(wire, tcp(wire))

/** An ethernet frame around an IP packet. */
export const frame = (inside: Buffer, tags: readonly number[] = []): Buffer =>
  Buffer.concat([
    Buffer.alloc(12, 2),
    ...tags.flatMap((tag) => [uint16(tag), uint16(7)]),
    uint16(etherType(inside)),
    inside,
  ])

export const etherType = (inside: Buffer): number => (inside[0]! >> 4 === 6 ? 0x86dd : 0x0800)

export interface Written {
  readonly time: number
  readonly bytes: Uint8Array
  /** On the wire, when the capture cut it. */
  readonly length?: number
}

export interface PcapOptions {
  readonly linkType?: number
  readonly little?: boolean
  readonly nano?: boolean
}

/** A pcap file. Times are milliseconds. */
export const pcap = (
  packets: readonly Written[],
  { linkType = 1, little = true, nano = false }: PcapOptions = {},
): Buffer =>
  Buffer.concat([pcapHead({ linkType, little, nano }), ...packets.map((each) => pcapPacket(each, { little, nano }))])

export const pcapHead = ({ linkType = 1, little = true, nano = false }: PcapOptions): Buffer => {
  const words = [nano ? 0xa1b23c4d : 0xa1b2c3d4, little ? 0x00040002 : 0x00020004, 0, 0, 65_535, linkType]
  return Buffer.concat(words.map((word) => ordered(word, little)))
}

export const pcapPacket = ({ time, bytes, length }: Written, { little = true, nano = false }: PcapOptions): Buffer => {
  const seconds = Math.floor(time / 1000)
  const fraction = Math.round((time - seconds * 1000) * (nano ? 1e6 : 1e3))
  const head = [seconds, fraction, bytes.length, length ?? bytes.length].map((word) => ordered(word, little))
  return Buffer.concat([...head, bytes])
}

export interface Interface {
  readonly linkType: number
  readonly resolution?: number
  readonly offset?: number
}

/** A pcapng file of one section; each packet names its interface. */
export const pcapng = (
  interfaces: readonly Interface[],
  packets: readonly (Written & { readonly on: number })[],
  little = true,
): Buffer => {
  const word = (value: number) => ordered(value, little)
  const half = (value: number) => (little ? uint16(value).swap16() : uint16(value))
  const block = (type: number, ...parts: Buffer[]): Buffer => {
    const body = Buffer.concat(parts)
    const padding = Buffer.alloc((4 - (body.length % 4)) % 4)
    const length = word(12 + body.length + padding.length)
    return Buffer.concat([word(type), length, body, padding, length])
  }
  const option = (code: number, value: Buffer) =>
    Buffer.concat([half(code), half(value.length), value, Buffer.alloc((4 - (value.length % 4)) % 4)])
  const offsetOf = (seconds: number) => (little ? [word(seconds), word(0)] : [word(0), word(seconds)])
  const described = ({ linkType, resolution, offset }: Interface) =>
    block(
      1,
      half(linkType),
      half(0),
      word(0),
      ...(resolution === undefined ? [] : [option(9, Buffer.from([resolution]))]),
      ...(offset === undefined ? [] : [option(14, Buffer.concat(offsetOf(offset)))]),
      option(0, Buffer.alloc(0)),
    )
  const captured = ({ time, bytes, length, on }: Written & { on: number }) => {
    const { resolution = 6, offset = 0 } = interfaces[on]!
    const perSecond = resolution < 128 ? 10 ** resolution : 2 ** (resolution - 128)
    const ticks = Math.round((time / 1000 - offset) * perSecond)
    const times = [word(Math.floor(ticks / 2 ** 32)), word(ticks % 2 ** 32)]
    return block(6, word(on), ...times, word(bytes.length), word(length ?? bytes.length), Buffer.from(bytes))
  }
  const section = block(0x0a0d0d0a, word(0x1a2b3c4d), half(1), half(0), word(0xffffffff), word(0xffffffff))
  // A block of names in between: what is not understood is passed over.
  return Buffer.concat([section, ...interfaces.map(described), block(4, word(0)), ...packets.map(captured)])
}

const ordered = (value: number, little: boolean): Buffer => (little ? uint32(value).swap32() : uint32(value))

/** The segments of an ordinary connection: handshake, what each side says in turn, goodbyes. */
export const connection = (
  turns: readonly (readonly ['client' | 'server', string])[],
  { client = '10.0.0.1:40000', server = '10.0.0.2:80', start = 1_000, answer = 9_000, close = true } = {},
): Wire[] => {
  const next = { client: (start + 1) >>> 0, server: (answer + 1) >>> 0 }
  const one = (side: 'client' | 'server', flags: number, payload = ''): Wire => {
    const other = side === 'client' ? 'server' : 'client'
    const [from, to] = side === 'client' ? [client, server] : [server, client]
    const wire = { from, to, sequence: next[side], acknowledgement: next[other], flags, payload }
    next[side] = (next[side] + payload.length + (flags & FIN)) >>> 0
    return wire
  }
  return [
    { from: client, to: server, sequence: start, flags: SYN },
    { from: server, to: client, sequence: answer, acknowledgement: next.client, flags: SYN | ACK },
    one('client', ACK),
    ...turns.map(([side, text]) => one(side, ACK, text)),
    ...(close ? [one('client', ACK | FIN), one('server', ACK | FIN), one('client', ACK)] : []),
  ]
}

/** An ethernet capture of segments, one millisecond apart. */
export const captureOf = (wires: readonly Wire[], start = 1_700_000_000_000): Buffer =>
  pcap(wires.map((wire, at) => ({ time: start + at, bytes: frame(packet(wire)) })))
