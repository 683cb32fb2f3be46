import { ProtocolError } from '../net/protocolError.ts'
import { ipText } from './ipText.ts'

/** The record types we ask for and understand (RFC 1035, 2782, 3596). */
export const TYPE = { A: 1, CNAME: 5, SOA: 6, AAAA: 28, SRV: 33, OPT: 41 } as const

export type QuestionType = 'A' | 'AAAA' | 'SRV'

/** One record of an answer. Names are absolute and in lower case; the TTL is in seconds. */
export type DnsRecord = { readonly owner: string; readonly ttl: number } & (
  | { readonly type: 'A' | 'AAAA'; readonly address: string }
  | { readonly type: 'CNAME'; readonly target: string }
  | {
      readonly type: 'SRV'
      readonly priority: number
      readonly weight: number
      readonly port: number
      readonly target: string
    }
  /** Its TTL is that of the negative answer (RFC 2308 section 5): the lesser of its own and of its last field. */
  | { readonly type: 'SOA' }
)

/** What we read of a message from a server. */
export interface DnsMessage {
  readonly id: number
  readonly isResponse: boolean
  readonly isTruncated: boolean
  /** 0 no error, 2 server failure, 3 no such name, 5 refused (RFC 1035 section 4.1.1). */
  readonly code: number
  readonly question: { readonly name: string; readonly type: number } | undefined
  readonly answers: readonly DnsRecord[]
  readonly authorities: readonly DnsRecord[]
  readonly additionals: readonly DnsRecord[]
}

const CLASS_IN = 1
const NAME_BYTES_MAX = 255 // RFC 1035 section 3.1
const LABEL_BYTES_MAX = 63
const HEADER_BYTES = 12
const UDP_BYTES = 1232 // what passes every path unfragmented: dnsflagday.net/2020

const fail = (message: string): never => {
  throw new ProtocolError('DNS', message)
}

/** A question to a recursive server. EDNS (RFC 6891) says how large an answer by UDP may be; some old servers reject it. */
export const encodeQuestion = (id: number, name: string, type: QuestionType, withEdns = true): Uint8Array => {
  const labels = name.replace(/\.$/, '').split('.')
  const length = labels.reduce((sum, label) => sum + label.length + 1, 1)
  if (length > NAME_BYTES_MAX || labels.some((label) => label.length < 1 || label.length > LABEL_BYTES_MAX))
    fail(`"${name}" is not a name`)
  const bytes = new Uint8Array(HEADER_BYTES + length + 4 + (withEdns ? 11 : 0))
  const view = new DataView(bytes.buffer)
  view.setUint16(0, id)
  view.setUint16(2, 0x0100) // recursion desired
  view.setUint16(4, 1)
  view.setUint16(10, withEdns ? 1 : 0)
  let at = HEADER_BYTES
  for (const label of labels) {
    bytes[at++] = label.length
    for (let i = 0; i < label.length; i++) bytes[at++] = label.charCodeAt(i)
  }
  at++
  view.setUint16(at, TYPE[type])
  view.setUint16(at + 2, CLASS_IN)
  if (withEdns) {
    view.setUint16(at + 5, TYPE.OPT)
    view.setUint16(at + 7, UDP_BYTES)
  }
  return bytes
}

/** Reads what a server sent. Of records of other types and classes nothing is kept. Throws ProtocolError. */
export const decodeMessage = (bytes: Uint8Array): DnsMessage => {
  if (bytes.length < HEADER_BYTES) fail('shorter than a header')
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const flags = view.getUint16(2)
  const [questions, ...counts] = [4, 6, 8, 10].map((at) => view.getUint16(at))
  if (questions! > 1) fail('more than one question')
  const isTruncated = (flags & 0x0200) !== 0
  let at = HEADER_BYTES
  let question: DnsMessage['question']
  if (questions === 1) {
    const name = nameAt(bytes, at)
    if (name.next + 4 > bytes.length) fail('it ends within the question')
    question = { name: name.text, type: view.getUint16(name.next) }
    at = name.next + 4
  }
  const sections = counts.map((count) => {
    const records: DnsRecord[] = []
    // Of a truncated answer nothing counts: it is asked for again by TCP, and may end anywhere.
    for (let i = 0; i < count && !isTruncated; i++) {
      const { record, next } = recordAt(bytes, view, at)
      if (record !== undefined) records.push(record)
      at = next
    }
    return records
  })
  return {
    id: view.getUint16(0),
    isResponse: (flags & 0x8000) !== 0,
    isTruncated,
    code: flags & 15,
    question,
    answers: sections[0]!,
    authorities: sections[1]!,
    additionals: sections[2]!,
  }
}

const recordAt = (
  bytes: Uint8Array,
  view: DataView,
  start: number,
): { readonly record: DnsRecord | undefined; readonly next: number } => {
  const name = nameAt(bytes, start)
  const at = name.next
  if (at + 10 > bytes.length) fail('it ends within a record')
  const length = view.getUint16(at + 8)
  const data = at + 10
  const next = data + length
  if (next > bytes.length) fail('it ends within a record')
  if (view.getUint16(at + 2) !== CLASS_IN) return { record: undefined, next }
  const seconds = view.getInt32(at + 4)
  // RFC 2181 section 8: with the highest bit set it counts as zero.
  const about = { owner: name.text, ttl: Math.max(0, seconds) }
  /** A name at the end of the data, which it has to fill. */
  const nameIn = (from: number): string => {
    const found = nameAt(bytes, from)
    return found.next === next ? found.text : fail('a name does not fill its record')
  }
  switch (view.getUint16(at)) {
    case TYPE.A:
      if (length !== 4) fail('an A record is four bytes')
      return { record: { ...about, type: 'A', address: ipText(bytes.subarray(data, next)) }, next }
    case TYPE.AAAA:
      if (length !== 16) fail('an AAAA record is sixteen bytes')
      return { record: { ...about, type: 'AAAA', address: ipText(bytes.subarray(data, next)) }, next }
    case TYPE.CNAME:
      return { record: { ...about, type: 'CNAME', target: nameIn(data) }, next }
    case TYPE.SRV: {
      if (length < 7) fail('an SRV record is at least seven bytes')
      const [priority, weight, port] = [0, 2, 4].map((offset) => view.getUint16(data + offset))
      const target = nameIn(data + 6)
      return { record: { ...about, type: 'SRV', priority: priority!, weight: weight!, port: port!, target }, next }
    }
    case TYPE.SOA:
      if (length < 22) fail('an SOA record is at least 22 bytes')
      return { record: { ...about, type: 'SOA', ttl: Math.min(about.ttl, view.getUint32(next - 4)) }, next }
    default:
      return { record: undefined, next }
  }
}

/** The name that begins here, absolute, in lower case, and where what follows it begins (RFC 1035 section 4.1.4). */
const nameAt = (bytes: Uint8Array, start: number): { readonly text: string; readonly next: number } => {
  let text = ''
  let at = start
  let next = -1
  let length = 1
  // A pointer must point before what led to it: so there is no way round in circles.
  let lowest = start
  for (;;) {
    const byte = bytes[at] ?? fail('it ends within a name')
    if (byte === 0) return { text: text === '' ? '.' : text, next: next < 0 ? at + 1 : next }
    if (byte >= 192) {
      const low = bytes[at + 1] ?? fail('it ends within a name')
      const target = (byte - 192) * 256 + low
      if (target >= lowest) fail('a pointer that does not point back')
      if (next < 0) next = at + 2
      lowest = at = target
      continue
    }
    if (byte > LABEL_BYTES_MAX) fail('neither a label nor a pointer')
    length += byte + 1
    if (length > NAME_BYTES_MAX) fail('a name of more than 255 bytes')
    if (at + 1 + byte > bytes.length) fail('it ends within a name')
    for (let i = at + 1; i <= at + byte; i++) text += letter(bytes[i]!)
    text += '.'
    at += byte + 1
  }
}

/** A byte of a label as text (RFC 1035 section 5.1): what is not printable, and the dot, as \DDD. */
const letter = (byte: number): string => {
  if (byte >= 65 && byte <= 90) return String.fromCharCode(byte + 32)
  return byte > 32 && byte < 127 && byte !== 46 && byte !== 92
    ? String.fromCharCode(byte)
    : `\\${String(byte).padStart(3, '0')}`
}
