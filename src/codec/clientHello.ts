import { type Match, MORE, NO, yes } from '../net/match.ts'

/** What a TLS client says of itself before anything is encrypted (RFC 8446 section 4.1.2, RFC 5246 section 7.4.1.2). */
export interface ClientHello {
  /** Of the first record: 0x0301 and the like; 0x0002 for a hello in SSL 2.0 form. */
  readonly recordVersion: number
  /** `client_version`, which TLS 1.3 froze at 0x0303. */
  readonly legacyVersion: number
  /** Extension 43 as sent, GREASE included; null when absent. */
  readonly supportedVersions: readonly number[] | null
  /** The first host name of extension 0, in the client's spelling; null when absent or not a printable name. */
  readonly sni: string | null
  /** Extension 16 as sent, one character a byte; null when absent. */
  readonly alpn: readonly string[] | null
  /** The types of all extensions, in the client's order. */
  readonly extensions: readonly number[]
}

const HANDSHAKE_RECORD = 22
const CLIENT_HELLO = 1
const RECORD_HEAD_BYTES = 5
const MESSAGE_HEAD_BYTES = 4
const RECORD_BYTES_MAX = 16_384 // RFC 8446 section 5.1: 2^14, and a plaintext record may not be longer
const MESSAGE_BYTES_MIN = 2 + 32 + 1 + 4 + 2 // version, random, no session, one cipher suite, one compression
const SERVER_NAME = 0
const ALPN = 16
const SUPPORTED_VERSIONS = 43

/**
 * Recognises a whole ClientHello at the beginning of a stream, however it is cut into records (RFC 8446 section 5.1
 * lets a message span them) or segments. What follows it is not looked at.
 */
export const clientHello = (bytes: Uint8Array): Match<ClientHello> => {
  if (bytes.length === 0) return MORE
  return bytes[0] === HANDSHAKE_RECORD ? recordForm(bytes) : bytes[0]! >= 0x80 ? ssl2Form(bytes) : NO
}

/** How many bytes of the stream a hello takes at least, by its own length field; 0 where that cannot be told. */
export const clientHelloBytes = (bytes: Uint8Array): number => {
  if (bytes.length < RECORD_HEAD_BYTES + MESSAGE_HEAD_BYTES) return 0
  if (bytes[0] !== HANDSHAKE_RECORD || bytes[1] !== 3 || bytes[5] !== CLIENT_HELLO) return 0
  const size = uint16(bytes, 3)
  if (size < MESSAGE_HEAD_BYTES || size > RECORD_BYTES_MAX) return 0
  return RECORD_HEAD_BYTES + MESSAGE_HEAD_BYTES + bytes[6]! * 65_536 + uint16(bytes, 7)
}

const recordForm = (bytes: Uint8Array): Match<ClientHello> => {
  const message = handshakeMessage(bytes)
  if (message.is !== 'yes') return message
  const hello = messageBody(message.value, uint16(bytes, 1))
  return hello === undefined ? NO : yes(hello)
}

/** The body of the first handshake message: a view of its record, or a copy where it spans several. */
const handshakeMessage = (bytes: Uint8Array): Match<Uint8Array> => {
  const parts: Uint8Array[] = []
  let missing = -1 // bytes of the message, its head included, that are still to come; -1 before its length is known
  let head = 0 // bytes of the four-byte message head that have been seen
  let length = 0
  for (let at = 0; ; ) {
    const left = bytes.length - at
    if (left > 0 && bytes[at] !== HANDSHAKE_RECORD) return NO
    if (left > 1 && bytes[at + 1] !== 3) return NO
    if (left < RECORD_HEAD_BYTES) return MORE
    const size = uint16(bytes, at + 3)
    if (size === 0 || size > RECORD_BYTES_MAX) return NO
    const end = Math.min(at + RECORD_HEAD_BYTES + size, bytes.length)
    let from = at + RECORD_HEAD_BYTES
    for (; head < MESSAGE_HEAD_BYTES && from < end; head++, from++) {
      if (head === 0 && bytes[from] !== CLIENT_HELLO) return NO
      if (head > 0) length = length * 256 + bytes[from]!
    }
    if (head === MESSAGE_HEAD_BYTES && missing < 0) {
      if (length < MESSAGE_BYTES_MIN) return NO
      missing = length
    }
    if (missing > 0) {
      const part = bytes.subarray(from, Math.min(end, from + missing))
      missing -= part.length
      parts.push(part)
    }
    if (missing === 0) return yes(parts.length === 1 ? parts[0]! : Buffer.concat(parts))
    at = end
  }
}

const messageBody = (body: Uint8Array, recordVersion: number): ClientHello | undefined => {
  if (body[0] !== 3) return undefined
  let at = 2 + 32
  const session = body[at]!
  if (session > 32) return undefined
  at += 1 + session
  if (at + 2 > body.length) return undefined
  const suites = uint16(body, at)
  if (suites === 0 || suites % 2 === 1) return undefined
  at += 2 + suites
  if (at + 1 > body.length) return undefined
  const compressions = body[at]!
  at += 1 + compressions
  if (compressions === 0 || at > body.length) return undefined
  const extensions = at === body.length ? new Map<number, Uint8Array>() : extensionsOf(body, at)
  if (extensions === undefined) return undefined
  return {
    recordVersion,
    legacyVersion: uint16(body, 0),
    supportedVersions: versions(extensions.get(SUPPORTED_VERSIONS)),
    sni: serverName(extensions.get(SERVER_NAME)),
    alpn: protocolNames(extensions.get(ALPN)),
    extensions: [...extensions.keys()],
  }
}

/** By type, in order. Of a type that comes twice, which RFC 8446 section 4.2 forbids, the first counts. */
const extensionsOf = (body: Uint8Array, start: number): Map<number, Uint8Array> | undefined => {
  if (start + 2 > body.length || start + 2 + uint16(body, start) !== body.length) return undefined
  const found = new Map<number, Uint8Array>()
  for (let at = start + 2; at < body.length; ) {
    if (at + 4 > body.length) return undefined
    const end = at + 4 + uint16(body, at + 2)
    if (end > body.length) return undefined
    const type = uint16(body, at)
    if (!found.has(type)) found.set(type, body.subarray(at + 4, end))
    at = end
  }
  return found
}

/** RFC 6066 section 3. A name with bytes that no host name has is none: a rule must not be fooled by it. */
const serverName = (list: Uint8Array | undefined): string | null => {
  if (list === undefined || list.length < 2 || 2 + uint16(list, 0) !== list.length) return null
  for (let at = 2; at + 3 <= list.length; ) {
    const end = at + 3 + uint16(list, at + 1)
    if (end > list.length) return null
    if (list[at] === 0) {
      const name = latin1(list, at + 3, end)
      return /^[\x21-\x7e]+$/.test(name) ? name : null
    }
    at = end
  }
  return null
}

/** RFC 7301 section 3.1. A list that does not add up is none. */
const protocolNames = (list: Uint8Array | undefined): readonly string[] | null => {
  if (list === undefined || list.length < 2 || 2 + uint16(list, 0) !== list.length) return null
  const names: string[] = []
  for (let at = 2; at < list.length; ) {
    const end = at + 1 + list[at]!
    if (end > list.length || end === at + 1) return null
    names.push(latin1(list, at + 1, end))
    at = end
  }
  return names
}

/** RFC 8446 section 4.2.1. */
const versions = (list: Uint8Array | undefined): readonly number[] | null => {
  if (list === undefined || list.length < 3 || 1 + list[0]! !== list.length || list[0]! % 2 === 1) return null
  const found: number[] = []
  for (let at = 1; at < list.length; at += 2) found.push(uint16(list, at))
  return found
}

/** RFC 5246 appendix E.2: a hello in SSL 2.0 form, as clients before about 2010 sent to offer TLS 1.x. */
const ssl2Form = (bytes: Uint8Array): Match<ClientHello> => {
  if (bytes.length > 2 && bytes[2] !== CLIENT_HELLO) return NO
  if (bytes.length > 3 && bytes[3] !== 3 && bytes[3] !== 0) return NO
  if (bytes.length > 4 && (bytes[3] === 0 ? bytes[4] !== 2 : bytes[4]! > 4)) return NO
  if (bytes.length < 11) return MORE
  const [suites, session, challenge] = [uint16(bytes, 5), uint16(bytes, 7), uint16(bytes, 9)]
  if (suites === 0 || suites % 3 !== 0 || (session !== 0 && session !== 16)) return NO
  if (challenge < 16 || challenge > 32) return NO
  const length = uint16(bytes, 0) & 0x7fff
  if (length !== 9 + suites + session + challenge) return NO
  if (bytes.length < 2 + length) return MORE
  return yes({
    recordVersion: 2,
    legacyVersion: uint16(bytes, 3),
    supportedVersions: null,
    sni: null,
    alpn: null,
    extensions: [],
  })
}

const latin1 = (bytes: Uint8Array, from: number, to: number): string => {
  let text = ''
  for (let at = from; at < to; at++) text += String.fromCharCode(bytes[at]!)
  return text
}

const uint16 = (bytes: Uint8Array, at: number): number => bytes[at]! * 256 + bytes[at + 1]!
