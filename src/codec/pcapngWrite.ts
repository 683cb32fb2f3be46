const SECTION = 0x0a0d0d0a
const INTERFACE = 1
const STATISTICS = 5
const ENHANCED_PACKET = 6
const SECRETS = 10
const OPTION_COMMENT = 1
const OPTION_HARDWARE = 2
const OPTION_APPLICATION = 4
const OPTION_NAME = 2
const OPTION_DROPPED = 5
const OPTION_LENGTH_MAX = 65_535

/** LINKTYPE_RAW: a packet begins with its IP header. */
const RAW_IP = 101
/** TLS key log, as NSS writes it (draft-ietf-opsawg-pcapng section 4.7). */
const TLS_KEY_LOG = 0x544c534b

/** What a file begins with: who wrote it, and one interface whose packets are bare IP, timed in microseconds. */
export const pcapngHead = (application: string, name: string): Buffer => {
  const section = Buffer.alloc(16)
  section.writeUInt32LE(0x1a2b3c4d, 0)
  section.writeUInt16LE(1, 4)
  section.writeBigInt64LE(-1n, 8)
  const interfaces = Buffer.alloc(8)
  interfaces.writeUInt16LE(RAW_IP, 0)
  const who = [option(OPTION_HARDWARE, 'frames made from streams'), option(OPTION_APPLICATION, application)]
  return Buffer.concat([
    block(SECTION, [section, ...who, END]),
    block(INTERFACE, [interfaces, option(OPTION_NAME, name), END]),
  ])
}

/** One packet; `ms` since 1970, with a fraction. */
export const pcapngPacket = (ms: number, packet: Uint8Array, comment?: string): Buffer => {
  const head = Buffer.alloc(20)
  writeTime(head, 4, ms)
  head.writeUInt32LE(packet.length, 12)
  head.writeUInt32LE(packet.length, 16)
  const options = comment === undefined ? [] : [option(OPTION_COMMENT, comment), END]
  return block(ENHANCED_PACKET, [head, padded(packet), ...options])
}

/** Lines of a TLS key log: they open the sessions whose packets come after them. */
export const pcapngSecrets = (lines: Uint8Array): Buffer => {
  const head = Buffer.alloc(8)
  head.writeUInt32LE(TLS_KEY_LOG, 0)
  head.writeUInt32LE(lines.length, 4)
  return block(SECRETS, [head, padded(lines)])
}

/** How many packets are missing from the file so far. */
export const pcapngDropped = (ms: number, dropped: number): Buffer => {
  const head = Buffer.alloc(12)
  writeTime(head, 4, ms)
  const count = Buffer.alloc(8)
  count.writeBigUInt64LE(BigInt(dropped))
  return block(STATISTICS, [head, option(OPTION_DROPPED, count), END])
}

/** What whole blocks at the beginning of bytes say, for whoever only counts: how far they go, packets, packets dropped. */
export const pcapngTally = (bytes: Buffer): { at: number; packets: number; dropped: number | undefined } => {
  let [at, packets] = [0, 0]
  let dropped: number | undefined
  while (bytes.length - at >= 12) {
    const length = bytes.readUInt32LE(at + 4)
    if (length < 12 || bytes.length - at < length) break
    const type = bytes.readUInt32LE(at)
    if (type === ENHANCED_PACKET) packets++
    if (type === STATISTICS) dropped = Number(bytes.readBigUInt64LE(at + 24))
    at += length
  }
  return { at, packets, dropped }
}

const block = (type: number, parts: readonly Uint8Array[]): Buffer => {
  const length = 12 + parts.reduce((sum, part) => sum + part.length, 0)
  const [head, tail] = [Buffer.alloc(8), Buffer.alloc(4)]
  head.writeUInt32LE(type, 0)
  head.writeUInt32LE(length, 4)
  tail.writeUInt32LE(length, 0)
  return Buffer.concat([head, ...parts, tail])
}

const option = (code: number, value: string | Buffer): Buffer => {
  const bytes = Buffer.from(value as string).subarray(0, OPTION_LENGTH_MAX)
  const head = Buffer.alloc(4)
  head.writeUInt16LE(code, 0)
  head.writeUInt16LE(bytes.length, 2)
  return Buffer.concat([head, padded(bytes)])
}

const END = Buffer.alloc(4)

const padded = (bytes: Uint8Array): Uint8Array =>
  bytes.length % 4 === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(4 - (bytes.length % 4))])

const writeTime = (into: Buffer, at: number, ms: number): void => {
  const micros = Math.round(ms * 1000)
  into.writeUInt32LE(Math.floor(micros / 4_294_967_296), at)
  into.writeUInt32LE(micros % 4_294_967_296, at + 4)
}
