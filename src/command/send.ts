import { type IncomingMessage, request } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Address } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import { type Budget, readBody } from './decode.ts'
import type { Ask, Egress } from './egress.ts'
import { CommandFailure, failure, failureOf } from './failure.ts'

/** One request a command wants to make. */
export interface Question {
  readonly method: string
  readonly url: string
  /** Name and value pairs; names may repeat. */
  readonly headers: readonly (readonly [name: string, value: string])[]
  readonly body?: Uint8Array | undefined
  /** How many redirects are followed; 0: the redirect itself is the answer. */
  readonly redirects: number
}

/** The answer, decoded, whole and within the limit. */
export interface Reply {
  readonly status: number
  readonly reason: string
  /** In their order, names in lower case. */
  readonly headers: readonly (readonly [name: string, value: string])[]
  readonly body: Buffer
  /** Where the answer came from, after redirects. */
  readonly url: string
}

/** One request with its redirects, held to policy and limits. */
export type Send = (question: Question) => Promise<Reply>

/** One hop of a request, for the log: never a query, a header or a body. */
export interface Hop {
  readonly method: string
  /** Scheme, host, port and path. */
  readonly url: string
  readonly address?: string | undefined
  readonly rule?: string | undefined
  readonly status?: number | undefined
  readonly failure?: string | undefined
  readonly sentBytes: number
  readonly receivedBytes: number
  readonly ms: number
}

/** What sending needs. */
export interface SendParts {
  readonly egress: Egress
  readonly budget: Budget
  readonly clock: Clock
  readonly responseBytesMax: number
  readonly hopEnded: (hop: Hop) => void
  /** Fields for trace context, added to every hop that does not have them. */
  readonly traceFields?: (() => Readonly<Record<string, string>>) | undefined
}

const HEAD_BYTES_MAX = 65_536 // As the proxy itself allows.
const USER_AGENT = 'sluice'

/** Ours to write, whatever the caller says: framing, hop-by-hop fields, and Host, which the policy has judged. */
const NOT_FORWARDED = new Set([
  'host',
  'connection',
  'content-length',
  'expect',
  'keep-alive',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

/** Fields that must not reach another origin than the one they were written for. */
const SECRET_FIELD = /^(authorization|cookie|cookie2|proxy-authorization)$|token|secret|api-?key|password|signature/i

/** Sends for one call: its caller, its signal. Every hop of a redirect is asked about anew. */
export const createSend =
  (parts: SendParts, caller: Address, signal: AbortSignal): Send =>
  async (question) => {
    let next: Question = question
    for (let left = question.redirects; ; left--) {
      const url = readUrl(next.url)
      const reply = await hop(parts, next, url, caller, signal)
      const location = question.redirects > 0 && REDIRECTS.has(reply.status) ? fieldOf(reply, 'location') : undefined
      if (location === undefined) return reply
      if (left === 0) throw failure('too_many_redirects', `more than ${question.redirects} redirects`)
      next = redirected(next, url, reply.status, location)
    }
  }

const REDIRECTS = new Set([301, 302, 303, 307, 308])

/** The first value of a field, by lower-case name. */
export const fieldOf = (reply: Reply, name: string): string | undefined =>
  reply.headers.find(([key]) => key === name)?.[1]

/** A URL as we may call it; the WHATWG parser has turned decimal, octal and hexadecimal hosts into plain addresses. */
export const readUrl = (text: string): URL => {
  const url = URL.parse(text.trim())
  if (url === null) throw failure('invalid_url', 'the URL cannot be read')
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw failure('invalid_url', `only http and https are called, not ${url.protocol.slice(0, -1)}`)
  return url
}

/** RFC 9110 15.4: 303 becomes a GET, and so do 301 and 302 to a POST, as every client does; 307 and 308 stay. */
const redirected = (from: Question, base: URL, status: number, location: string): Question => {
  const to = URL.parse(location, base)
  if (to === null) throw failure('invalid_response', 'the redirect leads to something that is not a URL')
  const becomesGet = (status === 303 && from.method !== 'HEAD') || (status <= 302 && from.method === 'POST')
  const kept = from.headers.filter(([name]) => {
    if (becomesGet && /^content-/i.test(name)) return false
    return to.origin === base.origin || !SECRET_FIELD.test(name)
  })
  const body = becomesGet ? undefined : from.body
  return { method: becomesGet ? 'GET' : from.method, url: to.href, headers: kept, body, redirects: from.redirects }
}

const hop = async (
  parts: SendParts,
  question: Question,
  url: URL,
  caller: Address,
  signal: AbortSignal,
): Promise<Reply> => {
  const began = parts.clock.now()
  const seen: { address?: Address; rule?: string | undefined; status?: number; bytes: number } = { bytes: 0 }
  let failed: CommandFailure | undefined
  try {
    const fields = fieldsOf(parts, question, url)
    const opened = await parts.egress(askOf(question, url), caller, signal)
    seen.address = opened.address
    seen.rule = opened.rule?.name
    const reply = await exchange(parts, { ...question, url, fields }, opened.stream, signal)
    seen.status = reply.status
    seen.bytes = reply.body.length
    return reply
  } catch (thrown) {
    failed = signal.aborted ? failureOf(signal.reason, 'cancelled') : failureOf(thrown)
    throw failed
  } finally {
    parts.hopEnded({
      method: question.method,
      url: `${url.protocol}//${url.host}${url.pathname}`,
      address: seen.address?.host,
      rule: seen.rule,
      status: seen.status,
      failure: failed?.code,
      sentBytes: question.body?.length ?? 0,
      receivedBytes: seen.bytes,
      ms: parts.clock.now() - began,
    })
  }
}

const askOf = (question: Question, url: URL): Ask => ({
  scheme: url.protocol === 'https:' ? 'https' : 'http',
  host: url.hostname.replace(/^\[|\]$/g, ''),
  port: url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port),
  request: {
    method: question.method,
    authority: url.host.toLowerCase(),
    path: url.pathname,
    header: (name) => question.headers.filter(([key]) => key.toLowerCase() === name).map(([, value]) => value),
  },
})

/** One connection for one request: nothing, not even a socket, is shared between two calls. */
const exchange = async (
  parts: SendParts,
  {
    method,
    body: sent,
    url,
    fields,
  }: Pick<Question, 'method' | 'body'> & { readonly url: URL; readonly fields: string[] },
  stream: Duplex,
  signal: AbortSignal,
): Promise<Reply> => {
  const { promise, resolve: answered, reject } = Promise.withResolvers<IncomingMessage>()
  const call = request({
    method,
    path: `${url.pathname}${url.search}`,
    headers: fields,
    setDefaultHeaders: false,
    createConnection: () => stream,
    maxHeaderSize: HEAD_BYTES_MAX,
    signal,
  })
  let broken: Error | undefined // A parser's error comes to the request, also when the answer has begun.
  call.on('error', (error) => {
    broken ??= error
    reject(error)
  })
  call.on('response', answered)
  call.on('upgrade', () =>
    reject(failure('invalid_response', 'the answer changes the protocol, which nobody asked for')),
  )
  try {
    call.end(sent)
    const message = await promise
    message.on('error', () => {}) // Whoever reads the body hears of it; the others need not.
    const headers = pairsOf(message.rawHeaders)
    const all = (name: string): string => headers.flatMap(([key, value]) => (key === name ? [value] : [])).join(',')
    if (Number(all('content-length')) > parts.responseBytesMax && method !== 'HEAD')
      throw failure('response_too_large', `the answer is larger than ${parts.responseBytesMax} bytes`)
    const body = await readBody(message, all('content-encoding'), parts.responseBytesMax, parts.budget)
    return { status: message.statusCode ?? 0, reason: message.statusMessage ?? '', headers, body, url: url.href }
  } catch (thrown) {
    throw thrown instanceof CommandFailure ? thrown : (broken ?? thrown)
  } finally {
    call.destroy()
    stream.destroy()
  }
}

const fieldsOf = (parts: SendParts, question: Question, url: URL): string[] => {
  const given = question.headers.filter(
    ([name, value]) => !NOT_FORWARDED.has(name.toLowerCase()) || refuseHost(name, value, url),
  )
  const has = new Set(given.map(([name]) => name.toLowerCase()))
  const ours = {
    accept: '*/*',
    'accept-encoding': 'gzip, deflate, br, zstd',
    'user-agent': USER_AGENT,
    ...parts.traceFields?.(),
  }
  const added = Object.entries(ours).filter(([name]) => !has.has(name))
  const framing = lengthOf(question).map((length) => ['Content-Length', length])
  return [['Host', url.host], ...given, ...added, ...framing, ['Connection', 'close']].flat()
}

/** RFC 9110 8.6: a method that expects a body says so when there is none. */
const lengthOf = ({ method, body }: Question): string[] =>
  body !== undefined ? [String(body.length)] : method === 'POST' || method === 'PUT' || method === 'PATCH' ? ['0'] : []

/** A Host other than the URL's would send a request past a policy that has judged the URL. */
const refuseHost = (name: string, value: string, url: URL): false => {
  if (name.toLowerCase() === 'host' && value.toLowerCase() !== url.host.toLowerCase())
    throw failure('invalid_parameters', 'a Host header other than the host of the URL is not sent')
  return false
}

const pairsOf = (raw: readonly string[]): [string, string][] =>
  raw.flatMap((name, at): [string, string][] => (at % 2 === 0 ? [[name.toLowerCase(), raw[at + 1] ?? '']] : []))
