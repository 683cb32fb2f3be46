import { type Address, formatAddress } from '../net/address.ts'
import { kept } from '../net/direct.ts'
import type { RequestOutcome } from '../telemetry/outcome.ts'
import type { RequestTrace } from '../telemetry/traces.ts'
import { Attempt } from './attempt.ts'
import type { ChannelName } from './channels.ts'
import { Choosing, causeOf } from './choosing.ts'
import type { Answer, Asking, Fields, GivenUp, RequestHead, ResponseHead, Upstream, Why } from './exchange.ts'
import * as change from './fields.ts'
import type { HttpSettings } from './httpSettings.ts'
import { type Idling, unwatched } from './httpState.ts'
import { answerAsLast, forwardedOnce, forwardsLeft } from './maxForwards.ts'
import { type Refusal, refusalOf, withoutIgnored } from './refusal.ts'
import { type Cause, isGrpc, reply } from './reply.ts'
import { noteKnown, noteLoggedFields, type Writable } from './requestFacts.ts'
import { backoffMs, IDEMPOTENT, isRepeatable, isWorthRepeating } from './retry.ts'
import type { Router } from './route.ts'

const PROTOCOL_ERROR = 1
const REFUSED_STREAM = 7
const CANCEL = 8
const NOTHING = Buffer.alloc(0)
const CLIENT_GONE: GivenUp = { cause: 'clientGone' }
/** As often as replicas that are restarted one after the other may leave a call. */
const CHANNEL_TRIES_MAX = 3
const CAUSE_OF: Partial<Record<Why, Cause>> = { malformed: 'upstreamMalformed', fault: 'internal' }
const APP_GONE: Fields = ['grpc-status', '14', 'grpc-message', 'the app left its channel before it had answered']

/**
 * One request on its way: asked of by a client-facing side, it chooses an upstream, sends the request there, sends it
 * again where that is right, or answers itself, and writes the one Outcome.
 */
export class HttpExchange implements Asking, Idling {
  readonly #router: Router
  readonly #asked: RequestHead
  readonly #answer: Answer
  readonly #settings: HttpSettings
  readonly #startedAt: number
  #head: RequestHead
  #attempt: Attempt | undefined
  #asking: Asking | undefined
  #attempts = 0
  #forget: (() => void) | undefined
  #trace: RequestTrace | undefined
  #cancelTimeout: (() => void) | undefined
  #cancelHeadTimeout: (() => void) | undefined
  /** What of the body may have to be sent, or sent again. */
  #held: Buffer[] = []
  #heldBytes = 0
  #isHolding: boolean
  #trailers: Fields | undefined
  #requestDone: boolean
  /** A response that may still be thrown away for another try. */
  #heldHead: ResponseHead | undefined
  #isAnswered = false
  #responseDone = false
  /** The last of the answer is being handed over, after which this ends by itself. */
  #isEnding = false
  #isTunnel = false
  /** Bytes of the request that the client was told have left; those sent again do not count twice. */
  #acknowledged = 0
  #isDone = false
  #status = 0
  #grpcStatus: string | undefined
  #sent = 0
  #received = 0
  /** What interim responses took so far. */
  #informedBytes = 0
  #address: Address | undefined
  #channel: ChannelName | undefined
  /** The endpoints to choose among, where there are several. */
  #choosing: Choosing | undefined
  #headMs: number | undefined
  moves = 0
  readonly watched = unwatched()

  constructor(router: Router, head: RequestHead, last: boolean, answer: Answer, settings: HttpSettings) {
    this.#router = router
    this.#asked = head
    this.#head = head
    this.#answer = answer
    this.#settings = settings
    this.#requestDone = last
    this.#isHolding = settings.retry !== undefined
    this.#startedAt = router.clock.now()
  }

  get idleMs(): number {
    return this.#settings.idleMs ?? Number.POSITIVE_INFINITY
  }

  /** Carries out what the policy says. */
  begin() {
    const { http, clock } = this.#router
    const settings = this.#settings
    this.#trace = this.#router.trace(this.#asked, this.#head.fields)
    if (this.#trace) this.#head = { ...this.#head, fields: this.#trace.fields }
    const refusal = refusalOf(this.#router, settings, this.#asked)
    if (refusal !== undefined) return this.#refuse(refusal.cause, refusal)
    this.#head = withoutIgnored(this.#head, settings)
    const forwards = forwardsLeft(this.#asked)
    if (forwards === 0) return this.#answerAsLast()
    if (forwards !== undefined) this.#head = forwardedOnce(this.#head, forwards)
    const hops = change.hopsOf(this.#head.fields, http.hop)
    if (hops === undefined) return this.#refuse('loop')
    this.#head = {
      ...this.#head,
      fields: change.requestFields(this.#head, settings.request, this.#router.origin, hops),
    }
    if (settings.timeoutMs !== undefined) {
      this.#cancelTimeout = clock.after(settings.timeoutMs, () => this.#timedOut('timeout'))
    }
    if (settings.idleMs !== undefined) http.idle.add(this)
    if (settings.retry !== undefined) http.budgets.requested(settings.retry.by, this.#asked.authority)
    this.#connect(false)
  }

  // What the client says.

  data(chunk: Buffer, last: boolean) {
    if (this.#isDone || this.#requestDone) return
    this.moves++
    this.#sent += chunk.length
    if (last) this.#requestDone = true
    if (this.#isHolding || this.#asking === undefined) this.#hold(chunk)
    this.#asking?.data(chunk, last)
    if (!last) return
    if (this.#responseDone) this.#finish(undefined)
    else this.#awaitHead()
  }

  trailers(fields: Fields) {
    if (this.#isDone || this.#requestDone) return
    this.#requestDone = true
    const trailers = change.requestTrailers(fields)
    if (trailers.length > 0) this.#trailers = trailers
    if (trailers.length > 0) this.#asking?.trailers(trailers)
    else this.#asking?.data(NOTHING, true)
    this.#awaitHead()
  }

  abort(code: number, { cause, status }: GivenUp = CLIENT_GONE) {
    if (this.#isDone || this.#isEnding) return
    this.#drop(code)
    if (!this.#isAnswered && status !== undefined) this.#status = status
    this.#finish(cause)
  }

  consumed(bytes: number) {
    if (!this.#isDone) this.#asking?.consumed(bytes)
  }

  idled() {
    this.#timedOut('idleTimeout')
  }

  // Choosing and reaching an upstream.

  #connect(fresh: boolean) {
    const attempt = new Attempt(this)
    this.#attempt = attempt
    this.#attempts++
    const { upstream } = this.#settings
    if (upstream.is === 'channel') return this.#reachApp(attempt, upstream.app)
    const address = this.#router.addressFor(this.#settings, this.#head)
    if (address === undefined) this.#choose(attempt, fresh)
    else this.#reach(attempt, address, fresh)
  }

  #reachApp(attempt: Attempt, app: string) {
    this.#forget = this.#router.reachApp(app, attempt)
    if (attempt.isOver || this.#asking !== undefined) this.#forget = undefined
  }

  #reach(attempt: Attempt, address: Address, fresh: boolean) {
    const own = this.#router.isOwn(address) ? formatAddress(address) : undefined
    if (own !== undefined) return this.#refuse('loop', { says: `${own} is our own listener` })
    this.#address = address
    this.#forget = this.#router.reach(address, this.#head, this.#settings, attempt, fresh)
    if (attempt.isOver) this.#forget = undefined
  }

  /** Takes one of several endpoints, as soon as one is ready. */
  #choose(attempt: Attempt, fresh: boolean) {
    const choosing = this.#choosing ?? this.#router.choosing(this.#head, this.#settings)
    if (!(choosing instanceof Choosing)) return this.#refuse(choosing)
    this.#choosing = choosing
    let isSettled = false
    const stop = choosing.choose({
      chosen: (use) => {
        isSettled = true
        const { address, authority = this.#asked.authority } = use.member.endpoint
        attempt.use = use
        if (authority !== this.#head.authority) this.#head = change.withAuthority(this.#head, authority)
        this.#reach(attempt, address, fresh)
      },
      unavailable: (why, failure) => {
        isSettled = true
        if (choosing.leavesOriginal(why)) return this.#reach(attempt, this.#router.destination, fresh)
        attempt.isOver = true
        this.#attempts--
        this.#refuse(causeOf(failure ?? why))
      },
    })
    if (!isSettled) this.#forget = stop
  }

  /** A connection is there: the request goes out, with what of its body has come. */
  ready(attempt: Attempt, upstream: Upstream) {
    this.#forget = undefined
    this.#channel = upstream.channel
    const held = this.#held
    const isWhole = this.#requestDone && held.length === 0 && this.#trailers === undefined
    const asking = upstream.open(this.#head, isWhole, attempt)
    if (attempt.isOver) return
    this.#asking = asking
    if (!isWhole) {
      for (let i = 0; i < held.length; i++) {
        asking.data(held[i]!, this.#requestDone && this.#trailers === undefined && i === held.length - 1)
      }
      if (held.length === 0 && this.#requestDone && this.#trailers === undefined) asking.data(NOTHING, true)
      if (this.#trailers !== undefined) asking.trailers(this.#trailers)
    }
    if (!this.#isHolding) this.#held = []
    if (this.#requestDone) this.#awaitHead()
  }

  failed(error: Error) {
    this.#attempt = undefined
    this.#forget = undefined
    const { code } = error as NodeJS.ErrnoException
    if (code === 'POOL_PENDING') return this.#refuse('overloaded')
    if (code === 'NO_CHANNEL') return this.#refuse('noChannel')
    // Nothing was sent, so that another endpoint may have it whatever it is.
    if (this.#choosing?.mayGoOn(error)) {
      this.#attempts--
      return this.#connect(false)
    }
    if (this.#mayRepeat('connect')) return this.#repeatLater()
    this.#refuse(causeOf(error))
  }

  // What the upstream says.

  informed(head: ResponseHead) {
    this.moves++
    this.#informedBytes += change.bytesOf(head.fields)
    // Nobody takes these at a pace of its own, so that all of them together are held to the limit of one head.
    if (this.#informedBytes > this.#router.headBytesMax) return this.#breakOff()
    this.#answer.information(head)
  }

  /** The upstream breaks the protocol, in a way that only we know of. */
  #breakOff() {
    const asking = this.#asking
    this.#attempt?.abort(PROTOCOL_ERROR, 'malformed')
    asking?.abort(PROTOCOL_ERROR)
  }

  answered(head: ResponseHead, last: boolean) {
    this.moves++
    this.#cancelHeadTimeout?.()
    this.#cancelHeadTimeout = undefined
    if (last) this.#let()
    if (this.#settings.retry !== undefined && this.#tryAnother(head, last)) return
    this.#pass(head, last)
  }

  took(chunk: Buffer, last: boolean) {
    this.moves++
    this.#received += chunk.length
    if (this.#heldHead !== undefined) this.#pass(this.#heldHead, false)
    if (!last) return this.#answer.data(chunk, false)
    this.#let()
    // A tunnel is over when both sides have said so.
    this.#isEnding = !this.#isTunnel || this.#requestDone
    this.#answer.data(chunk, true)
    this.#responseDone = true
    if (this.#isEnding) this.#finish(undefined)
  }

  ended(trailers: Fields) {
    this.#let()
    const grpcStatus = change.statusIn(trailers)
    if (this.#heldHead !== undefined) {
      if (grpcStatus === '14' && this.#mayRepeat('grpcUnavailable')) {
        this.#heldHead = undefined
        this.#drop(CANCEL)
        return this.#repeatLater()
      }
      this.#pass(this.#heldHead, false)
    }
    this.#grpcStatus = grpcStatus
    this.#isEnding = true
    this.#answer.trailers(change.responseTrailers(trailers))
    this.#finish(undefined)
  }

  broke(code: number, reason: Why | undefined) {
    // An app that ends resets its calls one by one, for no reason of their own, before its channel is gone.
    const isLeft = reason === undefined && (code === CANCEL || code === 0) && this.#channel !== undefined
    const why = isLeft ? 'closed' : reason
    this.#asking = undefined
    this.#attempt = undefined
    if (this.#isAnswered) {
      this.#isEnding = true
      // Its caller is told in words that the app has gone; a reset would look like a defect of the app.
      if (this.#channel !== undefined && why !== undefined && isGrpc(this.#asked)) this.#answer.trailers(APP_GONE)
      else this.#answer.abort(code)
      return this.#finish((why && CAUSE_OF[why]) ?? 'upstreamReset')
    }
    if (this.#mayRepeatUnheard(code, why)) return this.#connect(true)
    if (why !== 'malformed' && why !== 'fault' && this.#mayRepeat('reset')) return this.#repeatLater()
    // A stream that its server reset is reset for the client, where the client speaks of streams.
    if (why === undefined && this.#asked.version === '2') {
      this.#answer.abort(code)
      return this.#finish('upstreamReset')
    }
    this.#refuse(why === undefined ? 'upstreamReset' : (CAUSE_OF[why] ?? 'upstreamClosed'))
  }

  released(bytes: number) {
    const news = Math.min(bytes, this.#sent - this.#acknowledged)
    this.#acknowledged += news
    if (news > 0) this.#answer.consumed(news)
  }

  /** An upstream that is done with both messages may already serve another request: it is left alone. */
  #let() {
    if (this.#requestDone) this.#asking = undefined
  }

  #pass(head: ResponseHead, last: boolean) {
    this.#heldHead = undefined
    this.#isAnswered = true
    this.#isHolding = false
    this.#held = []
    this.#status = head.status
    this.#headMs = this.#router.clock.now() - this.#startedAt
    const changes = this.#settings.response
    const changed = changes === undefined ? head : { ...head, fields: change.responseFields(head.fields, changes) }
    if (last && this.#asked.version === '2') this.#grpcStatus = change.statusIn(head.fields)
    if (head.status === 101 || (this.#head.method === 'CONNECT' && head.status < 300)) {
      this.#isTunnel = true
      if (head.status === 101) this.#requestDone = false
    }
    this.#isEnding = last
    this.#answer.head(changed, last)
    if (last) this.#finish(undefined)
  }

  // Sending again.

  /** Whether this response is thrown away for another try. Where trailers may tell, the head waits for them. */
  #tryAnother(head: ResponseHead, last: boolean): boolean {
    const { on } = this.#settings.retry!
    if (isWorthRepeating(on, head)) {
      if (!this.#mayRepeat(head.status)) return false
      this.#drop(CANCEL)
      this.#repeatLater()
      return true
    }
    if (last || !on.has('grpcUnavailable') || !isGrpc(this.#asked)) return false
    this.#heldHead = head
    return true
  }

  /** By the policy: often enough, for this cause, with all of the body at hand, and within the budget. */
  #mayRepeat(cause: string | number): boolean {
    const retry = this.#settings.retry
    if (retry === undefined || this.#attempts > retry.attempts || !this.#isHolding) return false
    if (!isRepeatable(this.#asked, this.#head, retry.anyMethod)) return false
    if (typeof cause === 'string' && !retry.on.has(cause)) return false
    const { http } = this.#router
    if (http.budgets.spend(retry.by, this.#asked.authority, retry.percent, retry.minPerSecond)) return true
    http.hits.retryBudget++
    return false
  }

  /**
   * Without any policy, once: a request that was surely not handled, and one without a body that may be repeated and
   * went out on a connection that its server was closing (RFC 9112 section 9.3.1). An app with channels has another of
   * them, or opens it now: what may be repeated goes there.
   */
  #mayRepeatUnheard(code: number, why: Why | undefined): boolean {
    if (this.#attempts > (this.#channel === undefined ? 1 : CHANNEL_TRIES_MAX)) return false
    const isUntouched = this.#sent === 0 || (this.#isHolding && this.#heldBytes === this.#sent)
    if (!isUntouched) return false
    if (why === 'unhandled' || (why === undefined && code === REFUSED_STREAM)) return true
    const isLost = why === 'closedIdle' || (why === 'closed' && this.#channel !== undefined)
    return isLost && this.#sent === 0 && this.#requestDone && IDEMPOTENT.has(this.#head.method)
  }

  #repeatLater() {
    const ms = backoffMs(this.#attempts, this.#router.random())
    this.#forget = this.#router.clock.after(ms, () => this.#connect(false))
  }

  /** Keeps a piece of the body, for as long as it is short enough to be sent again. */
  #hold(chunk: Buffer) {
    if (chunk.length === 0) return
    this.#held.push(kept(chunk))
    this.#heldBytes += chunk.length
    const max = this.#settings.retry?.maxBytes ?? 0
    if (!this.#isHolding || this.#heldBytes <= max) return
    this.#isHolding = false
    if (this.#asking !== undefined) this.#held = []
  }

  // Ending.

  #awaitHead() {
    const ms = this.#settings.headTimeoutMs
    if (ms === undefined || this.#isAnswered || this.#asking === undefined || this.#cancelHeadTimeout) return
    this.#cancelHeadTimeout = this.#router.clock.after(ms, () => this.#timedOut('headTimeout'))
  }

  #timedOut(cause: Cause) {
    if (this.#isDone) return
    if (!this.#isAnswered) this.#attempt?.giveUp(true)
    this.#drop(CANCEL)
    if (this.#isAnswered) {
      this.#answer.abort(CANCEL)
      return this.#finish(cause)
    }
    this.#cancelHeadTimeout = undefined
    if (cause === 'headTimeout' && this.#mayRepeat(cause)) this.#repeatLater()
    else this.#refuse(cause)
  }

  /** Gives up on what is under way. */
  #drop(code: number) {
    const asking = this.#asking
    this.#attempt?.giveUp()
    this.#attempt = undefined
    this.#asking = undefined
    this.#forget?.()
    this.#forget = undefined
    asking?.abort(code)
  }

  /** Answers in our own name. */
  #refuse(cause: Cause, more?: Partial<Refusal>) {
    const { isInformed } = this.#settings
    const what = { status: this.#router.statusOf(cause), ...more, cause, isInformed }
    this.#isAnswered = true
    this.#isEnding = true
    this.#status = reply(this.#asked, this.#answer, what)
    this.#finish(cause)
  }

  #answerAsLast() {
    this.#isAnswered = true
    this.#isEnding = true
    this.#status = answerAsLast(this.#asked, this.#answer)
    this.#finish(undefined)
  }

  #finish(cause: string | undefined) {
    if (this.#isDone) return
    this.#isDone = true
    this.#cancelTimeout?.()
    this.#cancelHeadTimeout?.()
    if (this.#settings.idleMs !== undefined) this.#router.http.idle.remove(this)
    // An upstream that answered without waiting for the rest of the request will not get it.
    if (!this.#requestDone) this.#drop(0)
    this.#attempt?.giveUp()
    this.#trace?.end(this.outcome(cause))
    this.#router.finished(this, cause)
  }

  /** The one record of it, as it is now; `cause`: why it ended otherwise than well. */
  outcome(cause: string | undefined): RequestOutcome {
    const { method, authority, target, version } = this.#asked
    const outcome: Writable<RequestOutcome> = {
      method,
      authority,
      target,
      version,
      status: this.#status,
      attempts: this.#attempts,
      bytes: { sent: this.#sent, received: this.#received },
      ms: this.#router.clock.now() - this.#startedAt,
      rules: this.#settings.rules(),
    }
    noteKnown(outcome, 'headMs', this.#headMs)
    noteKnown(outcome, 'grpcStatus', this.#grpcStatus)
    noteKnown(outcome, 'upstream', this.#channel?.peer ?? this.#address)
    noteKnown(outcome, 'name', this.#choosing?.name)
    noteKnown(outcome, 'channel', this.#channel?.name)
    noteKnown(outcome, 'upgrade', this.#head.upgrade)
    noteKnown(outcome, 'error', cause)
    noteLoggedFields(outcome, this.#asked.fields)
    return outcome
  }
}
