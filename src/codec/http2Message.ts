import { isTargetCharacter } from './authority.ts'
import { MARK } from './hpackTable.ts'

/** A request as HTTP/2 says it (RFC 9113 8.3.1), without its pseudo-header fields and without Host. */
export interface Http2Request {
  readonly method: string
  readonly scheme: string
  /** Empty when the client sent none. */
  readonly authority: string
  /** For CONNECT the authority. */
  readonly target: string
  readonly version: '2'
  /** The `:protocol` of an extended CONNECT (RFC 8441 4). */
  readonly upgrade: string | undefined
  readonly fields: string[]
  readonly length: number | undefined
  /** Names of fields that have to stay out of every compression table (RFC 7541 7.1.3). */
  readonly neverIndexed: readonly string[] | undefined
}

/** A response as HTTP/2 says it (RFC 9113 8.3.2). */
export interface Http2Response {
  readonly status: number
  readonly reason: ''
  readonly fields: string[]
  readonly length: number | undefined
  readonly neverIndexed: readonly string[] | undefined
}

/** Why a message is malformed (RFC 9113 8.1.1). */
export type Malformed = string

const COLON = 58

/** The request in a decoded header block; `marks` as the decoder found them. */
export const readRequest = (
  fields: readonly string[],
  marks: number,
  neverIndexed: readonly string[] | undefined,
): Http2Request | Malformed => {
  if ((marks & (MARK.bad | MARK.connection | MARK.status)) !== 0) return badField(marks)
  let method: string | undefined
  let scheme: string | undefined
  let authority: string | undefined
  let path: string | undefined
  let protocol: string | undefined
  let at = 0
  for (; at < fields.length && fields[at]!.charCodeAt(0) === COLON; at += 2) {
    const name = fields[at]!
    const value = fields[at + 1]!
    if (name === ':method' && method === undefined) method = value
    else if (name === ':scheme' && scheme === undefined) scheme = value
    else if (name === ':authority' && authority === undefined) authority = value
    else if (name === ':path' && path === undefined) path = value
    else if (name === ':protocol' && protocol === undefined) protocol = value
    else return `${name} twice`
  }
  const rest = endToEnd(fields, at, marks)
  if (hasPseudo(rest)) return 'a pseudo-header field after the others'
  if (method === undefined || !isToken(method)) return 'no valid :method'
  const isTunnel = method === 'CONNECT' && protocol === undefined
  const why = isTunnel ? badConnect(scheme, authority, path) : badTarget(method, scheme, path, protocol)
  if (why !== undefined) return why
  const length = (marks & MARK.contentLength) === 0 ? undefined : contentLength(rest)
  if (length === -1) return 'no valid content-length'
  if ((marks & MARK.host) !== 0 && !takeHost(rest, authority)) return 'host differs from :authority'
  return {
    method,
    scheme: scheme ?? '',
    authority: authority?.toLowerCase() ?? '',
    target: isTunnel ? authority! : path!,
    version: '2',
    upgrade: protocol,
    fields: (marks & MARK.cookie) === 0 ? rest : joinCookies(rest),
    length,
    neverIndexed,
  }
}

/** The response, final or informational, in a decoded header block. */
export const readResponse = (
  fields: readonly string[],
  marks: number,
  neverIndexed: readonly string[] | undefined,
): Http2Response | Malformed => {
  if ((marks & (MARK.bad | MARK.connection | MARK.ask)) !== 0) return badField(marks)
  if (fields[0] !== ':status') return 'no :status at the beginning'
  const status = Number(fields[1])
  // 101 does not exist in HTTP/2 (RFC 9113 8.6).
  if (fields[1]!.length !== 3 || !(status >= 100 && status <= 999) || status === 101) return `:status ${fields[1]}`
  const rest = endToEnd(fields, 2, marks)
  if (hasPseudo(rest)) return 'a pseudo-header field after the others'
  const length = (marks & MARK.contentLength) === 0 ? undefined : contentLength(rest)
  if (length === -1) return 'no valid content-length'
  return { status, reason: '', fields: rest, length, neverIndexed }
}

/** Why these cannot be trailers (RFC 9113 8.1), undefined when they can. */
export const badTrailers = (marks: number): Malformed | undefined =>
  (marks & (MARK.bad | MARK.connection | MARK.ask | MARK.status)) === 0 ? undefined : badField(marks)

const badField = (marks: number): Malformed => {
  if ((marks & MARK.bad) !== 0) return 'a field name or value that is not allowed'
  if ((marks & MARK.connection) !== 0) return 'a field of one HTTP/1 connection'
  return 'a pseudo-header field where it has no place'
}

const PROXY_FIELDS = new Set(['proxy-authorization', 'proxy-authenticate'])

/** The fields that go on to the next hop: HTTP/2 allows no others but these two (RFC 9110 11.7). */
const endToEnd = (fields: readonly string[], from: number, marks: number): string[] => {
  const rest = fields.slice(from)
  return (marks & MARK.proxy) === 0 ? rest : rest.filter((_, at) => !PROXY_FIELDS.has(rest[at & ~1]!))
}

const hasPseudo = (fields: readonly string[]): boolean => {
  for (let at = 0; at < fields.length; at += 2) if (fields[at]!.charCodeAt(0) === COLON) return true
  return false
}

/** RFC 9113 8.5. */
const badConnect = (scheme?: string, authority?: string, path?: string): Malformed | undefined => {
  if (scheme !== undefined || path !== undefined) return 'CONNECT with :scheme or :path'
  return authority === undefined || authority === '' ? 'CONNECT without :authority' : undefined
}

/** RFC 9113 8.3.1; RFC 8441 4 for the protocol. */
const badTarget = (method: string, scheme?: string, path?: string, protocol?: string): Malformed | undefined => {
  if (scheme === undefined || !isToken(scheme)) return 'no valid :scheme'
  if (path === undefined || !isPath(path)) return 'no valid :path'
  if (path === '*' && method !== 'OPTIONS') return ':path * without OPTIONS'
  return protocol === undefined || (method === 'CONNECT' && isToken(protocol)) ? undefined : 'no valid :protocol'
}

const SLASH = 47

/** Origin form or `*`, in the same characters as HTTP/1. */
const isPath = (path: string): boolean => {
  if (path.charCodeAt(0) !== SLASH) return path === '*'
  for (let at = 1; at < path.length; at++) if (!isTargetCharacter(path.charCodeAt(at))) return false
  return true
}

const TOKEN = /^[!#$%&'*+\-.^_`|~\w]+$/
const COMMON_TOKENS = new Set(['GET', 'POST', 'PUT', 'HEAD', 'DELETE', 'PATCH', 'OPTIONS', 'CONNECT', 'http', 'https'])
const isToken = (text: string): boolean => COMMON_TOKENS.has(text) || TOKEN.test(text)

const LENGTH = /^\d{1,15}$/

/** -1 when there is not exactly one valid value (RFC 9110 8.6). */
const contentLength = (fields: readonly string[]): number => {
  let length = -1
  for (let at = 0; at < fields.length; at += 2) {
    if (fields[at] !== 'content-length') continue
    if (length !== -1 || !LENGTH.test(fields[at + 1]!)) return -1
    length = Number(fields[at + 1])
  }
  return length
}

/** Drops Host, which says nothing new; false when it says something else (RFC 9113 8.3.1). */
const takeHost = (fields: string[], authority: string | undefined): boolean => {
  for (let at = fields.length - 2; at >= 0; at -= 2) {
    if (fields[at] !== 'host') continue
    if (authority !== undefined && fields[at + 1]!.toLowerCase() !== authority.toLowerCase()) return false
    if (authority !== undefined) fields.splice(at, 2)
  }
  return true
}

/** One Cookie field again, before anybody reads it who does not speak HTTP/2 (RFC 9113 8.2.3). */
const joinCookies = (fields: string[]): string[] => {
  const joined: string[] = []
  let place = -1
  for (let at = 0; at < fields.length; at += 2) {
    if (fields[at] !== 'cookie') joined.push(fields[at]!, fields[at + 1]!)
    else if (place < 0) place = joined.push('cookie', fields[at + 1]!) - 1
    else joined[place] += `; ${fields[at + 1]}`
  }
  return joined
}
