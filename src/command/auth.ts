import type { IncomingHttpHeaders } from 'node:http'
import { isSecret } from '../net/secret.ts'

/** Which locks a route has. The API key is for the callers of commands, the token for everybody. */
export interface Locks {
  readonly token: string | undefined
  readonly apiKey: string | undefined
}

/** The header that carries the API key. */
export const API_KEY_HEADER = 'spiff-connector-proxy-api-key'

/** What a request lacks. */
export type Missing = 'token' | 'apiKey'

/** What a request to a route lacks, if anything. Decided by its head alone, before a byte of its body is read. */
export const missing = (locks: Locks, needsApiKey: boolean, headers: IncomingHttpHeaders): Missing | undefined => {
  if (locks.token !== undefined && !isSecret(bearer(headers.authorization), locks.token)) return 'token'
  if (needsApiKey && locks.apiKey !== undefined && !isSecret(one(headers[API_KEY_HEADER]), locks.apiKey))
    return 'apiKey'
  return undefined
}

/** The scheme is compared without case (RFC 9110 11.1), the token with it. */
const bearer = (authorization: string | undefined): string | undefined =>
  /^bearer +(\S+)$/i.exec(authorization ?? '')?.[1]

const one = (value: string | string[] | undefined): string | undefined =>
  typeof value === 'string' ? value : undefined
