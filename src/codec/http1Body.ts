import { fail } from './http1Error.ts'
import { type Fields, type Http1Limits, noMeaning, readFields, TOKEN } from './http1Head.ts'

/** Fields that would change the framing, the routing or the connection, had they come in the head (RFC 9110 6.5.1). */
export const NOT_IN_TRAILERS: ReadonlySet<string> = new Set([
  'content-length',
  'transfer-encoding',
  'host',
  'connection',
  'keep-alive',
  'proxy-connection',
  'upgrade',
  'te',
  'trailer',
])

/** A chunk's size line with its extensions; node allows 16 KiB of extensions, nobody is known to send any. */
const CHUNK_LINE_BYTES_MAX = 4096

const CR = 13
const LF = 10

/** The value of a hex digit, or -1. */
const HEX = Int8Array.from({ length: 256 }, (_, code) => {
  const digit = Number.parseInt(String.fromCharCode(code), 16)
  return Number.isNaN(digit) ? -1 : digit
})

/** Where in the chunked coding (RFC 9112 section 7.1) the next byte stands. */
type State = 'size' | 'data' | 'dataEnd' | 'trailers' | 'done'

/** The chunked coding, from the first size line to the empty line after the trailers. */
export class ChunkedReader {
  readonly #limits: Http1Limits
  readonly #trailers = noMeaning()
  #trailerBytes = 0
  #state: State = 'size'
  #left = 0

  constructor(limits: Http1Limits) {
    this.#limits = limits
  }

  get done(): boolean {
    return this.#state === 'done'
  }

  /** Fields after the last chunk; complete once `done`. */
  get trailers(): Fields {
    return this.#trailers.fields
  }

  /** Reads `bytes` from `at`, gives each piece of data to `take`, and answers from where on it needs them again. */
  read(bytes: Buffer, from: number, take: (data: Buffer) => void): number {
    let at = from
    while (at < bytes.length && this.#state !== 'done') {
      const before = at
      if (this.#state === 'data') at = this.#data(bytes, at, take)
      else if (this.#state === 'size') at = this.#size(bytes, at)
      else if (this.#state === 'dataEnd') at = this.#dataEnd(bytes, at)
      else at = this.#fields(bytes, at)
      if (at === before) break
    }
    return at
  }

  #data(bytes: Buffer, at: number, take: (data: Buffer) => void): number {
    const end = Math.min(bytes.length, at + this.#left)
    take(bytes.subarray(at, end))
    this.#left -= end - at
    if (this.#left === 0) this.#state = 'dataEnd'
    return end
  }

  #dataEnd(bytes: Buffer, at: number): number {
    if (bytes[at] !== CR) return fail('HTTP1_CHUNK_END', 'no CRLF after the data of a chunk')
    if (at + 1 === bytes.length) return at
    if (bytes[at + 1] !== LF) return fail('HTTP1_CHUNK_END', 'no CRLF after the data of a chunk')
    this.#state = 'size'
    return at + 2
  }

  #size(bytes: Buffer, from: number): number {
    let at = from
    let size = 0
    while (at < bytes.length && HEX[bytes[at]!] !== -1) {
      size = size * 16 + HEX[bytes[at++]!]!
      if (size > Number.MAX_SAFE_INTEGER) return fail('HTTP1_CHUNK_SIZE', 'a chunk is too large')
    }
    if (at === bytes.length) return tooLong(from, at) ?? from
    if (at === from) return fail('HTTP1_CHUNK_SIZE', 'a chunk without a size')
    const end = bytes[at] === CR ? at : extensionEnd(bytes, at)
    if (end === -1 || end + 1 >= bytes.length) return tooLong(from, bytes.length) ?? from
    if (bytes[end + 1] !== LF) return fail('HTTP1_CHUNK_SIZE', 'a bare carriage return in the line of a chunk')
    this.#left = size
    this.#state = size === 0 ? 'trailers' : 'data'
    return tooLong(from, end) ?? end + 2
  }

  #fields(bytes: Buffer, at: number): number {
    const { headBytesMax, fieldsMax } = this.#limits
    const room = headBytesMax - this.#trailerBytes
    const to = bytes.lastIndexOf(LF, Math.min(bytes.length, at + room) - 1) + 1
    const end = to > at ? readFields(bytes, at, to, this.#trailers, fieldsMax) : at
    this.#trailerBytes += end - at
    if (this.#trailers.whole) {
      checkTrailers(this.#trailers.fields)
      this.#state = 'done'
    } else if (bytes.length - at >= room) fail('HTTP1_HEAD_BYTES', 'the trailers are too long')
    return end
  }
}

const tooLong = (from: number, to: number): undefined =>
  to - from > CHUNK_LINE_BYTES_MAX ? fail('HTTP1_CHUNK_EXTENSION', 'the line of a chunk is too long') : undefined

const checkTrailers = (fields: Fields): void => {
  for (let i = 0; i < fields.length; i += 2) {
    if (NOT_IN_TRAILERS.has(fields[i]!.toLowerCase())) fail('HTTP1_TRAILER', `${fields[i]} cannot be a trailer`)
  }
}

/**
 * Checks `*( BWS ";" BWS name [ BWS "=" BWS value ] )` (RFC 9112 section 7.1.1), which is then dropped. Answers where
 * its CR stands, or -1 when the line is not complete.
 */
const extensionEnd = (bytes: Buffer, from: number): number => {
  let at = from
  while (true) {
    at = blanks(bytes, at)
    if (at >= bytes.length) return -1
    if (bytes[at] === CR && bytes[at - 1] !== 32 && bytes[at - 1] !== 9) return at
    if (bytes[at] !== 59) return badExtension(bytes[at]!, from === at)
    const nameAt = blanks(bytes, at + 1)
    at = token(bytes, nameAt)
    if (at >= bytes.length) return -1
    if (at === nameAt) return badExtension(bytes[at]!)
    const equals = blanks(bytes, at)
    if (equals >= bytes.length) return -1
    if (bytes[equals] !== 61) continue
    const valueAt = blanks(bytes, equals + 1)
    if (valueAt >= bytes.length) return -1
    at = bytes[valueAt] === 34 ? quoted(bytes, valueAt + 1) : token(bytes, valueAt)
    if (at === -1 || at >= bytes.length) return -1
    if (at === valueAt) return badExtension(bytes[at]!)
  }
}

const badExtension = (code: number, afterSize = false): never =>
  fail(afterSize ? 'HTTP1_CHUNK_SIZE' : 'HTTP1_CHUNK_EXTENSION', `byte ${code} after the size of a chunk`)

const blanks = (bytes: Buffer, from: number): number => {
  let at = from
  while (at < bytes.length && (bytes[at] === 32 || bytes[at] === 9)) at++
  return at
}

const token = (bytes: Buffer, from: number): number => {
  let at = from
  while (at < bytes.length && TOKEN[bytes[at]!] === 1) at++
  return at
}

/** From after the opening quote to after the closing one. */
const quoted = (bytes: Buffer, from: number): number => {
  let at = from
  while (at < bytes.length) {
    const code = bytes[at++]!
    if (code === 34) return at
    if ((code < 32 && code !== 9) || code === 127) return badExtension(code)
    if (code === 92 && at < bytes.length) {
      const escaped = bytes[at++]!
      if ((escaped < 32 && escaped !== 9) || escaped === 127) return badExtension(escaped)
    }
  }
  return -1
}
