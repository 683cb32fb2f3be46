import type { ServerResponse } from 'node:http'
import { FILTERS, passes } from '../telemetry/filter.ts'
import type { Ledger } from '../telemetry/ledger.ts'
import { type Event, feed } from '../telemetry/stream.ts'
import { type AdminRoutes, text } from './server.ts'

/** What a tap is asked for. */
export interface TapQuery {
  readonly wanted: Readonly<Record<string, string>>
  readonly limit: number
}

/** Reads the filters and the limit of a query; or says what is wrong with them. */
export const tapQuery = ({ searchParams }: URL): TapQuery | string => {
  const { limit = '', ...wanted } = Object.fromEntries(searchParams)
  const unknown = Object.keys(wanted).find((name) => FILTERS[name] === undefined)
  if (unknown !== undefined)
    return `there is no filter '${unknown.slice(0, 50)}'; there are ${Object.keys(FILTERS).join(', ')} and limit\n`
  if (limit !== '' && !/^[1-9]\d{0,8}$/.test(limit))
    return `limit is a whole number from 1, not '${limit.slice(0, 50)}'\n`
  return { wanted, limit: limit === '' ? Number.POSITIVE_INFINITY : Number(limit) }
}

/** `GET /tap`: what ends from now on, one JSON object a line, for as long as the reader stays. */
export const tapRoutes = (ledger: Ledger): AdminRoutes => ({
  'GET /tap': ({ url }) => {
    const query = tapQuery(url)
    if (typeof query === 'string') return text(400, query)
    return (response) => stream(response, ledger, query.wanted, query.limit)
  },
})

const stream = (
  response: ServerResponse,
  ledger: Ledger,
  wanted: Readonly<Record<string, string>>,
  limit: number,
): void => {
  response.writeHead(200, { 'content-type': 'application/x-ndjson' })
  // The reader knows from the first bytes that it is listening; blank lines mean nothing.
  response.write('\n')
  let left = limit
  const listener = {
    dropped: 0,
    wants: (event: Event) => left > 0 && passes(filterable(event), wanted),
    write: (event: Event) => {
      left -= 1
      const flows = response.write(`${JSON.stringify(line(event))}\n`)
      if (left === 0) response.end()
      return flows
    },
  }
  const { resumed, stop } = feed(ledger, listener)
  response.on('drain', () => {
    if (listener.dropped > 0) response.write(`${JSON.stringify({ is: 'dropped', events: listener.dropped })}\n`)
    listener.dropped = 0
    resumed()
  })
  response.on('close', stop)
}

const filterable = (event: Event) =>
  event.is === 'connection'
    ? { outcome: event.outcome }
    : { outcome: { ...event.life.facts(), result: 'forwarded' as const }, request: event.request }

const line = (event: Event): object =>
  event.is === 'connection'
    ? { is: 'connection', ...event.outcome }
    : { is: 'request', ...event.life.facts(), ...event.request }
