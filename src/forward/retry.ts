import type { RequestHead, ResponseHead } from './exchange.ts'
import { statusIn } from './fields.ts'
import { isGrpc } from './reply.ts'

/** RFC 9110 section 9.2.2. */
export const IDEMPOTENT = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE'])

/** Between tries that the policy asks for: full jitter over a doubling time. */
const BACKOFF_MS = 25
const BACKOFF_MS_MAX = 250

/** How long to wait before the next try. */
export const backoffMs = (attempts: number, dice: number): number =>
  dice * Math.min(BACKOFF_MS * 2 ** attempts, BACKOFF_MS_MAX)

/** Whether a request may be sent again by what it is: its method, and whom the policy allows. */
export const isRepeatable = (asked: RequestHead, head: RequestHead, anyMethod: boolean): boolean => {
  if (head.upgrade !== undefined || head.method === 'CONNECT') return false
  return anyMethod || IDEMPOTENT.has(head.method) || isGrpc(asked)
}

/** Whether the policy lists this response among those that are worth another try. */
export const isWorthRepeating = (on: ReadonlySet<string | number>, { status, fields }: ResponseHead): boolean => {
  const isGateway = status === 502 || status === 503 || status === 504
  const isListed = on.has(status) || (on.has('5xx') && status >= 500) || (on.has('gatewayError') && isGateway)
  return isListed || (on.has('grpcUnavailable') && statusIn(fields) === '14')
}
