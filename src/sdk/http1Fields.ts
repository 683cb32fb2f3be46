import type { OutgoingHttpHeaders } from 'node:http2'

/** Fields that belong to one HTTP/1 connection and mean nothing, or are forbidden, in HTTP/2 (RFC 9113 section 8.2.2). */
const HOP_BY_HOP = new Set(['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade'])

/** What Node refuses to send twice in HTTP/2, of those that servers do send twice. */
const SINGLE = new Set(
  'age authorization content-encoding content-language content-length content-location content-md5 content-range content-type date etag expires last-modified location retry-after server'.split(
    ' ',
  ),
)

/** Whether the HTTP/1 request has a body, and how it is delimited. */
export type Body = 'none' | 'length' | 'chunked'

/** How a request of HTTP/2 looks in HTTP/1. */
export interface Http1Request {
  readonly method: string
  readonly path: string
  /** Names and values in turn. */
  readonly fields: readonly string[]
  readonly body: Body
  /** The protocol of an extended CONNECT (RFC 8441). */
  readonly upgrade?: string
}

/**
 * The HTTP/1 request that stands for these fields of HTTP/2 (RFC 9113 section 8.3.1, RFC 8441 section 5.2). `key` makes the
 * Sec-WebSocket-Key that HTTP/2 does without.
 */
export const toHttp1 = (rawHeaders: readonly string[], isEnded: boolean, key: () => string): Http1Request => {
  const pseudo: Record<string, string> = {}
  const fields: string[] = []
  const cookies: string[] = []
  let hasLength = false
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]!.toLowerCase()
    const value = rawHeaders[at + 1]!
    if (name.startsWith(':')) pseudo[name] = value
    else if (name === 'cookie') cookies.push(value)
    else if (name !== 'host' && name !== 'te' && !HOP_BY_HOP.has(name)) {
      if (name === 'content-length') hasLength = true
      fields.push(name, value)
    } else if (name === 'host') pseudo[':authority'] ??= value
    else if (name === 'te' && value.toLowerCase() === 'trailers') fields.push('te', 'trailers', 'connection', 'TE')
  }
  if (cookies.length > 0) fields.push('cookie', cookies.join('; '))
  const upgrade = pseudo[':protocol']
  const body: Body = upgrade !== undefined || isEnded ? 'none' : hasLength ? 'length' : 'chunked'
  if (body === 'chunked') fields.push('transfer-encoding', 'chunked')
  if (upgrade !== undefined) {
    fields.push('connection', 'Upgrade', 'upgrade', upgrade)
    if (upgrade === 'websocket') fields.push('sec-websocket-key', key())
  }
  return {
    method: upgrade === undefined ? pseudo[':method']! : 'GET',
    path: pseudo[':path'] ?? '/',
    fields: ['host', pseudo[':authority'] ?? '', ...fields],
    body,
    ...(upgrade !== undefined && { upgrade }),
  }
}

/** The fields of an HTTP/1 response, or its trailers, as HTTP/2 may carry them. */
export const toHttp2 = (rawHeaders: readonly string[]): OutgoingHttpHeaders => {
  const named = new Set<string>()
  for (let at = 0; at + 1 < rawHeaders.length; at += 2)
    if (rawHeaders[at]!.toLowerCase() === 'connection')
      for (const name of rawHeaders[at + 1]!.split(',')) named.add(name.trim().toLowerCase())
  const headers: Record<string, string | string[]> = {}
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]!.toLowerCase()
    const value = rawHeaders[at + 1]!
    if (HOP_BY_HOP.has(name) || named.has(name)) continue
    const before = headers[name]
    if (before === undefined) headers[name] = value
    else if (!SINGLE.has(name)) headers[name] = [...(Array.isArray(before) ? before : [before]), value]
  }
  return headers
}
