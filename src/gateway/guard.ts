import type { Answer, Asking, Fields, GivenUp, Open, RequestHead, ResponseHead, Why } from '../forward/exchange.ts'
import { type Cause, reply } from '../forward/reply.ts'
import type { Clock } from '../net/clock.ts'
import { kept } from '../net/direct.ts'
import type { Life } from '../telemetry/life.ts'
import { corsFields, preflightFields, sessionCookie, signedIn, signInAt } from './browser.ts'
import { credentialOf, withoutCredentials } from './credentials.ts'
import type { Found, GatewaySection, Target } from './exposure.ts'
import { covers } from './selector.ts'
import { endOf, NETWORK_PROXY, type TokenCheck, type Verifier } from './token.ts'

/** What a request to an exposed port is judged by. Asked for each request: what is withdrawn counts on open connections too. */
export interface Guard {
  readonly section: () => GatewaySection
  readonly found: () => Found
  readonly verifier: () => Verifier
  readonly clock: Clock
  readonly life: Life
  /** The name that the client asked for by TLS, in lower case. */
  readonly serverName: string | null
  /** Takes a place among the requests to the port, or does not; and gives it back. */
  readonly enter: (target: Target) => boolean
  readonly leave: (target: Target) => void
}

interface Refusal {
  readonly cause: Cause
  readonly status?: number
  readonly says?: string
  readonly fields?: Fields
}

/** Goes on: with these fields, and no longer than until then. */
interface Pass {
  readonly fields: Fields
  readonly until?: number
}

type Judgement = { readonly refusal: Refusal } | { readonly pass: Pass }

const CANCEL = 8
const TIMER_MS_MAX = 2_147_483_647
const HSTS = 'max-age=31536000; includeSubDomains' // a year, as browsers' preload lists ask for at least

/** Puts the guard in front of every request of a connection. */
export const guarding =
  (guard: Guard) =>
  (open: Open): Open =>
  (head, last, answer) =>
    new GuardedRequest(guard, open, head, last, answer).begin()

/** A request that is looked at before anything of it goes on; meanwhile its body waits, unacknowledged. */
class GuardedRequest implements Asking {
  readonly #guard: Guard
  readonly #open: Open
  readonly #head: RequestHead
  readonly #last: boolean
  readonly #answer: Answer
  readonly #started: number
  #asking: Asking | undefined
  #held: { chunk: Buffer; last: boolean }[] = []
  #trailers: Fields | undefined
  #entered: Target | undefined
  #added: Fields = []
  #cancelEnd: (() => void) | undefined
  #isAnswered = false
  #isOver = false

  constructor(guard: Guard, open: Open, head: RequestHead, last: boolean, answer: Answer) {
    this.#guard = guard
    this.#open = open
    this.#head = head
    this.#last = last
    this.#answer = answer
    this.#started = guard.clock.now()
  }

  begin(): this {
    const judged = this.#judge()
    if ('then' in judged) {
      // What is thrown there is a bug of ours; this request pays with a refusal, never with being let through.
      const failed = (): Judgement => ({ refusal: { cause: 'internal' } })
      void judged.catch(failed).then((judgement) => this.#settle(judgement))
    } else this.#settle(judged)
    return this
  }

  // What the client says.

  data(chunk: Buffer, last: boolean) {
    if (this.#asking !== undefined) this.#asking.data(chunk, last)
    else if (!this.#isOver) this.#held.push({ chunk: kept(chunk), last })
  }

  trailers(fields: Fields) {
    if (this.#asking !== undefined) this.#asking.trailers(fields)
    else this.#trailers = fields
  }

  abort(code: number, why?: GivenUp) {
    this.#asking?.abort(code, why)
    this.end()
  }

  consumed(bytes: number) {
    this.#asking?.consumed(bytes)
  }

  // Judging.

  #judge(): Judgement | Promise<Judgement> {
    const { section, found, serverName } = this.#guard
    const settings = section()
    const target = found()
    if (settings.hsts) this.#added = ['strict-transport-security', HSTS]
    if (target.is === 'nothing')
      return refusal({ cause: 'noRoute', says: `Failed to match the connection to a task:\n\t${target.why}` })
    // Browsers share a connection between the names of its certificate (RFC 9113 section 9.1.1), and each is another port.
    const host = this.#head.authority.replace(/:\d*$/, '').replace(/\.$/, '')
    if (host !== '' && host !== serverName) return refusal({ cause: 'misdirected' })
    if (!this.#guard.enter(target.target))
      return refusal({ cause: 'overloaded', says: 'too many requests to this port', fields: ['retry-after', '1'] })
    this.#entered = target.target
    if (target.target.port.isPublic) return { pass: { fields: this.#head.fields } }
    return this.#judgePrivate(settings, target.target)
  }

  #judgePrivate(section: GatewaySection, target: Target): Judgement | Promise<Judgement> {
    const head = this.#head
    const preflight = preflightFields(section, head)
    if (preflight !== undefined) {
      this.#added = [...this.#added, ...preflight]
      return refusal({ cause: 'redirected', status: 204 })
    }
    this.#added = [...this.#added, ...corsFields(section, head)]
    const back = signedIn(head)
    if (back.is === 'wrong') return refusal({ cause: 'signIn', says: back.why, fields: NOT_STORED })
    if (back.is === 'signedIn') return this.#check(back.token, (check) => this.#signIn(check, target, back))
    const credential = credentialOf(head)
    if (credential.is !== 'token') return this.#unauthorized(section, target, credential.why, credential.is === 'odd')
    return this.#check(credential.token, (check) => {
      if (check.is === 'good') return admitted(check, target) ?? this.#pass(check)
      return this.#unauthorized(section, target, check, true)
    })
  }

  #check(token: string, judge: (check: TokenCheck) => Judgement): Judgement | Promise<Judgement> {
    const { verifier, clock } = this.#guard
    const now = clock.time()
    const known = verifier().remembered(token, now)
    return known === undefined ? verifier().verify(token, now).then(judge) : judge(known)
  }

  #pass({ claims }: TokenCheck & { is: 'good' }): Judgement {
    return { pass: { fields: withoutCredentials(this.#head.fields), until: endOf(claims) } }
  }

  #signIn(check: TokenCheck, target: Target, { token, to }: { token: string; to: string }): Judgement {
    if (check.is === 'unavailable') return refusal({ cause: 'overloaded', says: check.why, fields: NOT_STORED })
    if (check.is === 'bad') return refusal({ cause: 'unauthorized', says: check.why, fields: NOT_STORED })
    const denied = admitted(check, target)
    if (denied !== undefined) return denied
    const cookie = sessionCookie(token, check.claims.exp * 1000, this.#guard.clock.time())
    const fields = ['location', to, 'set-cookie', cookie, ...NOT_STORED]
    return refusal({ cause: 'redirected', status: 307, says: 'signed in', fields })
  }

  #unauthorized(section: GatewaySection, target: Target, reason: string | TokenCheck, isError: boolean): Judgement {
    if (typeof reason === 'object' && reason.is === 'unavailable')
      return refusal({ cause: 'overloaded', says: reason.why, fields: ['retry-after', '5'] })
    const why = typeof reason === 'string' ? reason : reason.is === 'good' ? '' : reason.why
    const page = signInAt(section, target, this.#head, why)
    if (page !== undefined)
      return refusal({ cause: 'redirected', status: 307, says: why, fields: ['location', page, ...NOT_STORED] })
    const challenge = isError
      ? `Bearer error="invalid_token", error_description="${why.replaceAll('"', "'")}"`
      : 'Bearer'
    return refusal({ cause: 'unauthorized', says: why, fields: ['www-authenticate', challenge] })
  }

  #settle(judgement: Judgement) {
    if (this.#isOver) return
    if ('refusal' in judgement) return this.#refuse(judgement.refusal)
    const { fields, until } = judgement.pass
    if (until !== undefined) {
      const { clock } = this.#guard
      const ms = Math.min(Math.max(0, until - clock.time()), TIMER_MS_MAX)
      this.#cancelEnd = clock.after(ms, () => this.#expire())
    }
    const held = this.#held
    this.#held = []
    const asking = this.#open({ ...this.#head, fields }, this.#last, new GuardedAnswer(this, this.#answer))
    this.#asking = asking
    for (const { chunk, last } of held) asking.data(chunk, last)
    if (this.#trailers !== undefined) asking.trailers(this.#trailers)
  }

  #expire() {
    if (this.#isOver) return
    this.#asking?.abort(CANCEL, { cause: 'tokenExpired', status: 401 })
    if (this.#isAnswered) this.#answer.abort(CANCEL)
    else this.#refuse({ cause: 'tokenExpired' }, false)
    this.end()
  }

  #refuse({ cause, status, says, fields }: Refusal, isTold = true) {
    const { method, authority, target, version } = this.#head
    const { life, clock } = this.#guard
    const what = { cause, status, says, fields: [...this.#added, ...(fields ?? [])], isInformed: true }
    const told = status === 204 ? this.#nothing(what.fields) : reply(this.#head, this.#answer, what)
    this.end()
    if (!isTold || !life.hearsRequests) return
    life.requested({
      ...{ method, authority, target, version, status: told, attempts: 0, bytes: { sent: 0, received: 0 } },
      ...{ ms: clock.now() - this.#started, rules: {}, ...(status === 204 ? {} : { error: cause }) },
    })
  }

  #nothing(fields: Fields): number {
    this.#answer.head({ status: 204, reason: '', fields }, true)
    return 204
  }

  /** The head of the connector's answer, with what we add. */
  answered(head: ResponseHead): ResponseHead {
    this.#isAnswered = true
    return { ...head, fields: added(head.fields, this.#added) }
  }

  /** The answer is complete, or the request is given up. */
  end() {
    if (this.#isOver) return
    this.#isOver = true
    this.#held = []
    this.#cancelEnd?.()
    if (this.#entered !== undefined) this.#guard.leave(this.#entered)
  }
}

/** The way back of a request that was let through. */
class GuardedAnswer implements Answer {
  readonly #request: GuardedRequest
  readonly #answer: Answer

  constructor(request: GuardedRequest, answer: Answer) {
    this.#request = request
    this.#answer = answer
  }

  information(head: ResponseHead) {
    this.#answer.information(head)
  }

  head(head: ResponseHead, last: boolean) {
    this.#answer.head(this.#request.answered(head), last)
    if (last) this.#request.end()
  }

  data(chunk: Buffer, last: boolean) {
    this.#answer.data(chunk, last)
    if (last) this.#request.end()
  }

  trailers(fields: Fields) {
    this.#answer.trailers(fields)
    this.#request.end()
  }

  abort(code: number, why?: Why) {
    this.#answer.abort(code, why)
    this.#request.end()
  }

  consumed(bytes: number) {
    this.#answer.consumed(bytes)
  }
}

const NOT_STORED: Fields = ['cache-control', 'no-store', 'referrer-policy', 'no-referrer']

const refusal = (it: Refusal): Judgement => ({ refusal: it })

/** Why a good token does not open this port, if it does not. */
const admitted = ({ claims }: TokenCheck & { is: 'good' }, target: Target): Judgement | undefined => {
  if ((claims.cap & NETWORK_PROXY) === 0) return forbidden('the token lacks the capability to call exposed ports')
  if (covers(claims, { name: target.task, id: target.settings.id })) return undefined
  return forbidden('the token is valid, but for another task')
}

const forbidden = (says: string): Judgement =>
  refusal({ cause: 'denied', says, fields: ['www-authenticate', 'Bearer error="insufficient_scope"'] })

/** The fields of an answer with ours; what the connector says itself counts. */
const added = (fields: Fields, ours: Fields): Fields => {
  const copy = [...fields]
  for (let i = 0; i < ours.length; i += 2) {
    const isThere = fields.some((name, n) => n % 2 === 0 && name.toLowerCase() === ours[i])
    if (!isThere || ours[i] === 'vary') copy.push(ours[i]!, ours[i + 1]!)
  }
  return copy
}
