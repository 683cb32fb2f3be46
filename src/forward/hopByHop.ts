import type { RequestRead, ResponseRead } from '../codec/http1.ts'
import { listOf } from '../codec/http1Head.ts'
import type { Fields } from './exchange.ts'

/** Never passed on, whether `Connection` names them or not (RFC 9110 section 7.6.1). */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'transfer-encoding',
  'upgrade',
])

/** The lengths of the names that need a second look; most fields have another one and pass with the first. */
const LENGTHS = new Uint8Array(256)
for (const { length } of [...HOP_BY_HOP, 'te', 'trailer', 'content-length']) LENGTHS[length] = 1

/** Not hop-by-hop even where `Connection` names them: without them the message would be another one. */
const KEPT = new Set(['host', 'content-length', 'trailer'])

/** The fields of a message that go on to the next hop. The same array where nothing is to be removed. */
export const endToEnd = (head: RequestRead | ResponseRead): Fields => {
  const { fields } = head
  if (!head.hopByHop && head.lengths <= 1) return fields
  const named = namesIn(head.connection)
  const kept: Fields = []
  let lengthSeen = false
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i]!
    if (named === NONE && LENGTHS[name.length] !== 1) {
      kept.push(name, fields[i + 1]!)
      continue
    }
    const lower = name.toLowerCase()
    if (lower === 'te') {
      if (listOf(fields[i + 1]!).some((coding) => coding === 'trailers')) kept.push(name, 'trailers')
      continue
    }
    if (HOP_BY_HOP.has(lower) || (named.includes(lower) && !KEPT.has(lower))) continue
    // Trailers come only with chunks, and are announced only where they can come.
    if (lower === 'trailer' && head.framing !== 'chunked') continue
    if (lower === 'content-length') {
      if (lengthSeen) continue
      lengthSeen = true
    }
    kept.push(name, fields[i + 1]!)
  }
  return kept
}

const NONE: readonly string[] = []

/** The fields that `Connection` names; those that nearly every message has name none. */
const namesIn = (connection: string): readonly string[] =>
  connection === '' || connection === 'keep-alive' || connection === 'close' ? NONE : listOf(connection)

/** Whether `Connection` has this option, given in lower case. */
export const hasOption = (connection: string, option: string): boolean =>
  connection === option || (connection !== '' && connection !== 'keep-alive' && listOf(connection).includes(option))

/**
 * The protocols that a request asks to change to, first choice first. Upgrade counts only where Connection names it, and
 * not for CONNECT, which asks for a change already.
 */
export const upgradesOf = (head: RequestRead): readonly string[] =>
  head.upgrade === undefined || head.minor === 0 || head.method === 'CONNECT' || !hasOption(head.connection, 'upgrade')
    ? NONE
    : head.upgrade.split(',').flatMap((protocol) => protocol.trim() || [])
