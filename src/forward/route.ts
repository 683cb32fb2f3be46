import type { Duplex } from 'node:stream'
import type { Http1Limits } from '../codec/http1Head.ts'
import { type Address, formatAddress } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import { codedError } from '../net/codedError.ts'
import type { Dial } from '../net/connection.ts'
import type { Endpoint } from '../net/endpoint.ts'
import type { ProtocolError } from '../net/protocolError.ts'
import { decide, narrow } from '../policy/decide.ts'
import type { Policy } from '../policy/policy.ts'
import { settled } from '../policy/verdict.ts'
import type { RequestTrace } from '../telemetry/traces.ts'
import { announcing } from './announce.ts'
import type { Attempt } from './attempt.ts'
import { choosingOf, impliedName } from './chooseUpstream.ts'
import type { Choosing } from './choosing.ts'
import type { Answer, Asking, Fields, Open, RequestHead, Upstream, UpstreamEvents } from './exchange.ts'
import type { Origin } from './fields.ts'
import type { Upgrading } from './http1ClientOptions.ts'
import { Http1Upstream } from './http1Upstream.ts'
import { http2UpstreamOptions } from './http2Settings.ts'
import { Http2Upstream } from './http2Upstream.ts'
import { HttpExchange } from './httpExchange.ts'
import { type HttpSettings, settingsOf } from './httpSettings.ts'
import type { HttpState } from './httpState.ts'
import type { Plan } from './plan.ts'
import type { PoolTarget } from './pool.ts'
import { type Cause, reply } from './reply.ts'
import { identified, requestFactsOf } from './requestFacts.ts'
import { areWatched, trialsOf } from './trials.ts'
import { reachMs } from './upstreamTls.ts'

/** The requests of one client connection: what the policy says of each, and where it goes. */
export class Router {
  readonly http: HttpState
  readonly clock: Clock
  readonly random: () => number
  readonly origin: Origin
  readonly #plan: Plan
  readonly #dial: Dial
  readonly #plainDial: Dial
  /** Where requests of this connection went; made when the first one goes somewhere. */
  #targets: Map<string, PoolTarget> | undefined
  readonly #limits: Http1Limits
  #policy: Policy
  #policyOf: Policy
  #lastAddress: Address | undefined
  #lastSettings: HttpSettings | undefined
  #lastKind: string | undefined
  #lastTarget: PoolTarget | undefined
  /** It was we who agreed to h2c: that the upstream speaks HTTP/2 too is not known by that. */
  wasUpgraded = false
  /** Requests under way. */
  open = 0

  /** `plainDial`: how to dial where nothing but bytes go, which may give an early dial. */
  constructor(plan: Plan, dial: Dial, plainDial: Dial = dial) {
    const { peer } = plan.connection
    this.#plan = plan
    this.#dial = dial
    this.#plainDial = plainDial
    this.http = plan.http
    this.clock = plan.clock
    this.random = plan.random
    this.origin = { peer, identity: plan.facts.identity ?? undefined, hop: plan.http.hop }
    this.#limits = {
      headBytesMax: settled(plan.verdict['http.head.maxBytes']),
      fieldsMax: settled(plan.verdict['http.head.maxFields']),
    }
    this.#policy = plan.policy
    this.#policyOf = plan.policyNow()
  }

  /** Forgets what it would find again. Only between two requests. */
  rest() {
    this.#targets = undefined
    this.#lastAddress = undefined
    this.#lastSettings = undefined
    this.#lastTarget = undefined
  }

  /** Opens a request: the same for either version of HTTP that the client speaks. */
  readonly ask: Open = (came: RequestHead, last: boolean, answer: Answer): Asking => {
    const head = this.#plan.policyNow().sections.log.requestId === 'generate' ? identified(came) : came
    const exchange = new HttpExchange(this, head, last, answer, this.#settings(head))
    this.#watch(exchange, head)
    this.open++
    exchange.begin()
    return exchange
  }

  /**
   * What becomes of an Upgrade that asks for these. A request with a body is not upgraded, for its end would have to be
   * found before the other protocol begins: it goes on as HTTP/1.1, as RFC 9110 section 7.8 lets any server decide.
   */
  readonly chooseUpgrade = (asked: readonly string[], head: RequestHead): Upgrading => {
    const { upgrade } = this.#settings(head)
    const hasBody = head.length !== 0
    const allowed = asked.find((protocol) => upgrade.allow.includes(protocol.toLowerCase()))
    if (allowed !== undefined) return hasBody ? NO_UPGRADE : { is: 'other', protocol: allowed }
    const asksForHttp2 = asked.some((protocol) => protocol.toLowerCase() === 'h2c')
    if (asksForHttp2 && upgrade.h2c === 'upgrade') return hasBody ? NO_UPGRADE : { is: 'http2' }
    if (asksForHttp2 && upgrade.h2c === 'ignore') return NO_UPGRADE
    return { is: 'other', protocol: asked[0]! }
  }

  /** A request that could not even be opened, for the log. */
  refused(error: ProtocolError, status: number, version: RequestHead['version'] = '1.1') {
    this.#plan.life.requested({
      method: '',
      authority: '',
      target: '',
      version,
      status,
      attempts: 0,
      bytes: { sent: 0, received: 0 },
      ms: 0,
      rules: {},
      error: error.code,
    })
  }

  /** Answers an HTTP/2 request that cannot go anywhere. */
  readonly refuse = (head: RequestHead, cause: 'authority' | 'headTooLarge', answer: Answer): void => {
    const { isInformed } = this.#settings(head)
    const status = reply(head, answer, { cause, isInformed })
    const { method, authority, target, version } = head
    const nothing = { sent: 0, received: 0 }
    this.#plan.life.requested({
      ...{ method, authority, target, version, status },
      ...{ attempts: 0, bytes: nothing, ms: 0, rules: {}, error: cause },
    })
  }

  /** Tells the telemetry, if anybody listens. */
  finished(exchange: HttpExchange, cause: string | undefined) {
    this.open--
    const { life } = this.#plan
    if (!life.hearsRequests) return
    const trials = this.#trials?.get(exchange)
    const outcome = exchange.outcome(cause)
    life.requested(trials === undefined ? outcome : { ...outcome, ...trials })
  }

  /** Asks what is watched before it counts, if anything is, what it would make of a request. */
  #watch(exchange: HttpExchange, head: RequestHead) {
    const { life, facts } = this.#plan
    const trials = { policy: this.#currentPolicy(), candidate: this.#plan.candidate?.() }
    if (!areWatched(trials) || !life.hearsRequests) return
    this.#trials ??= new WeakMap()
    this.#trials.set(exchange, trialsOf(life, trials, { ...facts, request: requestFactsOf(head) }))
  }

  #trials: WeakMap<HttpExchange, ReturnType<typeof trialsOf>> | undefined

  /** Whether that is one of our own listeners. Asked once for each address: it costs more than the rest of a request. */
  isOwn(address: Address): boolean {
    if (address === this.#foreign) return false
    if (this.#plan.isOwn(address)) return true
    this.#foreign = address
    return false
  }

  #foreign: Address | undefined

  /** The status of a self-made answer on this connection, where it is not the usual one. */
  statusOf(cause: Cause): number | undefined {
    return this.#plan.statuses?.[cause]
  }

  /** Begins the spans of a request, where traces are configured. */
  trace({ method, authority, target }: RequestHead, fields: Fields): RequestTrace | undefined {
    const { direction, peer } = this.#plan.connection
    return this.http.traces?.begin({ method, authority, target, direction, peer, fields })
  }

  /** How large the head of a response may be. */
  get headBytesMax(): number {
    return this.#limits.headBytesMax
  }

  /** Where the client meant to go. */
  get destination(): Address {
    return this.#plan.connection.destination
  }

  /** The one address that a request can go to; undefined where there are several to choose from. */
  addressFor({ upstream, isUpstreamBuiltIn }: HttpSettings, head: RequestHead): Address | undefined {
    if (upstream.is === 'addresses' && upstream.addresses.length === 1) return upstream.addresses[0]
    if (upstream.is !== 'original') return undefined
    if (isUpstreamBuiltIn && this.#plan.discovery?.() !== undefined && impliedName(this.#plan, head)) return undefined
    return this.destination
  }

  /** The endpoints to choose from for a request, or why there are none. */
  choosing(head: RequestHead, { verdict, connectMs }: HttpSettings): Choosing | Cause {
    const name = impliedName(this.#plan, head)
    return choosingOf(this.#plan, { verdict, connectMs, fields: head.fields, name, scheme: head.scheme })
  }

  /** Finds a connection for an attempt. Returns how to stop waiting for it. */
  reach(address: Address, head: RequestHead, settings: HttpSettings, attempt: Attempt, fresh: boolean): () => void {
    this.#plan.life.upstream = address
    const target = this.#target(address, head, settings, attempt.use?.member.endpoint)
    // HTTP/1.0 without Host: whatever answers there answers this request and no other.
    if (head.authority === '') return this.http.pool.single(target, attempt)
    return this.http.pool.acquire(target, attempt, fresh)
  }

  /** The same for an app that cannot be dialled: over a channel that it opened. */
  reachApp(app: string, attempt: Attempt): () => void {
    const { channels } = this.#plan
    if (channels !== undefined) return channels.acquire(app, attempt)
    attempt.failed(codedError('NO_CHANNEL', 'callback channels are not enabled'))
    return () => {}
  }

  #settings(head: RequestHead): HttpSettings {
    const policy = this.#currentPolicy()
    if (policy.open.length === 0) return settingsOf(policy.base)
    return settingsOf(decide(policy, { ...this.#plan.facts, request: requestFactsOf(head) }))
  }

  /** The policy of now, without the rules that cannot match on this connection. */
  #currentPolicy(): Policy {
    const now = this.#plan.policyNow()
    if (now !== this.#policyOf) {
      this.#policyOf = now
      this.#policy = narrow(now, this.#plan.facts)
    }
    return this.#policy
  }

  #target(address: Address, head: RequestHead, settings: HttpSettings, endpoint: Endpoint | undefined): PoolTarget {
    const protocol = protocolOf(this.wasUpgraded ? '1.1' : head.version, settings, hintOf(head, endpoint))
    // By TLS, the name that is asked for is the request's: its host tells connections apart as well.
    const name = settings.tls === '' ? undefined : hostOf(head.authority)
    const isPlain = settings.tls === '' && settings.proxyProtocol === 'none'
    const kind = isPlain
      ? protocol
      : `${protocol} ${name} ${settings.tls} ${endpoint?.identity} ${this.#announced(settings.proxyProtocol)}`
    if (address === this.#lastAddress && settings === this.#lastSettings && kind === this.#lastKind) {
      return this.#lastTarget!
    }
    const key = `${address.host} ${address.port} ${kind}`
    this.#targets ??= new Map()
    let target = this.#targets.get(key)
    const connectMs = isPlain ? settings.connectMs : reachMs(settings.verdict, this.#policyOf.sections)
    if (target === undefined || target.limits !== settings.pool || target.connectMs !== connectMs) {
      target = {
        address,
        kind,
        isShared: protocol === 'http2',
        isOneOfMany: endpoint !== undefined,
        dial: isPlain ? this.#plainDial : this.#preparedDial(settings, protocol, name, endpoint?.identity),
        speak: (stream, events) => this.#speak(protocol, stream, settings.pool.idleMs, events),
        connectMs,
        limits: settings.pool,
      }
      if (this.#targets.size > 100) this.#targets.clear()
      this.#targets.set(key, target)
    }
    this.#lastAddress = address
    this.#lastSettings = settings
    this.#lastKind = kind
    this.#lastTarget = target
    return target
  }

  /** A PROXY header tells of one client: with it, connections are that client's alone. */
  #announced(version: HttpSettings['proxyProtocol']): string {
    if (version === 'none') return ''
    const { peer, destination } = this.#plan.connection
    return `${version} ${formatAddress(peer)} ${formatAddress(destination)}`
  }

  /** Tells who calls, then speaks TLS, as the policy says. */
  #preparedDial(
    settings: HttpSettings,
    protocol: 'http1' | 'http2',
    name: string | undefined,
    identity: string | undefined,
  ): Dial {
    const { connection, secure } = this.#plan
    const telling = announcing(this.#dial, settings.proxyProtocol, connection)
    return secure(telling, { verdict: settings.verdict, policy: this.#policyOf, name, protocol, identity })
  }

  #speak(protocol: 'http1' | 'http2', stream: Duplex, idleMs: number, events: UpstreamEvents): Upstream {
    return protocol === 'http1'
      ? new Http1Upstream(stream, this.#limits, events)
      : new Http2Upstream(stream, http2UpstreamOptions(this.#plan, idleMs), events)
  }
}

const NO_UPGRADE: Upgrading = { is: 'none' }

/** The host of an authority, without port and brackets; nothing for a request without one. */
const hostOf = (authority: string): string | undefined =>
  /^\[([^\]]+)\]/.exec(authority)?.[1] ?? (authority.replace(/:\d*$/, '') || undefined)

/** What is spoken to the upstream: what the policy says, what the endpoint is known to speak, or what the client speaks. */
const protocolOf = (
  version: RequestHead['version'],
  { protocol }: HttpSettings,
  hint: 'http1' | 'http2' | undefined,
): 'http1' | 'http2' => (protocol === 'auto' ? (hint ?? (version === '2' ? 'http2' : 'http1')) : protocol)

/** What an endpoint is known to speak. What changes the protocol goes on in that of the client: not all can translate it. */
const hintOf = (head: RequestHead, endpoint: Endpoint | undefined): 'http1' | 'http2' | undefined => {
  const hint = endpoint?.protocol
  return hint === 'opaque' || head.upgrade !== undefined || head.method === 'CONNECT' ? undefined : hint
}
