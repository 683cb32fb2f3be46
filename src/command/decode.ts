import { pipeline as pipe, type Readable, type Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createBrotliDecompress, createGunzip, createInflate, createInflateRaw, createZstdDecompress } from 'node:zlib'
import { failure } from './failure.ts'

/** More than three codings on one body is an attack, not a compression (each multiplies the last by a thousand). */
const CODINGS_MAX = 3

/** Memory that all answers being read share; `take` throws when there is none left. */
export interface Budget {
  readonly take: (bytes: number) => void
  readonly give: (bytes: number) => void
}

/** A budget of so many bytes. */
export const createBudget = (bytesMax: number): Budget => {
  let used = 0
  return {
    take: (bytes) => {
      if (used + bytes > bytesMax) throw failure('busy', `answers in memory would pass ${bytesMax} bytes`)
      used += bytes
    },
    give: (bytes) => {
      used -= bytes
    },
  }
}

/** Reads a body, decoded, and stops at the limit: a bomb costs one chunk more than the limit, whatever it would become. */
export const readBody = async (body: Readable, coding: string, bytesMax: number, budget: Budget): Promise<Buffer> => {
  const chunks: Buffer[] = []
  let bytes = 0
  const collect = async (source: AsyncIterable<Buffer>): Promise<void> => {
    for await (const chunk of source) {
      if (bytes + chunk.length > bytesMax)
        throw failure('response_too_large', `the answer is larger than ${bytesMax} bytes`)
      budget.take(chunk.length)
      bytes += chunk.length
      chunks.push(chunk)
    }
  }
  try {
    await pipeline([body, ...decoders(coding), collect])
    return Buffer.concat(chunks, bytes)
  } finally {
    budget.give(bytes)
  }
}

type Decoder = (source: AsyncIterable<Buffer>) => AsyncIterable<Buffer>

const decoders = (coding: string): Decoder[] => {
  const names = coding
    .toLowerCase()
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '' && name !== 'identity')
  if (names.length > CODINGS_MAX) throw failure('invalid_response', `${names.length} content encodings on one answer`)
  return names.reverse().map((name) => {
    const make = DECODERS.get(name)
    if (make === undefined) throw failure('invalid_response', `the content encoding '${name}' is not known`)
    return unlessEmpty(make)
  })
}

type Make = (first: Buffer) => Transform

const DECODERS: ReadonlyMap<string, Make> = new Map<string, Make>([
  ['gzip', () => createGunzip()],
  ['x-gzip', () => createGunzip()],
  // `deflate` means zlib (RFC 9110 8.4.1.2), and some servers send it raw: the first byte tells.
  ['deflate', (first) => ((first[0]! & 0x0f) === 8 ? createInflate() : createInflateRaw())],
  ['br', () => createBrotliDecompress()],
  ['zstd', () => createZstdDecompress()],
])

/** The answer to HEAD, a 204 or a 304 may name an encoding and have no body: nothing decodes to nothing. */
const unlessEmpty = (make: Make): Decoder =>
  async function* (source) {
    const iterator = source[Symbol.asyncIterator]()
    let first = await iterator.next()
    while (!first.done && first.value.length === 0) first = await iterator.next()
    if (first.done) return
    const { value } = first
    const whole = async function* (): AsyncIterable<Buffer> {
      yield value
      for (let next = await iterator.next(); !next.done; next = await iterator.next()) yield next.value
    }
    const decoder = make(value)
    pipe(whole(), decoder, () => {}) // Its error surfaces in the iteration below.
    yield* decoder
  }

/** What a Content-Type says: the type in lower case and the charset. */
export const contentType = (value: string): { readonly type: string; readonly charset: string } => ({
  type: (value.split(';', 1)[0] ?? '').trim().toLowerCase(),
  charset: /;\s*charset\s*=\s*"?([^\s";]+)/i.exec(value)?.[1]?.toLowerCase() ?? 'utf-8',
})

/** Bytes to text by charset; an unknown charset is read as UTF-8, and what is no text becomes U+FFFD. */
export const decodeText = (bytes: Uint8Array, charset: string): string => {
  try {
    return new TextDecoder(charset).decode(bytes)
  } catch (thrown) {
    if (thrown instanceof RangeError) return new TextDecoder().decode(bytes)
    throw thrown
  }
}
