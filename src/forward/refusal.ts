import type { RequestHead } from './exchange.ts'
import type { HttpSettings } from './httpSettings.ts'
import { type Reply, upgradeRefused } from './reply.ts'
import type { Router } from './route.ts'

/** Why a request is answered without any upstream, and in which words. */
export type Refusal = Omit<Reply, 'isInformed'>

/** What the policy says to a request at once; undefined where it may go on. */
export const refusalOf = (router: Router, settings: HttpSettings, asked: RequestHead): Refusal | undefined => {
  if (settings.deny) return { cause: 'denied', status: settings.denyStatus }
  if (settings.rateLimit !== undefined) {
    const waitMs = rateWaitMs(router, settings.rateLimit, settings)
    if (waitMs > 0) return { cause: 'rateLimited', fields: ['retry-after', `${Math.ceil(waitMs / 1000)}`] }
  }
  if (settings.redirectTo !== undefined) return redirect(settings.redirectTo, settings.redirectStatus, asked)
  if (asked.upgrade === undefined || isAllowed(asked.upgrade, settings) || isIgnored(asked, settings)) return undefined
  return { cause: 'upgradeRefused', says: upgradeRefused(asked.upgrade, settings.upgrade.by) }
}

/** The request as it goes on: without an Upgrade that the policy has us overlook. */
export const withoutIgnored = (head: RequestHead, settings: HttpSettings): RequestHead => {
  if (head.upgrade === undefined || isAllowed(head.upgrade, settings)) return head
  const { upgrade: _, ...plain } = head
  return plain
}

const isAllowed = (asked: string, { upgrade }: HttpSettings): boolean => upgrade.allow.includes(asked.toLowerCase())

/** An extended CONNECT is nothing without its protocol. */
const isIgnored = ({ method }: RequestHead, { upgrade }: HttpSettings): boolean =>
  upgrade.other === 'ignore' && method !== 'CONNECT'

/** How long the client should wait; 0: it is within its rate, and has used some of it. */
const rateWaitMs = (
  { http, origin }: Router,
  limit: NonNullable<HttpSettings['rateLimit']>,
  { rateLimitBy }: HttpSettings,
): number => {
  const client = limit.for === 'client' ? origin.peer.host : ''
  const waitMs = http.rates.take(rateLimitBy, client, limit.requests, limit.per)
  if (waitMs > 0) http.hits.rate++
  return waitMs
}

const redirect = (to: string, status: number, { authority, target }: RequestHead): Refusal => {
  const location = to.replaceAll('{authority}', () => authority).replaceAll('{target}', () => target)
  return { cause: 'redirected', status, says: `see ${location}`, fields: ['location', location] }
}
