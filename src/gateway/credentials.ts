import type { Fields, RequestHead } from '../forward/exchange.ts'

/** The cookie of a browser that has signed in. A browser takes a name that begins so only by https, for one host alone. */
export const SESSION_COOKIE = '__Host-flow_auth'

/** The token of a request, or why there is none; never with any of the token in it. */
export type Credential =
  | { readonly is: 'token'; readonly token: string }
  | { readonly is: 'missing'; readonly why: string }
  | { readonly is: 'odd'; readonly why: string }

/** The values of a field. */
export const valuesOf = ({ fields }: Pick<RequestHead, 'fields'>, name: string): string[] =>
  fields.filter((_, i) => i % 2 === 1 && fields[i - 1]!.toLowerCase() === name)

/** What a request shows: the header where it has one, or else the cookie. Two of either say nothing certain. */
export const credentialOf = (head: RequestHead): Credential => {
  const headers = valuesOf(head, 'authorization')
  if (headers.length > 1) return { is: 'odd', why: 'there is more than one Authorization header' }
  if (headers.length === 1) {
    const token = /^bearer +([^\s,]+) *$/i.exec(headers[0]!)?.[1]
    return token === undefined
      ? { is: 'odd', why: 'the Authorization header is not "Bearer" and a token' }
      : { is: 'token', token }
  }
  const cookies = valuesOf(head, 'cookie').flatMap(pairsOf).filter(isSession)
  if (cookies.length > 1) return { is: 'odd', why: 'there is more than one session cookie' }
  const [pair] = cookies
  if (pair === undefined) return { is: 'missing', why: 'missing authorization' }
  return { is: 'token', token: pair.slice(pair.indexOf('=') + 1).trim() }
}

const pairsOf = (cookie: string): string[] => cookie.split(';')
const isSession = (pair: string): boolean => pair.split('=', 1)[0]!.trim() === SESSION_COOKIE

/** The fields as the connector may see them: it could use the token itself, so it does not get it. Other cookies stay. */
export const withoutCredentials = (fields: Fields): Fields => {
  const kept: Fields = []
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i]!.toLowerCase()
    if (name === 'authorization') continue
    if (name !== 'cookie') {
      kept.push(fields[i]!, fields[i + 1]!)
      continue
    }
    const pairs = pairsOf(fields[i + 1]!)
    const others = pairs.filter((pair) => !isSession(pair))
    if (others.length === pairs.length) kept.push(fields[i]!, fields[i + 1]!)
    else if (others.some((pair) => pair.trim() !== ''))
      kept.push(fields[i]!, others.map((pair) => pair.trim()).join('; '))
  }
  return kept
}
