import { type Match, MORE, NO, yes } from '../net/match.ts'

/** The first line of an HTTP/1 request (RFC 9112 section 3), one character a byte. */
export interface RequestLine {
  readonly method: string
  readonly target: string
  readonly version: '1.0' | '1.1'
}

const SPACE = 0x20
const CR = 0x0d
const LF = 0x0a
const VERSION = [...'HTTP/1.'].map((letter) => letter.charCodeAt(0))
const IS_TOKEN = new Uint8Array(256)
for (const letter of "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
  IS_TOKEN[letter.charCodeAt(0)] = 1
}

/**
 * Recognises a request line: token, one space, a target, one space, HTTP/1.0 or HTTP/1.1, the end of the line.
 * Any method, since there is no list of them; any target without spaces and controls, since what comes after it is
 * proof enough; a bare LF too (RFC 9112 section 2.2), so that leaving out the CR does not dodge the rules for HTTP.
 * No empty line before it: what begins with CRLF are other protocols' liveness probes.
 */
export const requestLine = (bytes: Uint8Array): Match<RequestLine> => {
  const length = bytes.length
  let at = 0
  while (at < length && IS_TOKEN[bytes[at]!] === 1) at++
  if (at === length) return MORE
  if (at === 0 || bytes[at] !== SPACE) return NO
  const method = at
  at++
  while (at < length && bytes[at]! > SPACE && bytes[at] !== 0x7f) at++
  if (at === length) return MORE
  if (at === method + 1 || bytes[at] !== SPACE) return NO
  const target = at
  at++
  for (const letter of VERSION) {
    if (at === length) return MORE
    if (bytes[at++] !== letter) return NO
  }
  if (at === length) return MORE
  const minor = bytes[at++]! - 0x30
  if (minor !== 0 && minor !== 1) return NO
  if (at === length) return MORE
  if (bytes[at] === CR) {
    if (at + 1 === length) return MORE
    at++
  }
  if (bytes[at] !== LF) return NO
  const text = latin1(bytes, target)
  return yes({ method: text.slice(0, method), target: text.slice(method + 1), version: minor === 1 ? '1.1' : '1.0' })
}

const latin1 = (bytes: Uint8Array, to: number): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, to).toString('latin1')
