import { type Fields, TOKEN, VALUE } from './http1Head.ts'

/** A request line and fields, as text to be written in latin1. `more` are fields of ours, each ended by CRLF. */
export const requestHeadText = (
  method: string,
  target: string,
  minor: number,
  fields: readonly string[],
  more: string,
): string => `${method} ${target} HTTP/1.${minor}\r\n${fieldsText(fields)}${more}\r\n`

/** A status line and fields, likewise. */
export const responseHeadText = (
  minor: number,
  status: number,
  reason: string,
  fields: readonly string[],
  more: string,
): string => `HTTP/1.${minor} ${status} ${reason}\r\n${fieldsText(fields)}${more}\r\n`

/** The size line of a chunk of so many bytes (RFC 9112 section 7.1); the data and CRLF follow. */
export const chunkText = (bytes: number): string => `${bytes.toString(16)}\r\n`

/** The last chunk and the trailers. */
export const lastChunkText = (trailers: Fields): string =>
  trailers.length === 0 ? '0\r\n\r\n' : `0\r\n${fieldsText(trailers)}\r\n`

const fieldsText = (fields: readonly string[]): string => {
  let text = ''
  for (let i = 0; i < fields.length; i += 2) text += `${fields[i]}: ${fields[i + 1]}\r\n`
  return text
}

/** Whether a name and a value from HTTP/2 can stand in HTTP/1: no octet that would end the line (RFC 9113 8.2.1). */
export const canStand = (name: string, value: string): boolean =>
  name !== '' && consistsOf(TOKEN, name) && consistsOf(VALUE, value)

/** A loop over a table: a regular expression costs more than all else that is done with a short field. */
const consistsOf = (allowed: Uint8Array, text: string): boolean => {
  for (let at = 0; at < text.length; at++) if (allowed[text.charCodeAt(at)] !== 1) return false
  return true
}

/** The reason phrases of the statuses we meet without one, as from HTTP/2. */
export const REASONS: Readonly<Record<number, string>> = {
  100: 'Continue',
  101: 'Switching Protocols',
  103: 'Early Hints',
  200: 'OK',
  201: 'Created',
  202: 'Accepted',
  204: 'No Content',
  206: 'Partial Content',
  301: 'Moved Permanently',
  302: 'Found',
  303: 'See Other',
  304: 'Not Modified',
  307: 'Temporary Redirect',
  308: 'Permanent Redirect',
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  408: 'Request Timeout',
  409: 'Conflict',
  413: 'Content Too Large',
  414: 'URI Too Long',
  417: 'Expectation Failed',
  421: 'Misdirected Request',
  426: 'Upgrade Required',
  429: 'Too Many Requests',
  431: 'Request Header Fields Too Large',
  500: 'Internal Server Error',
  501: 'Not Implemented',
  502: 'Bad Gateway',
  503: 'Service Unavailable',
  504: 'Gateway Timeout',
  505: 'HTTP Version Not Supported',
  508: 'Loop Detected',
}
