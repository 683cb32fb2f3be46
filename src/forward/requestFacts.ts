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

export type Writable<T> = { -readonly [K in keyof T]: T[K] }

/** Writes what is known; to spread what may be there costs more than the rest of a request's telemetry. */
export const noteKnown = <K extends keyof RequestOutcome>(
  into: Writable<RequestOutcome>,
  key: K,
  value: RequestOutcome[K] | undefined,
): void => {
  if (value !== undefined) into[key] = value
}

/** What the log says of a request beside its line: the first field of each name, and of traceparent the trace. */
export const noteLoggedFields = (
  into: { -readonly [K in 'userAgent' | 'referer' | 'requestId' | 'traceId']?: string },
  fields: readonly string[],
): void => {
  let trace: string | undefined
  let b3: string | undefined
  for (let i = 0; i < fields.length; i += 2) {
    const field = fields[i]!
    const { length } = field
    if (length !== 7 && (length < 10 || length > 12)) continue
    const value = fields[i + 1]!
    switch (field.toLowerCase()) {
      case 'user-agent':
        into.userAgent ??= value
        break
      case 'referer':
        into.referer ??= value
        break
      case 'x-request-id':
        into.requestId ??= value
        break
      case 'traceparent':
        trace ??= value
        break
      case 'x-b3-traceid':
        b3 ??= value
    }
  }
  const traceId = trace?.split('-')[1] ?? b3
  if (traceId !== undefined) into.traceId = traceId
}

/** The same request with an `x-request-id` of ours, where it came without. */
export const identified = (head: RequestHead): RequestHead =>
  valuesOf(head.fields, 'x-request-id') === NONE
    ? { ...head, fields: [...head.fields, 'x-request-id', randomUUID()] }
    : head

const pathOf = (target: string): string => {
  const end = target.indexOf('?')
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
