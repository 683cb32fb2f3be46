import { isSecretName } from '../net/secretNames.ts'
import type { Answer, Fields, RequestHead } from './exchange.ts'
import { valuesOf } from './fields.ts'

const NAME = 'max-forwards'

/**
 * How many more proxies a TRACE or OPTIONS may pass (RFC 9110 section 7.6.2); undefined where it says nothing about that.
 * With other methods, and where it is no number, the field means nothing and passes like any other.
 */
export const forwardsLeft = ({ method, fields }: RequestHead): number | undefined => {
  if (method !== 'TRACE' && method !== 'OPTIONS') return undefined
  const values = valuesOf(fields, NAME)
  return values.length === 1 && /^\d+$/.test(values[0]!) ? Number(values[0]) : undefined
}

/** The same request, of which we were one. */
export const forwardedOnce = (head: RequestHead, left: number): RequestHead => ({
  ...head,
  fields: head.fields.map((text, i, fields) =>
    i % 2 === 1 && fields[i - 1]!.toLowerCase() === NAME ? `${Math.min(left, FORWARDS_MAX) - 1}` : text,
  ),
})

const FORWARDS_MAX = 1_000_000 // more proxies than any chain has, and a number that is written without an exponent

/**
 * Answers as its last recipient (RFC 9110 sections 9.3.7 and 9.3.8): an OPTIONS with nothing, a TRACE with what came of it,
 * but for what a page that reads the answer should not learn. Returns the status.
 */
export const answerAsLast = (head: RequestHead, answer: Answer): number => {
  const body = head.method === 'TRACE' ? reflected(head) : EMPTY
  const fields: Fields = body === EMPTY ? [] : ['content-type', 'message/http']
  const length = body.length
  answer.head({ status: 200, reason: '', fields: [...fields, 'content-length', `${length}`], length }, length === 0)
  if (length > 0) answer.data(body, true)
  return 200
}

const EMPTY = Buffer.alloc(0)

const reflected = ({ method, target, version, authority, fields }: RequestHead): Buffer => {
  let text = `${method} ${target} HTTP/${version}\r\n`
  if (version === '2') text += `host: ${authority}\r\n`
  for (let i = 0; i < fields.length; i += 2) {
    if (!isSecretName(fields[i]!)) text += `${fields[i]}: ${fields[i + 1]}\r\n`
  }
  return Buffer.from(`${text}\r\n`, 'latin1')
}
