import type { RequestRead } from '../codec/http1.ts'
import { HTTP1_STATUS, type Http1Code } from '../codec/http1Error.ts'
import { REASONS, responseHeadText } from '../codec/http1Write.ts'
import { ProtocolError } from '../net/protocolError.ts'
import type { Fields, ResponseHead } from './exchange.ts'

/** The head of an answer in HTTP/1; `more`: what says how its body is delimited, and whether the connection stays. */
export const answerHeadText = (minor: number, { status, reason, fields }: ResponseHead, more: string): string =>
  responseHeadText(
    minor,
    status,
    reason === '' ? (REASONS[status] ?? '') : reason,
    minor === 0 ? withoutTrailer(fields) : fields,
    more,
  )

/** The head that makes a tunnel of the connection: a 101, or a 2xx to CONNECT. */
export const switchText = (head: ResponseHead): string =>
  answerHeadText(1, head, head.status === 101 ? `Connection: Upgrade\r\nUpgrade: ${head.upgrade}\r\n` : '')

/** The whole answer to what cannot be a request of ours; the connection ends with it. */
export const refusalText = (error: ProtocolError, isHead: boolean): string => {
  const status = statusOf(error)
  const text = `${error.message}\n`
  // Written in latin1: an octet for each character.
  const fields = ['Content-Type', 'text/plain', 'Content-Length', `${text.length}`]
  const head = responseHeadText(1, status, REASONS[status] ?? '', fields, 'Connection: close\r\n')
  return isHead ? head : head + text
}

/** What the client is told of its fault. */
export const statusOf = (error: ProtocolError): number => HTTP1_STATUS[error.code as Http1Code] ?? 400

/** Refuses a transfer coding before chunked (RFC 9112 section 6.1). */
export const checkCoding = ({ coding }: RequestRead): void => {
  if (coding !== undefined && coding.toLowerCase() !== 'chunked')
    throw new ProtocolError('HTTP1_CODING_UNKNOWN', `transfer coding ${coding} is not understood`)
}

/** HTTP/1.0 has no chunks, and so no trailers. */
const withoutTrailer = (fields: Fields): Fields => fields.filter((_, i) => fields[i & ~1]!.toLowerCase() !== 'trailer')
