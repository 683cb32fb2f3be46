import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import { API_KEY_HEADER } from './auth.ts'
import type { Answer } from './routes.ts'

/** The origins whose pages may call us; `*` is all of them. */
export type Cors = readonly string[]

const isAllowed = (cors: Cors, origin: string): boolean => cors.includes('*') || cors.includes(origin)

/** Fields for an answer to a page of an allowed origin. */
export const corsFields = (cors: Cors, origin: string | undefined): Record<string, string> => {
  if (cors.length === 0) return {}
  if (origin === undefined || !isAllowed(cors, origin)) return { vary: 'origin' }
  return { 'access-control-allow-origin': cors.includes('*') ? '*' : origin, vary: 'origin' }
}

/** The answer to a preflight (Fetch standard, CORS protocol): nothing runs, so no lock is asked for. */
export const preflight = (cors: Cors, { method, headers }: IncomingMessage): Answer | undefined => {
  const { origin } = headers
  if (method !== 'OPTIONS' || origin === undefined || headers['access-control-request-method'] === undefined)
    return undefined
  if (!isAllowed(cors, origin)) return undefined
  return {
    status: 204,
    type: 'text/plain',
    text: '',
    headers: {
      'access-control-allow-methods': 'GET, POST',
      'access-control-allow-headers': `content-type, authorization, ${API_KEY_HEADER}`,
      'access-control-max-age': '86400',
    },
  }
}

/**
 * A browser sends Origin with every POST, so a page that the operator did not allow can be told from a program: without
 * this, any web page could make a connector on the reader's own machine run commands (a text/plain POST has no preflight).
 */
export const isForeignPage = (cors: Cors, { origin, host }: IncomingHttpHeaders): boolean =>
  origin !== undefined && !isAllowed(cors, origin) && URL.parse(origin)?.host !== host
