import { randomUUID } from 'node:crypto'
import type { RequestFacts } from '../policy/facts.ts'
import type { RequestOutcome } from '../telemetry/outcome.ts'
import type { RequestHead } from './exchange.ts'

/** A request as rules see it. */
export const requestFactsOf = (head: RequestHead): RequestFacts => ({
  method: head.method,
  authority: head.authority,
  path: pathOf(head.target),
  header: (name) => valuesOf(head.fields, name),
})

/** What the log says of a request beside its line. */
export const loggedFieldsOf = (
  head: RequestHead,
): Pick<RequestOutcome, 'userAgent' | 'referer' | 'requestId' | 'traceId'> => {
  const header = (name: string) => valuesOf(head.fields, name)
  const [userAgent] = header('user-agent')
  const [referer] = header('referer')
  const [requestId] = header('x-request-id')
  const traceId = header('traceparent')[0]?.split('-')[1] ?? header('x-b3-traceid')[0]
  return {
    ...(userAgent !== undefined && { userAgent }),
    ...(referer !== undefined && { referer }),
    ...(requestId !== undefined && { requestId }),
    ...(traceId !== undefined && { traceId }),
  }
}

/** The same request with an `x-request-id` of ours, where it came without. */
export const identified = (head: RequestHead): RequestHead =>
  valuesOf(head.fields, 'x-request-id') === NONE
    ? { ...head, fields: [...head.fields, 'x-request-id', randomUUID()] }
    : head

const pathOf = (target: string): string => {
  const end = target.search(/[?#]/)
  return end === -1 ? target : target.slice(0, end)
}

const valuesOf = (fields: readonly string[], name: string): readonly string[] => {
  let values: string[] | undefined
  for (let i = 0; i < fields.length; i += 2) {
    const field = fields[i]!
    if (field.length === name.length && field.toLowerCase() === name) (values ??= []).push(fields[i + 1]!)
  }
  return values ?? NONE
}

const NONE: readonly string[] = []
