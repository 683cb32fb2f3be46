import type { DnsMessage, DnsRecord, QuestionType } from '../codec/dnsMessage.ts'
import type { Address } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import type { Endpoint } from '../net/endpoint.ts'
import { answerOf, type DnsAnswer } from './dnsAnswer.ts'
import type { Exchange } from './dnsExchange.ts'
import { withoutTwins } from './namedEndpoints.ts'

/** What DNS says of a name. TTLs are in seconds. */
export type Lookup =
  | { readonly is: 'endpoints'; readonly endpoints: readonly Endpoint[]; readonly ttl: number; readonly by: string }
  | { readonly is: 'noName' | 'noData'; readonly ttl: number; readonly by: string }
  | { readonly is: 'failed'; readonly error: string; readonly isRefused?: boolean }

/** Whom to ask, and how. */
export interface Lookups {
  readonly servers: readonly Address[]
  readonly timeoutMs: number
  readonly attempts: number
  readonly rotate: boolean
  readonly useTcp: boolean
  readonly types: readonly ('A' | 'AAAA')[]
  readonly srv: 'underscore' | 'first' | 'never'
}

/** What a resolver needs of the world. */
export interface DnsWorld {
  readonly exchange: (asked: Exchange) => Promise<DnsMessage>
  readonly clock: Clock
}

const QUESTIONS_MAX = 64 // under way at once: each holds a socket, and a resolver that is flooded drops them all
const REST_MS = 30_000 // a server that was silent is asked after the others for so long
const TARGETS_MAX = 200 // of one set of SRV records; each may take two questions

/** Asks the servers of a list for names. */
export const createResolver = ({ exchange, clock }: DnsWorld) => {
  const silentUntil = new Map<string, number>()
  const waiting: (() => void)[] = []
  let underWay = 0
  let turn = 0

  /** The servers in the order to ask them: those that were silent a moment ago come last. */
  const inOrder = ({ servers, rotate }: Lookups): readonly Address[] => {
    const first = rotate ? turn++ % servers.length : 0
    const rotated = [...servers.slice(first), ...servers.slice(0, first)]
    const rests = ({ host, port }: Address) => (silentUntil.get(`${host} ${port}`) ?? 0) > clock.now()
    return [...rotated.filter((it) => !rests(it)), ...rotated.filter(rests)]
  }

  const askOne = async (server: Address, name: string, type: QuestionType, how: Lookups): Promise<DnsMessage> => {
    const asked = { server, name, type, timeoutMs: how.timeoutMs, useTcp: how.useTcp }
    const message = await exchange({ ...asked, withEdns: true })
    // FORMERR or NOTIMP: perhaps it has never heard of EDNS (RFC 6891 section 7).
    return message.code === 1 || message.code === 4 ? exchange({ ...asked, withEdns: false }) : message
  }

  const ask = async (
    name: string,
    type: QuestionType,
    how: Lookups,
  ): Promise<DnsAnswer & { readonly message?: DnsMessage }> => {
    let last: DnsAnswer = { is: 'failed', error: 'there is no server to ask' }
    let refusal: DnsAnswer | undefined
    for (let attempt = 0; attempt < how.attempts; attempt++) {
      for (const server of inOrder(how)) {
        const key = `${server.host} ${server.port}`
        try {
          const message = await askOne(server, name, type, how)
          silentUntil.delete(key)
          const answer = answerOf(message, name, type)
          if (answer.is !== 'failed') return { ...answer, message }
          const told = { ...answer, error: `${server.host}: ${answer.error}` }
          if (answer.isRefused) refusal = told
          last = told
        } catch (error) {
          silentUntil.set(key, clock.now() + REST_MS)
          last = { is: 'failed', error: (error as Error).message }
        }
      }
    }
    // One that refuses knows more than one that is not there.
    return refusal ?? last
  }

  /** The same, when it is our turn. */
  const question: typeof ask = async (name, type, how) => {
    if (underWay >= QUESTIONS_MAX) await new Promise<void>((go) => waiting.push(go))
    else underWay++
    try {
      return await ask(name, type, how)
    } finally {
      const next = waiting.shift()
      if (next === undefined) underWay--
      else next()
    }
  }

  const addresses = async (name: string, how: Lookups): Promise<Hosts> =>
    hostsOf(await Promise.all(how.types.map((type) => question(name, type, how))))

  const services = async (name: string, port: number, how: Lookups): Promise<Lookup> => {
    const found = await question(name, 'SRV', how)
    if (found.is === 'failed') return found
    if (found.is !== 'records') return { ...found, by: 'SRV' }
    const records = found.records.flatMap((it) => (it.type === 'SRV' ? [it] : []))
    // RFC 2782: a single record whose target is the root says that the service is decidedly not there.
    const real = records.filter(({ target }) => target !== '.').slice(0, TARGETS_MAX)
    if (real.length === 0) return { is: 'endpoints', endpoints: [], ttl: found.ttl, by: 'SRV' }
    const extra = found.message?.additionals ?? []
    let ttl = found.ttl
    for (const priority of [...new Set(real.map((it) => it.priority))].sort((a, b) => a - b)) {
      const group = real.filter((it) => it.priority === priority)
      const hosts = await Promise.all(
        group.map(async ({ target }) => additional(extra, target, how) ?? (await addresses(target, how))),
      )
      const failure = hosts.find((it) => it.is === 'failed')
      // Less than the whole set is not passed off as the whole: the last whole one stays.
      if (failure?.is === 'failed') return failure
      ttl = Math.min(ttl, ...hosts.map((it) => (it.is === 'failed' ? ttl : it.ttl)))
      if (hosts.some(({ is }) => is === 'hosts'))
        return { is: 'endpoints', endpoints: withoutTwins(weighted(group, hosts, port)), ttl, by: 'SRV' }
    }
    return { is: 'endpoints', endpoints: [], ttl, by: 'SRV' }
  }

  return async (name: string, port: number, how: Lookups): Promise<Lookup> => {
    const isService = name.startsWith('_') && how.srv !== 'never'
    if (isService || how.srv === 'first') {
      const found = await services(name, port, how)
      if (isService || found.is === 'endpoints' || found.is === 'failed') return found
    }
    const found = await addresses(name, how)
    if (found.is !== 'hosts') return found.is === 'failed' ? found : { ...found, by: how.types.join(' and ') }
    const endpoints = found.addresses.map((host): Endpoint => ({ address: { host, port }, weight: 1, labels: {} }))
    return { is: 'endpoints', endpoints: withoutTwins(endpoints), ttl: found.ttl, by: how.types.join(' and ') }
  }
}

type Hosts =
  | { readonly is: 'hosts'; readonly addresses: readonly string[]; readonly ttl: number }
  | { readonly is: 'noName' | 'noData'; readonly ttl: number }
  | { readonly is: 'failed'; readonly error: string; readonly isRefused?: boolean }

/**
 * What the answers for A and for AAAA say together. One family that was found is enough, as for getaddrinfo: many
 * servers fail for AAAA alone. Without any, a failure is not passed off as "none".
 */
export const hostsOf = (answers: readonly DnsAnswer[]): Hosts => {
  const addresses = answers.flatMap((answer) => (answer.is === 'records' ? answer.records.flatMap(addressIn) : []))
  const failure = answers.find((answer) => answer.is === 'failed')
  const ttl = Math.min(...answers.map((answer) => (answer.is === 'failed' ? Number.POSITIVE_INFINITY : answer.ttl)))
  if (addresses.length > 0) return { is: 'hosts', addresses, ttl }
  if (failure !== undefined) return failure
  // A name that exists for one family exists.
  return { is: answers.every(({ is }) => is === 'noName') ? 'noName' : 'noData', ttl }
}

const addressIn = (record: DnsRecord): string[] =>
  record.type === 'A' || record.type === 'AAAA' ? [record.address] : []

/** Addresses that the server sent along, so that nobody has to ask: a set of fifty would take a hundred questions. */
const additional = (extra: readonly DnsRecord[], target: string, { types }: Lookups): Hosts | undefined => {
  const records = extra.filter((it) => it.owner === target && (it.type === 'A' || it.type === 'AAAA'))
  const wanted = records.filter((it) => types.some((type) => type === it.type))
  if (wanted.length === 0) return undefined
  return { is: 'hosts', addresses: wanted.flatMap(addressIn), ttl: Math.min(...wanted.map((it) => it.ttl)) }
}

const SCALE = 100

/**
 * RFC 2782: a target gets traffic by its weight, however many addresses it has, and one of weight 0 beside others a
 * very small part. Only the relation of weights counts.
 */
export const weighted = (
  group: readonly { readonly weight: number; readonly port: number }[],
  hosts: readonly Hosts[],
  asked: number,
): Endpoint[] => {
  const isEven = group.every(({ weight }) => weight === 0)
  return group.flatMap(({ weight, port }, at) => {
    const found = hosts[at]!
    if (found.is !== 'hosts') return []
    const whole = isEven ? SCALE : weight * SCALE
    const each = Math.max(1, Math.round(whole / found.addresses.length))
    return found.addresses.map((host) => ({ address: { host, port: port || asked }, weight: each, labels: {} }))
  })
}
