import { canStand, requestHeadText } from '../codec/http1Write.ts'
import type { Fields, RequestHead } from './exchange.ts'

/**
 * The head of a request as HTTP/1 writes it, whichever version it came in. Undefined where HTTP/1 cannot write it.
 * `key` makes the nonce that an extended CONNECT does without and the upgrade to websocket needs (RFC 8441 section 5).
 */
export const requestText = (head: RequestHead, chunked: boolean, key: () => string): string | undefined => {
  const isWebSocket = head.method === 'CONNECT' && head.upgrade !== undefined
  const method = isWebSocket ? 'GET' : head.method
  const minor = head.version === '1.0' ? 0 : 1
  const fields = head.version === '2' ? fromHttp2(head) : head.fields
  if (fields === undefined) return undefined
  let more = ''
  if (chunked && head.upgrade === undefined && head.method !== 'CONNECT') more = 'Transfer-Encoding: chunked\r\n'
  if (head.upgrade !== undefined) more += `Connection: Upgrade\r\nUpgrade: ${head.upgrade}\r\n`
  else if (hasTe(fields)) more += 'Connection: TE\r\n'
  if (isWebSocket) more += `Sec-WebSocket-Key: ${key()}\r\n`
  return requestHeadText(method, targetText(head), minor, fields, more)
}

const targetText = ({ absolute, scheme, authority, target }: RequestHead): string =>
  absolute ? `${scheme}://${authority}${target === '*' ? '' : target}` : target

const hasTe = (fields: Fields): boolean => {
  for (let i = 0; i < fields.length; i += 2)
    if (fields[i]!.length === 2 && fields[i]!.toLowerCase() === 'te') return true
  return false
}

/** A tunnel has no length (RFC 9110 9.3.6), and the nonce of a websocket is made here. */
const NOT_OF_A_TUNNEL = new Set(['content-length', 'sec-websocket-key'])

/** Host from `:authority` and first, as RFC 9112 section 3.2 likes it. The crumbs of Cookie were joined as they came. */
const fromHttp2 = (head: RequestHead): Fields | undefined => {
  const fields: Fields = ['host', head.authority]
  for (let i = 0; i < head.fields.length; i += 2) {
    const name = head.fields[i]!
    const value = head.fields[i + 1]!
    if (!canStand(name, value)) return undefined
    if (name === 'host' || (head.method === 'CONNECT' && NOT_OF_A_TUNNEL.has(name))) continue
    fields.push(name, value)
  }
  return fields
}
