import type { Outcome, RequestOutcome } from './outcome.ts'

interface Client {
  readonly peer: Outcome['peer']
  readonly identity?: string | undefined
}

/** The Common Log Format of NCSA and Apache: `peer - identity [time] "request line" status bytes`. */
export const commonLine = (request: RequestOutcome, on: Client, time: number): string => {
  const { method, target, version, status, bytes } = request
  const line = quoted(`${method} ${target} HTTP/${version}`)
  return `${on.peer.host} - ${on.identity ?? '-'} [${stamp(time)}] ${line} ${status || '-'} ${bytes.received || '-'}`
}

/** The same with the referer and the user agent. */
export const combinedLine = (request: RequestOutcome, on: Client, time: number): string =>
  `${commonLine(request, on, time)} ${quoted(request.referer ?? '-')} ${quoted(request.userAgent ?? '-')}`

/** As Apache writes what clients send: nothing in it can end the quotes or the line. */
const quoted = (text: string): string =>
  `"${text.replace(/["\\\x00-\x1f\x7f-\xff]/g, (c) =>
    c === '"' || c === '\\' ? `\\${c}` : `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`,
  )}"`

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']

/** `21/Nov/2026:15:04:05 +0000`. */
const stamp = (time: number): string => {
  const iso = new Date(time).toISOString()
  return `${iso.slice(8, 10)}/${MONTHS[Number(iso.slice(5, 7)) - 1]}/${iso.slice(0, 4)}:${iso.slice(11, 19)} +0000`
}
