import { HpackDecoder } from './hpack.ts'
import { CLIENT_PREFACE, clientPreface } from './http2Preface.ts'
import { requestLine } from './requestLine.ts'

const HEADERS = 1
const [END_HEADERS, PADDED, PRIORITY] = [0x4, 0x8, 0x20]
const FRAME_HEAD_BYTES = 9

/** The first request in what a client said, on one line, of either version of HTTP; undefined where there is none. */
export const firstRequest = (bytes: Buffer): string | undefined => {
  const found = requestLine(bytes)
  if (found.is === 'yes') return `${found.value.method} ${found.value.target} HTTP/${found.value.version}`
  return clientPreface(bytes).is === 'yes' ? firstStream(bytes) : undefined
}

/** RFC 9113 section 6.2: the first HEADERS frame. One that goes on in CONTINUATION frames is not put together here. */
const firstStream = (bytes: Buffer): string | undefined => {
  for (let at = CLIENT_PREFACE.length; at + FRAME_HEAD_BYTES <= bytes.length; ) {
    const [start, end] = [at + FRAME_HEAD_BYTES, at + FRAME_HEAD_BYTES + bytes.readUIntBE(at, 3)]
    if (end > bytes.length) return undefined
    if (bytes[at + 3] === HEADERS) return bytes[at + 4]! & END_HEADERS ? lineOf(bytes, at, start, end) : undefined
    at = end
  }
  return undefined
}

const lineOf = (bytes: Buffer, at: number, start: number, end: number): string | undefined => {
  const flags = bytes[at + 4]!
  const padding = flags & PADDED ? bytes[start]! : 0
  const from = start + (flags & PADDED ? 1 : 0) + (flags & PRIORITY ? 5 : 0)
  if (from > end - padding) return undefined
  try {
    const fields = new HpackDecoder({ listBytesMax: 65_536, fieldsMax: 1_000 }).decode(bytes, from, end - padding)
    const value = (name: string) => fields[fields.indexOf(name) + 1]
    return `${value(':method')} ${value(':path')} HTTP/2`
  } catch {
    return undefined
  }
}
