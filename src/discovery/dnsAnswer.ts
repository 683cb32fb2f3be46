import type { DnsMessage, DnsRecord, QuestionType } from '../codec/dnsMessage.ts'

/** What a server said of one question. TTLs are in seconds. */
export type DnsAnswer =
  /** The records at the end of the chain of aliases. */
  | { readonly is: 'records'; readonly records: readonly DnsRecord[]; readonly ttl: number }
  /** There is no such name (NXDOMAIN). */
  | { readonly is: 'noName'; readonly ttl: number }
  /** The name exists, and has no record of this type. */
  | { readonly is: 'noData'; readonly ttl: number }
  /** The server could not say, or did not want to: a name that it refuses it refuses always. */
  | { readonly is: 'failed'; readonly error: string; readonly isRefused?: boolean }

const ALIASES_MAX = 16 // as many as BIND follows
// A negative answer without SOA must not be kept (RFC 2308 section 5); this only keeps us from asking without pause.
const NEGATIVE_SECONDS = 1

const REFUSED = 5

const CODES: Readonly<Record<number, string>> = {
  1: 'FORMERR: the server did not understand the question',
  2: 'SERVFAIL: the server could not find out',
  4: 'NOTIMP: the server does not know how',
  5: 'REFUSED: the server does not want to',
}

/** What a message says of a question. The TTL is the shortest on the way: an alias that ends early ends all. */
export const answerOf = (message: DnsMessage, name: string, type: QuestionType): DnsAnswer => {
  const { code, answers, authorities } = message
  if (code !== 0 && code !== 3) {
    const error = CODES[code] ?? `the server answered with code ${code}`
    return { is: 'failed', error, isRefused: code === REFUSED }
  }
  let owner = name
  let ttl = Number.POSITIVE_INFINITY
  for (let aliases = 0; aliases < ALIASES_MAX; aliases++) {
    const alias = answers.find((record) => record.type === 'CNAME' && record.owner === owner)
    if (alias?.type !== 'CNAME') break
    owner = alias.target
    ttl = Math.min(ttl, alias.ttl)
  }
  const records = answers.filter((record) => record.type === type && record.owner === owner)
  if (records.length > 0) return { is: 'records', records, ttl: Math.min(ttl, ...records.map((it) => it.ttl)) }
  const soa = authorities.find((record) => record.type === 'SOA')
  // RFC 2308 section 2.1: with aliases, the code is that of the last name.
  return { is: code === 3 ? 'noName' : 'noData', ttl: Math.min(ttl, soa?.ttl ?? NEGATIVE_SECONDS) }
}
