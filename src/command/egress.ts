import { isIP, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import { type Address, formatAddress, unmapped } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import type { Dial } from '../net/connection.ts'
import { dialWithin } from '../net/dial.ts'
import type { Ending } from '../net/traffic.ts'
import type { Facts, RequestFacts } from '../policy/facts.ts'
import type { RuleRef } from '../policy/verdict.ts'
import type { Ledger } from '../telemetry/ledger.ts'
import type { Life } from '../telemetry/life.ts'
import { closedRange } from './closedRanges.ts'
import { CommandFailure, failure, failureOf } from './failure.ts'

/** What a command wants to reach. `request` is null for a connection that is not HTTP. */
export interface Ask {
  readonly scheme: 'http' | 'https' | 'tcp'
  /** A name or an address, without brackets. */
  readonly host: string
  readonly port: number
  readonly request: RequestFacts | null
}

/**
 * What the policy says of one destination. Opened: a rule allows it and speaks of commands (`source: command`), so it
 * may be in a closed range. Undecided: allowed where it is public.
 */
export type Judgement =
  | { readonly is: 'denied' | 'opened'; readonly rule: RuleRef }
  | { readonly is: 'undecided'; readonly rule?: RuleRef }

/** Asks the policy. */
export type Judge = (facts: Facts) => Judgement

/** What an egress is made of; the tests bring their own of each. */
export interface EgressParts {
  readonly judge: Judge
  readonly resolve: (host: string) => Promise<readonly string[]>
  readonly dial: Dial
  readonly clock: Clock
  readonly connectTimeoutMs: number
  /** Every connection that a command opens, or is denied, is recorded as any other. */
  readonly ledger: Pick<Ledger, 'begin' | 'end'>
  /** Certificates to trust beside the system's, in PEM. */
  readonly ca?: string | undefined
}

/** A connection that was allowed: the stream, the address it is pinned to, and the rule that allowed it. */
export interface Opened {
  readonly stream: Duplex
  readonly address: Address
  readonly rule: RuleRef | undefined
}

/** Opens connections for commands: resolves once, asks the policy about every address, connects to what was asked about. */
export type Egress = (ask: Ask, caller: Address, signal: AbortSignal) => Promise<Opened>

/** An egress that holds every connection to the policy. */
export const createEgress =
  (parts: EgressParts): Egress =>
  async (ask, caller, signal) => {
    const deadline = new AbortController()
    const stop = parts.clock.after(parts.connectTimeoutMs, () => deadline.abort())
    const either = AbortSignal.any([signal, deadline.signal])
    let allowed: Permit | undefined
    try {
      allowed = await permit(parts, ask, caller, either)
      const opened = await connect(parts, ask, allowed, either)
      recordOpened(parts, ask, caller, opened)
      return opened
    } catch (thrown) {
      const failed = signal.aborted
        ? failureOf(signal.reason, 'cancelled')
        : deadline.signal.aborted
          ? tooSlow(ask, parts.connectTimeoutMs)
          : failureOf(thrown)
      recordFailed(parts, ask, caller, failed, thrown instanceof Blocked ? thrown.rule : allowed?.rule)
      throw failed
    } finally {
      stop()
    }
  }

const beginLife = (
  { ledger }: EgressParts,
  ask: Ask,
  caller: Address,
  destination: Address,
  rule: RuleRef | undefined,
): Life => {
  const life = ledger.begin({ direction: 'outbound', listener: 'command', peer: caller, destination })
  life.protocols.push(...(ask.scheme === 'https' ? ['tls', 'http1'] : ask.scheme === 'http' ? ['http1'] : ['opaque']))
  if (isIP(ask.host) === 0) life.sni = ask.host
  if (ask.request !== null)
    life.http = { method: ask.request.method, target: `${ask.request.authority}${ask.request.path}`, version: '1.1' }
  if (rule !== undefined) life.rules = { deny: rule }
  return life
}

/** Lives as long as its stream; a policy that changes its mind closes it. */
const recordOpened = (parts: EgressParts, ask: Ask, caller: Address, { stream, address, rule }: Opened): void => {
  const life = beginLife(parts, ask, caller, address, rule)
  life.upstream = address
  life.allowed = () => verdictOn(parts, ask, address.host, caller).is === 'allowed'
  life.closer = () => void stream.destroy()
  stream.once('close', () => {
    const { bytesWritten: sent = 0, bytesRead: received = 0 } = stream as Partial<Socket>
    const error = stream.errored === null ? {} : { error: errorText(failureOf(stream.errored)) }
    parts.ledger.end(life, 'forwarded', {
      sent,
      received,
      ended: life.closing ?? ('error' in error ? 'upstreamReset' : 'closed'),
      ...error,
    })
  })
}

const recordFailed = (
  parts: EgressParts,
  ask: Ask,
  caller: Address,
  failed: CommandFailure,
  rule: RuleRef | undefined,
): void => {
  const life = beginLife(parts, ask, caller, { host: ask.host, port: ask.port }, rule)
  const ended = ENDINGS[failed.code] ?? 'connectFailed'
  parts.ledger.end(life, ended === 'denied' ? 'denied' : 'failed', {
    sent: 0,
    received: 0,
    ended,
    error: errorText(failed),
  })
}

const ENDINGS: Readonly<Record<string, Ending>> = {
  blocked_by_policy: 'denied',
  connect_timeout: 'connectTimeout',
  timeout: 'connectTimeout',
  tls_failed: 'tlsFailed',
  cancelled: 'clientGone',
  internal_error: 'internalError',
}

const errorText = ({ code, message }: CommandFailure): { code: string; message: string } => ({ code, message })

const tooSlow = (ask: Ask, ms: number): CommandFailure =>
  failure('connect_timeout', `no connection to ${place(ask)} within ${ms} ms`)

const place = ({ host, port }: Ask): string => formatAddress({ host, port })

interface Permit {
  readonly addresses: readonly string[]
  readonly rule: RuleRef | undefined
}

class Blocked extends CommandFailure {
  readonly rule: RuleRef | undefined

  constructor(message: string, rule: RuleRef | undefined) {
    super('blocked_by_policy', message)
    this.rule = rule
  }
}

/** One forbidden address forbids the name: a name with a public and a private answer is how rebinding begins. */
const permit = async (parts: EgressParts, ask: Ask, caller: Address, signal: AbortSignal): Promise<Permit> => {
  const addresses = await resolve(parts, ask, signal)
  let rule: RuleRef | undefined
  for (const host of addresses) {
    const verdict = verdictOn(parts, ask, host, caller)
    const where = host === ask.host ? place(ask) : `${place(ask)} (${host})`
    if (verdict.is === 'blocked') throw new Blocked(`${where}: ${verdict.because}`, verdict.rule)
    rule ??= verdict.rule
  }
  return { addresses, rule }
}

type AddressVerdict =
  | { readonly is: 'allowed'; readonly rule: RuleRef | undefined }
  | { readonly is: 'blocked'; readonly because: string; readonly rule: RuleRef | undefined }

const verdictOn = ({ judge }: EgressParts, ask: Ask, host: string, caller: Address): AddressVerdict => {
  const judgement = judge(factsOf(ask, host, caller))
  const { rule } = judgement
  if (judgement.is === 'denied') return { is: 'blocked', because: `denied by ${ruleText(judgement.rule)}`, rule }
  const closed = judgement.is === 'opened' ? undefined : closedRange(host)
  if (closed === undefined) return { is: 'allowed', rule }
  return {
    is: 'blocked',
    because: `${closed}: closed to commands unless a rule with 'source: command' allows it`,
    rule,
  }
}

/** A rule as a message names it. */
export const ruleText = ({ name, file, line }: RuleRef): string =>
  `rule '${name}'${line === 0 ? '' : ` (${file}:${line})`}`

const factsOf = (ask: Ask, host: string, caller: Address): Facts => ({
  direction: 'outbound',
  source: 'command',
  peer: caller,
  destination: { host, port: ask.port },
  protocol: ask.scheme === 'tcp' ? 'opaque' : 'http1',
  sni: isIP(ask.host) === 0 ? ask.host : null,
  alpn: null,
  extensions: null,
  identity: null,
  request: ask.request,
})

const resolve = async (parts: EgressParts, ask: Ask, signal: AbortSignal): Promise<readonly string[]> => {
  if (isIP(ask.host) !== 0) return [unmapped(ask.host)]
  const found = await abortable(parts.resolve(ask.host), signal)
  if (found.length === 0) throw failure('dns_failed', `${ask.host} has no address`)
  return [...new Set(found.map(unmapped))]
}

/** A lookup cannot be cancelled, only no longer waited for. */
const abortable = async <T>(promise: Promise<T>, signal: AbortSignal): Promise<T> => {
  signal.throwIfAborted()
  const aborted = Promise.withResolvers<never>()
  const abort = (): void => aborted.reject(signal.reason)
  signal.addEventListener('abort', abort)
  try {
    return await Promise.race([promise, aborted.promise])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

const connect = async (parts: EgressParts, ask: Ask, allowed: Permit, signal: AbortSignal): Promise<Opened> => {
  let last: unknown
  for (const [index, host] of allowed.addresses.entries()) {
    const address = { host, port: ask.port }
    // Each address gets its share of the time, so that a black hole leaves some for the next.
    const share = parts.connectTimeoutMs / (allowed.addresses.length - index)
    try {
      const stream = await dialWithin(parts.dial, address, share, parts.clock, signal)
      stream.on('error', () => {}) // A reset between two owners must not end the process; the next owner sees the close.
      const secured = ask.scheme === 'https' ? await secure(stream, ask.host, parts.ca, signal) : stream
      return { stream: secured, address, rule: allowed.rule }
    } catch (thrown) {
      if (signal.aborted) throw thrown
      last = thrown
    }
  }
  const { code, message, status } = failureOf(last)
  throw new CommandFailure(code, `${place(ask)}: ${message}`, status)
}

const secure = async (stream: Duplex, host: string, ca: string | undefined, signal: AbortSignal): Promise<Duplex> => {
  const { promise, resolve: secured, reject } = Promise.withResolvers<void>()
  const abort = (): void => reject(signal.reason)
  signal.addEventListener('abort', abort)
  const name = isIP(host) === 0 ? { servername: host } : {}
  const trust = ca === undefined ? {} : { ca: [...(await systemCertificates()), ca] }
  const tls = connectTls({ socket: stream, host, ALPNProtocols: ['http/1.1'], ...name, ...trust }, secured)
  tls.on('error', reject)
  tls.on('close', () => reject(new Error('the server closed the connection during the handshake')))
  try {
    await promise
    return tls
  } catch (thrown) {
    tls.destroy()
    stream.destroy()
    if (signal.aborted) throw thrown
    throw failure('tls_failed', thrown instanceof Error ? thrown.message : String(thrown))
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

const systemCertificates = async (): Promise<readonly string[]> => {
  const { rootCertificates } = await import('node:tls')
  return rootCertificates
}
