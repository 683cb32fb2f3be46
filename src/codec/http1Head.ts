import { fail } from './http1Error.ts'

/** Header fields flat: name, value, name, value; names in the case they came in. */
export type Fields = string[]

/** What a message may cost before it is refused. */
export interface Http1Limits {
  /** The start line and all fields, in bytes; trailers are held to it too. */
  readonly headBytesMax: number
  readonly fieldsMax: number
}

/** Node allows 16 KiB and 2,000 fields, nginx 32 KiB, hyper 400 KiB and 100: what passes most of them passes us. */
export const HTTP1_LIMITS: Http1Limits = { headBytesMax: 65_536, fieldsMax: 100 }

/** What the fields of one head say about the message, gathered while they are read. */
export interface Meaning {
  readonly fields: Fields
  /** Content-Length, or -1. */
  length: number
  /** How many Content-Length fields there were. */
  lengths: number
  /** Every Transfer-Encoding joined with commas; undefined when absent. */
  coding: string | undefined
  /** Every Connection joined with commas; empty when absent. */
  connection: string
  host: string | undefined
  hosts: number
  upgrade: string | undefined
  /** A field that must not pass a proxy is among them (RFC 9110 section 7.6.1). */
  hopByHop: boolean
  /** The empty line that ends the fields was read. */
  whole: boolean
}

const CR = 13
const LF = 10
const COLON = 58

const bytesOf = (test: (code: number) => boolean): Uint8Array =>
  Uint8Array.from({ length: 256 }, (_, code) => (test(code) ? 1 : 0))

/** tchar of RFC 9110 section 5.6.2. */
export const TOKEN = bytesOf((code) => /[!#$%&'*+\-.^_`|~0-9A-Za-z]/.test(String.fromCharCode(code)))

/** field-vchar, SP and HTAB of RFC 9110 section 5.5. */
export const VALUE = bytesOf((code) => code === 9 || (code >= 32 && code !== 127))

/** An empty meaning, of one shape for all messages. */
export const noMeaning = (): Meaning => ({
  fields: [],
  length: -1,
  lengths: 0,
  coding: undefined,
  connection: '',
  host: undefined,
  hosts: 0,
  upgrade: undefined,
  hopByHop: false,
  whole: false,
})

/** Where names and values stand, four offsets a field: filled by a scan, used up before the next one. */
let offsets = new Int32Array(4 * 256)

/**
 * Reads whole field lines of `bytes` from `from` to `to`, which follows a line feed, into `meaning` (RFC 9112
 * section 5), and answers where it stopped: after the empty line, with `meaning.whole` set, or at `to`.
 * Bytes are scanned first and decoded once, since that is what a head costs.
 */
export const readFields = (bytes: Buffer, from: number, to: number, meaning: Meaning, fieldsMax: number): number => {
  let at = from
  let count = 0
  let room = fieldsMax - (meaning.fields.length >> 1)
  while (at < to) {
    const nameAt = at
    while (TOKEN[bytes[at]!] === 1) at++
    if (bytes[at] !== COLON || at === nameAt) {
      if (at !== nameAt || bytes[at] !== CR || bytes[at + 1] !== LF) return badName(bytes, nameAt, at)
      at += 2
      meaning.whole = true
      break
    }
    const nameEnd = at++
    while (bytes[at] === 32 || bytes[at] === 9) at++
    const valueAt = at
    while (VALUE[bytes[at]!] === 1) at++
    if (bytes[at] !== CR || bytes[at + 1] !== LF) return badValue(bytes[at]!)
    let valueEnd = at
    while (valueEnd > valueAt && (bytes[valueEnd - 1] === 32 || bytes[valueEnd - 1] === 9)) valueEnd--
    at += 2
    if (room-- === 0) return fail('HTTP1_HEAD_FIELDS', `more than ${fieldsMax} fields`)
    if (count + 4 > offsets.length) offsets = grown(offsets)
    offsets[count++] = nameAt
    offsets[count++] = nameEnd
    offsets[count++] = valueAt
    offsets[count++] = valueEnd
  }
  if (count > 0) cut(latin1(bytes, from, offsets[count - 1]!), from, count, meaning)
  return at
}

/** The octets as characters, one each. */
export const latin1 = (bytes: Buffer, from: number, to: number): string => bytes.toString('latin1', from, to)

const grown = (old: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> => {
  const next = new Int32Array(2 * old.length)
  next.set(old)
  return next
}

const cut = (text: string, from: number, count: number, meaning: Meaning): void => {
  const { fields } = meaning
  for (let i = 0; i < count; i += 4) {
    const nameAt = offsets[i]!
    const nameEnd = offsets[i + 1]!
    const name = text.slice(nameAt - from, nameEnd - from)
    const value = text.slice(offsets[i + 2]! - from, offsets[i + 3]! - from)
    fields.push(name, value)
    const length = nameEnd - nameAt
    if (length <= 19 && INTERESTING[length] === 1) note(meaning, name, value)
  }
}

/** Lengths of the names that `note` knows, so that most fields cost one look. */
const INTERESTING = bytesOf((length) => [2, 4, 7, 10, 14, 16, 17, 18, 19].includes(length))

const note = (meaning: Meaning, name: string, value: string): void => {
  switch (name.toLowerCase()) {
    case 'host':
      meaning.host = value
      meaning.hosts++
      return
    case 'content-length':
      noteLength(meaning, value)
      return
    case 'transfer-encoding':
      meaning.coding = meaning.coding === undefined ? value : `${meaning.coding},${value}`
      meaning.hopByHop = true
      return
    case 'connection':
      meaning.connection = meaning.connection === '' ? value : `${meaning.connection},${value}`
      meaning.hopByHop = true
      return
    case 'upgrade':
      meaning.upgrade = meaning.upgrade === undefined ? value : `${meaning.upgrade},${value}`
      meaning.hopByHop = true
      return
    case 'te':
    case 'trailer':
    case 'keep-alive':
    case 'proxy-connection':
    case 'proxy-authenticate':
    case 'proxy-authorization':
      meaning.hopByHop = true
  }
}

/** 1*DIGIT and nothing else (RFC 9110 section 8.6); a list of lengths is refused, as RFC 9112 section 6.3 allows. */
const noteLength = (meaning: Meaning, value: string): void => {
  if (!/^[0-9]{1,32}$/.test(value)) fail('HTTP1_LENGTH', 'Content-Length is not a number')
  const length = Number(value)
  if (length > Number.MAX_SAFE_INTEGER) fail('HTTP1_LENGTH', 'Content-Length is too large')
  if (meaning.lengths > 0 && meaning.length !== length) fail('HTTP1_TWO_LENGTHS', 'Content-Length is given twice')
  meaning.lengths++
  meaning.length = length
}

const badName = (bytes: Buffer, nameAt: number, at: number): never => {
  const code = bytes[at]!
  if (at === nameAt && (code === 32 || code === 9)) return fail('HTTP1_FOLDED', 'a line is folded (RFC 9112 5.2)')
  if (code === 32 || code === 9) return fail('HTTP1_FIELD_NAME', 'white space before the colon of a field')
  if (code === LF || code === CR) return fail('HTTP1_LINE_END', 'a field line without a colon, or not ended by CRLF')
  return fail('HTTP1_FIELD_NAME', `byte ${code} in the name of a field`)
}

const badValue = (code: number): never =>
  code === CR || code === LF
    ? fail('HTTP1_LINE_END', 'a bare carriage return or line feed in a field')
    : fail('HTTP1_FIELD_VALUE', `byte ${code} in the value of a field`)

/**
 * Whether the body is chunked. Transfer-Encoding must end in chunked, which must not come twice (RFC 9112 sections 6.1
 * and 6.3), and cannot stand beside Content-Length or in HTTP/1.0.
 */
export const isChunked = (meaning: Meaning, minor: number): boolean => {
  if (meaning.coding === undefined) return false
  if (meaning.lengths > 0) fail('HTTP1_LENGTH_AND_CODING', 'both Content-Length and Transfer-Encoding')
  if (minor === 0) fail('HTTP1_CODING', 'Transfer-Encoding in HTTP/1.0')
  if (meaning.coding === 'chunked') return true
  const codings = listOf(meaning.coding)
  if (codings.indexOf('chunked') !== codings.length - 1) fail('HTTP1_CODING', 'chunked is not the last coding, once')
  if (codings.some((coding) => coding === '')) fail('HTTP1_CODING', 'an empty transfer coding')
  return true
}

/** The members of a comma-separated list (RFC 9110 section 5.6.1), lower case. White space is SP and HTAB, no more. */
export const listOf = (value: string): string[] =>
  value.split(',').map((part) => part.replace(/^[ \t]+|[ \t]+$/g, '').toLowerCase())
