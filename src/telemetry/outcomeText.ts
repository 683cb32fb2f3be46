import { formatAddress } from '../net/address.ts'
import type { Change, Outcome, RequestOutcome, RuleName } from './outcome.ts'

/** An Outcome as one line for a person: who, where to, what it was and why, which rules decided, how it ended. */
export const outcomeText = (outcome: Outcome): string => {
  const { peer, destination, upstream, direction, result, bytes, ms, ended, error } = outcome
  const elsewhere = upstream && formatAddress(upstream) !== formatAddress(destination)
  return [
    new Date(outcome.startedAt).toISOString(),
    direction,
    `${formatAddress(peer)} -> ${formatAddress(destination)}`,
    outcome.exposed ? `port ${outcome.exposed.port} of ${outcome.exposed.task}` : '',
    spoken(outcome),
    `${result}${elsewhere ? ` to ${formatAddress(upstream)}${of(outcome)}` : ''}${overChannel(outcome)}`,
    `sent ${bytes.sent} received ${bytes.received} bytes in ${duration(ms)}, ${endings[ended] ?? ended}`,
    ...(error ? [`(${error.code}: ${error.message})`] : []),
    rulesText(outcome.rules),
    changesText('dry run', outcome.dryRun),
    changesText('candidate', outcome.candidate),
  ]
    .filter((part) => part !== '')
    .join('  ')
}

/** A request as one line for a person. */
export const requestText = (
  request: RequestOutcome,
  on: Pick<Outcome, 'direction' | 'peer' | 'destination'>,
): string => {
  const { method, authority, target, version, status, bytes, ms, upstream, attempts, error, grpcStatus } = request
  return [
    on.direction,
    formatAddress(on.peer),
    `${method} ${authority}${target} HTTP/${version}`,
    status === 0 ? 'broke off' : String(status),
    grpcStatus === undefined ? '' : `grpc-status ${grpcStatus}`,
    upstream === undefined
      ? 'answered by sluice'
      : `from ${formatAddress(upstream)}${of(request)}${overChannel(request)}${attempts > 1 ? `, ${attempts} attempts` : ''}`,
    `sent ${bytes.sent} received ${bytes.received} bytes in ${duration(ms)}`,
    error === undefined ? '' : `(${error})`,
    rulesText(request.rules),
    changesText('dry run', request.dryRun),
    changesText('candidate', request.candidate),
  ]
    .filter((part) => part !== '')
    .join('  ')
}

const overChannel = ({ channel }: { readonly channel?: string }): string =>
  channel === undefined ? '' : ` over channel ${channel}`

const changesText = (who: string, changes: readonly Change[] = []): string =>
  changes
    .map(({ key, value, rule }) => `${who}: ${key}: ${value} by ${rule.name} (${rule.file}:${rule.line})`)
    .join(', ')

/** The name that the upstream was found under. */
const of = ({ name }: { readonly name?: string }): string => (name === undefined ? '' : ` of ${name}`)

const REASONS: Readonly<Record<string, string>> = {
  policy: 'as the policy says',
  unknown: 'its first bytes are nothing we know',
  limit: 'still undecided at the byte limit',
  timeout: 'still undecided when the time was up',
  closed: 'the client closed before it was decided',
  serverFirst: 'the server spoke first',
  alpn: 'the protocol agreed on is not HTTP',
  mesh: 'as the Sluice before us says',
}

const endings: Readonly<Record<string, string>> = {
  clientReset: 'reset by the client',
  upstreamReset: 'reset by the upstream',
  clientGone: 'the client went away',
  idleTimeout: 'idle for too long',
  halfClosedTimeout: 'half-closed for too long',
  drained: 'closed by the drain',
  policyChanged: 'closed because the policy now denies it',
  connectFailed: 'the upstream cannot be reached',
  connectTimeout: 'the upstream did not answer',
  protocolError: 'the peer broke the protocol',
  tlsFailed: 'the TLS handshake failed',
  internalError: 'a bug in sluice',
}

const spoken = ({ protocols, reason, sni, alpn, tls, upstreamTls, http, identity }: Outcome): string =>
  [
    protocols.join('+'),
    reason === undefined ? '' : `(${REASONS[reason] ?? reason})`,
    sni === undefined ? '' : `sni ${sni}`,
    alpn === undefined ? '' : `alpn ${alpn.join(',')}`,
    tls === undefined ? '' : `${tls.version}${tls.resumed ? ' resumed' : ''}`,
    identity === undefined ? '' : `as ${identity}`,
    upstreamTls === undefined
      ? ''
      : `upstream ${upstreamTls.version}${upstreamTls.identity === undefined ? '' : ` as ${upstreamTls.identity}`}`,
    http === undefined ? '' : `${http.method} ${http.target} HTTP/${http.version}`,
  ]
    .filter((part) => part !== '')
    .join(' ')

/** Only what a rule of the document decided: what the defaults did needs no mention. */
const rulesText = (rules: Outcome['rules']): string => {
  const named = Object.entries(rules).filter(([, rule]) => rule.line > 0)
  if (named.length === 0) return 'by the defaults'
  return named.map(([aspect, rule]) => `${aspect} by "${rule.name}" ${place(rule)}`).join(', ')
}

const place = ({ file, line }: RuleName): string => `${file}:${line}`

const duration = (ms: number): string => (ms < 1000 ? `${ms.toFixed(1)} ms` : `${(ms / 1000).toFixed(2)} s`)
