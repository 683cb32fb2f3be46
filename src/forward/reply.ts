import type { RuleRef } from '../policy/verdict.ts'
import type { Answer, Fields, RequestHead } from './exchange.ts'

/** Why Sluice answers itself. Stable: the value of `sluice-error`, and what metrics count by. */
export const CAUSES = {
  unauthorized: [401, 16, 'this port wants a token'],
  tokenExpired: [401, 16, 'the token has expired'],
  misdirected: [421, 14, 'this connection is for another host'],
  signIn: [400, 3, 'this is not a sign-in'],
  denied: [403, 7, 'the policy denies this request'],
  noRoute: [404, 5, 'the policy has no route for this request'],
  rateLimited: [429, 8, 'too many requests'],
  redirected: [302, 5, 'go elsewhere'],
  upgradeRefused: [500, 13, 'this change of protocol is not allowed'],
  loop: [508, 10, 'this request has been here before'],
  overloaded: [503, 14, 'too many requests wait for this upstream'],
  connectFailed: [502, 14, 'the upstream cannot be reached'],
  connectTimeout: [504, 4, 'the upstream did not accept a connection in time'],
  tlsFailed: [502, 14, 'the TLS handshake with the upstream failed'],
  failfast: [504, 4, 'the upstream has no endpoint that could answer'],
  noChannel: [503, 14, 'the app has no open channel'],
  upstreamClosed: [502, 14, 'the upstream closed the connection before it answered'],
  upstreamReset: [502, 14, 'the upstream gave up on this request'],
  upstreamMalformed: [502, 14, 'the upstream broke the protocol'],
  timeout: [504, 4, 'the request took too long'],
  headTimeout: [504, 4, 'the upstream took too long to begin its answer'],
  idleTimeout: [504, 4, 'nothing moved for too long'],
  internal: [500, 13, 'a bug in sluice'],
  authority: [400, 13, ':authority is missing or is not a host with an optional port'],
  headTooLarge: [431, 8, 'the header fields are larger or more than allowed'],
} as const satisfies Record<string, readonly [status: number, grpc: number, says: string]>

export type Cause = keyof typeof CAUSES

/** What a self-made answer says beyond its cause. */
export interface Reply {
  readonly cause: Cause
  /** Instead of the status of the cause, where the policy gives one. */
  readonly status?: number | undefined
  /** Instead of the words of the cause. */
  readonly says?: string | undefined
  readonly fields?: Fields | undefined
  /** Whether the client may be told which error it was. */
  readonly isInformed: boolean
}

/** Whether errors must be told in the words of gRPC: HTTP 200 with `grpc-status`. */
export const isGrpc = (head: RequestHead): boolean => {
  if (head.version !== '2') return false
  for (let i = 0; i < head.fields.length; i += 2) {
    if (head.fields[i] === 'content-type') return /^application\/grpc([+;]|$)/i.test(head.fields[i + 1]!)
  }
  return false
}

/** Answers a request without an upstream: a short plain body, or the twin of gRPC. Returns the status it wrote. */
export const reply = (head: RequestHead, answer: Answer, what: Reply): number => {
  const [usual, grpc, words] = CAUSES[what.cause]
  const says = what.says ?? words
  const error: Fields = what.isInformed ? ['sluice-error', what.cause] : []
  if (isGrpc(head)) {
    const status: Fields = ['grpc-status', `${grpcOf(what.status) ?? grpc}`, 'grpc-message', percentEncoded(says)]
    const fields = ['content-type', 'application/grpc', ...status, ...error, ...(what.fields ?? [])]
    answer.head({ status: 200, reason: '', fields, length: 0 }, true)
    return 200
  }
  const status = what.status ?? usual
  const body = Buffer.from(`${says}\n`)
  const about: Fields = ['content-type', 'text/plain; charset=utf-8', 'content-length', `${body.length}`]
  const isBodiless = head.method === 'HEAD'
  answer.head(
    { status, reason: '', fields: [...about, ...error, ...(what.fields ?? [])], length: body.length },
    isBodiless,
  )
  if (!isBodiless) answer.data(body, true)
  return status
}

/** As gRPC maps HTTP statuses (its document http-grpc-status-mapping). */
const grpcOf = (status: number | undefined): number | undefined =>
  status === undefined
    ? undefined
    : ({ 400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14 } as Record<number, number>)[status]

/** grpc-message is percent-encoded UTF-8 (gRPC over HTTP/2, Responses). */
export const percentEncoded = (text: string): string =>
  [...Buffer.from(text)]
    .map((byte) =>
      byte >= 32 && byte < 127 && byte !== 37
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`,
    )
    .join('')

/** Why an Upgrade is refused, and which rule would allow it. */
export const upgradeRefused = (asked: string, { name, file, line }: RuleRef): string => {
  const decided = line > 0 ? `the rule "${name}" at ${file}:${line}` : 'no rule'
  const rule = `then: { http: { upgrade: { allow: [${asked}] } } }`
  return `Upgrade to ${asked} is not allowed: ${decided} allows it. A rule can: ${rule}`
}
