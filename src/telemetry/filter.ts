import { formatAddress } from '../net/address.ts'
import type { Outcome, RuleName } from './outcome.ts'

/** What a filter looks at: the same for a connection, and for a request within one. */
export interface Filterable {
  readonly outcome: Pick<Outcome, 'direction' | 'protocols' | 'peer' | 'destination' | 'rules' | 'result'>
  readonly request?: {
    readonly authority: string
    readonly target: string
    readonly status: number
    readonly rules: Readonly<Record<string, RuleName>>
  }
}

/** Each filter: how it is named on the command line and in the query, what it means, and when it holds. */
export const FILTERS: Readonly<
  Record<
    string,
    { readonly value: string; readonly help: string; readonly holds: (it: Filterable, wanted: string) => boolean }
  >
> = {
  direction: {
    value: 'inbound|outbound',
    help: 'only this direction',
    holds: ({ outcome }, wanted) => outcome.direction === wanted,
  },
  protocol: {
    value: 'NAME',
    help: 'only what is spoken: tls, http1, http2 or opaque',
    holds: ({ outcome }, wanted) => outcome.protocols.includes(wanted),
  },
  result: {
    value: 'NAME',
    help: 'only forwarded, denied, refused or failed',
    holds: ({ outcome }, wanted) => outcome.result === wanted,
  },
  peer: {
    value: 'ADDRESS',
    help: 'only from this address, or address and port',
    holds: ({ outcome }, wanted) => isAt(outcome.peer, wanted),
  },
  destination: {
    value: 'ADDRESS',
    help: 'only to this address, or address and port',
    holds: ({ outcome }, wanted) => isAt(outcome.destination, wanted),
  },
  rule: {
    value: 'NAME',
    help: 'only what this rule decided something of',
    holds: ({ outcome, request }, wanted) =>
      [outcome.rules, request?.rules ?? {}].some((rules) => Object.values(rules).some(({ name }) => name === wanted)),
  },
  authority: {
    value: 'NAME',
    help: 'only requests to this authority',
    holds: ({ request }, wanted) => request?.authority === wanted.toLowerCase(),
  },
  path: {
    value: 'PREFIX',
    help: 'only requests whose path begins so',
    holds: ({ request }, wanted) => request?.target.startsWith(wanted) === true,
  },
  status: {
    value: 'CODE',
    help: 'only answers with this status, or class such as 5xx',
    holds: ({ request }, wanted) => request !== undefined && hasStatus(request.status, wanted),
  },
}

const isAt = (address: { host: string; port: number }, wanted: string): boolean =>
  address.host === wanted || formatAddress(address) === wanted

const hasStatus = (status: number, wanted: string): boolean =>
  /^[1-5]xx$/.test(wanted) ? String(status)[0] === wanted[0] : String(status) === wanted

/** All of the filters hold. */
export const passes = (it: Filterable, wanted: Readonly<Record<string, string>>): boolean =>
  Object.entries(wanted).every(([name, value]) => FILTERS[name]?.holds(it, value) === true)
