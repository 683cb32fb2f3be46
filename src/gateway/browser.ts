import type { Fields, RequestHead } from '../forward/exchange.ts'
import { SESSION_COOKIE, valuesOf } from './credentials.ts'
import type { GatewaySection, Target } from './exposure.ts'

const PREFLIGHT_S = 3_600 // browsers ask again after two hours at the latest, whatever we say

/** Where a browser is sent to sign in, if it is one, and the page that it wanted can be asked for once more. */
export const signInAt = (
  { signIn }: GatewaySection,
  { task }: Target,
  head: RequestHead,
  why: string,
): string | undefined => {
  if (signIn === undefined || head.method !== 'GET') return undefined
  if (!valuesOf(head, 'accept').some((value) => /\btext\/html\b/i.test(value))) return undefined
  const url = new URL(signIn)
  url.searchParams.set('orig_url', `https://${head.authority}${head.target}`)
  url.searchParams.set('task', task)
  url.searchParams.set('prefix', task)
  url.searchParams.set('err', why)
  return url.href
}

/** What the sign-in page sends a browser back with, if this request is that. */
export type SignedIn =
  | { readonly is: 'other' }
  | { readonly is: 'wrong'; readonly why: string }
  | { readonly is: 'signedIn'; readonly token: string; readonly to: string }

/** Reads `/auth-redirect?token=…&orig_url=…`. It only ever leads back to the host that it is asked of. */
export const signedIn = (head: RequestHead): SignedIn => {
  const [path, query = ''] = split(head.target)
  if (path !== '/auth-redirect' || head.method !== 'GET') return { is: 'other' }
  const parameters = new URLSearchParams(query)
  const [token, to] = [parameters.getAll('token'), parameters.getAll('orig_url')]
  if (token.length !== 1 || to.length !== 1 || token[0] === '')
    return { is: 'wrong', why: 'expected the parameters `token` and `orig_url`, once each' }
  const url = URL.parse(to[0]!)
  const own = URL.parse(`https://${head.authority}/`)
  const isOwn = own !== null && url?.protocol === 'https:' && url.host === own.host
  if (!isOwn || url.username !== '' || url.password !== '')
    return { is: 'wrong', why: 'invalid `orig_url` parameter: it is not a page of this host' }
  return { is: 'signedIn', token: token[0]!, to: url.href }
}

const split = (target: string): [path: string, query?: string] => {
  const at = target.indexOf('?')
  return at === -1 ? [target] : [target.slice(0, at), target.slice(at + 1)]
}

/** The cookie for a token that is good until `end`, both in milliseconds since 1970. */
export const sessionCookie = (token: string, end: number, now: number): string =>
  `${SESSION_COOKIE}=${token}; Path=/; Max-Age=${Math.max(0, Math.floor((end - now) / 1000))}; HttpOnly; Secure; SameSite=Lax`

/** What answers to a page of an allowed origin say beside; without cookies, which such a page could not send. */
export const corsFields = ({ cors }: GatewaySection, head: RequestHead): Fields => {
  const [origin] = valuesOf(head, 'origin')
  if (cors.length === 0 || origin === undefined) return []
  if (cors.includes('*')) return ['access-control-allow-origin', '*']
  return cors.includes(origin) ? ['access-control-allow-origin', origin, 'vary', 'origin'] : ['vary', 'origin']
}

/** The answer to a preflight of an allowed origin (Fetch standard, CORS protocol): it can carry no token. */
export const preflightFields = (section: GatewaySection, head: RequestHead): Fields | undefined => {
  const [method] = valuesOf(head, 'access-control-request-method')
  const allowed = corsFields(section, head)
  if (head.method !== 'OPTIONS' || method === undefined || allowed[0] !== 'access-control-allow-origin')
    return undefined
  const [headers] = valuesOf(head, 'access-control-request-headers')
  return [
    ...allowed,
    'access-control-allow-methods',
    method,
    ...(headers === undefined ? [] : ['access-control-allow-headers', headers]),
    'access-control-max-age',
    `${PREFLIGHT_S}`,
  ]
}
