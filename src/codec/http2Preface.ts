import { type Match, MORE, NO, yes } from '../net/match.ts'

/** What a client that knows its server speaks HTTP/2 sends first (RFC 9113 section 3.4). */
export const CLIENT_PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'

const PREFACE = Uint8Array.from(CLIENT_PREFACE, (letter) => letter.charCodeAt(0))
const FRAME_HEAD_BYTES = 9
const SETTINGS = 4
const SETTING_BYTES = 6

/** Recognises the client's connection preface. */
export const clientPreface = (bytes: Uint8Array): Match<true> => {
  const seen = Math.min(bytes.length, PREFACE.length)
  for (let at = 0; at < seen; at++) if (bytes[at] !== PREFACE[at]) return NO
  return seen === PREFACE.length ? yes(true) : MORE
}

/**
 * Recognises the server's connection preface: a SETTINGS frame, not an acknowledgement, on stream 0. A server may send
 * it before it has heard the client (RFC 9113 section 3.4).
 */
export const serverPreface = (bytes: Uint8Array): Match<true> => {
  const seen = Math.min(bytes.length, FRAME_HEAD_BYTES)
  for (let at = 0; at < seen; at++) {
    const expected = at === 2 ? bytes[2]! % SETTING_BYTES === 0 : at === 3 ? bytes[3] === SETTINGS : bytes[at] === 0
    if (!expected) return NO
  }
  return seen === FRAME_HEAD_BYTES ? yes(true) : MORE
}
