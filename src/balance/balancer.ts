import { formatAddress } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import type { Endpoint } from '../net/endpoint.ts'
import { type Candidates, candidatesOf, choose, type Wish } from './choose.ts'
import { type Circuit, isReady, type Member, newMember, READY, type RestReason } from './member.ts'
import { judgedBad, judgedGood, pauseMs } from './outlier.ts'
import type { BalanceSettings } from './settings.ts'
import { type Lender, Use } from './use.ts'

/**
 * Why there is no endpoint for somebody. `failfast`: none was ready for too long; `overloaded`: too many wait, or too
 * long; `absent`: there is no such name, and whoever knows that has said so.
 */
export type Unavailable = 'failfast' | 'overloaded' | 'absent'

/** Who asks for an endpoint: told once, at once or later. */
export interface Taker {
  taken(use: Use): void
  refused(why: Unavailable): void
}

/** What a balancer tells the world around it. Each change once. */
export interface Watcher {
  /** A circuit opened or closed. */
  circuit(member: Member, before: Circuit): void
  /** Nobody waits any more; or, again, somebody is ready. */
  failfast(isOn: boolean): void
  joined(member: Member): void
  left(member: Member): void
  /** Find out whether it can be reached again. Where nobody can, the next request finds out. */
  readonly probe?: ((member: Member, found: (isThere: boolean) => void) => void) | undefined
}

/** By how much of it chance shortens a pause, at most: as linkerd does. */
const EJECTION_JITTER = 0.5
const BACKOFF_JITTER = 0.1
/** While nothing else is ready there is nothing to lose by asking: a service that is back is not kept waiting a minute. */
const ALONE_MS_MAX = 1_000

interface Waiting {
  readonly wish: Wish
  readonly taker: Taker
  readonly cancel: () => void
}

/** The endpoints of one name, and the choice among them. */
export class Balancer implements Lender {
  readonly settings: BalanceSettings
  readonly now: () => number
  readonly decayMs: number
  readonly #clock: Clock
  readonly #random: () => number
  readonly #watcher: Watcher
  readonly #members = new Map<string, Member>()
  readonly #waiting: Waiting[] = []
  #candidates: Candidates | undefined
  /** Since when nobody is ready; undefined while somebody is. */
  #unreadySince: number | undefined
  #isFailfast = false
  #cancelWake: (() => void) | undefined
  #wakesAt = Number.POSITIVE_INFINITY
  #isClosed = false

  constructor(settings: BalanceSettings, clock: Clock, random: () => number, watcher: Watcher) {
    this.settings = settings
    this.now = clock.now
    this.decayMs = settings.decayMs
    this.#clock = clock
    this.#random = random
    this.#watcher = watcher
    this.#unreadySince = clock.now()
  }

  /** For the page and the metrics. */
  get members(): Iterable<Member> {
    return this.#members.values()
  }

  get queued(): number {
    return this.#waiting.length
  }

  get isFailfast(): boolean {
    return this.#isFailfast
  }

  /** Requests under way, on endpoints that still belong to it. */
  get inFlight(): number {
    let all = 0
    for (const { inFlight } of this.#members.values()) all += inFlight
    return all
  }

  /** The set is now this one. Who stays keeps what was learned of him; who leaves finishes what he has. */
  replace(endpoints: readonly Endpoint[]): void {
    const gone = new Set(this.#members.keys())
    for (const endpoint of endpoints) {
      const key = formatAddress(endpoint.address)
      gone.delete(key)
      const known = this.#members.get(key)
      if (known !== undefined) {
        known.endpoint = endpoint
        continue
      }
      const member = newMember(endpoint, this.settings.rttMs, this.now())
      this.#members.set(key, member)
      this.#watcher.joined(member)
    }
    for (const key of gone) {
      const member = this.#members.get(key)!
      member.isGone = true
      this.#members.delete(key)
      this.#watcher.left(member)
    }
    this.#changed()
  }

  /** Takes an endpoint: at once where one is ready, or as soon as one is. Returns how to wait no longer. */
  take(wish: Wish, taker: Taker): () => void {
    const member = this.#choose(wish)
    if (member !== undefined) {
      taker.taken(this.#lent(member))
      return nothing
    }
    const unready = this.#unreadySince
    const left = unready === undefined ? this.settings.failfastMs : unready + this.settings.failfastMs - this.now()
    if (left <= 0) {
      this.#failfast(true)
      taker.refused('failfast')
      return nothing
    }
    if (this.#waiting.length >= this.settings.queueMax) {
      taker.refused('overloaded')
      return nothing
    }
    const cancelTimer = this.#clock.after(left, () => this.#waitedTooLong(waiting))
    const waiting: Waiting = { wish, taker, cancel: cancelTimer }
    this.#waiting.push(waiting)
    return () => this.#forget(waiting)
  }

  // What became of those that were taken.

  judged(member: Member, isGood: boolean): void {
    const { outlier } = this.settings
    if (isGood) {
      judgedGood(member, this.now(), outlier)
      member.connectFailures = 0
      if (member.circuit.is === 'probing') this.#turn(member, READY)
      return
    }
    const why = judgedBad(member, this.now(), outlier)
    if (member.isGone || member.circuit.is === 'resting') return
    // Once more badly after a rest is enough.
    if (member.circuit.is === 'probing') this.#eject(member, member.circuit.because)
    else if (why !== undefined && this.#mayEject()) this.#eject(member, why)
  }

  unreachable(member: Member): void {
    member.failed += 1
    if (member.isGone || member.circuit.is === 'resting') return
    this.#rest(member, 'connect')
  }

  released(member: Member): void {
    member.inFlight -= 1
    const { circuit } = member
    // What is being probed is not for requests, whatever becomes of older ones.
    if (circuit.is === 'probing' && circuit.isTaken && !this.#isProbed(circuit.because)) {
      member.circuit = { ...circuit, isTaken: false }
      this.#candidates = undefined
    }
    if (this.#waiting.length > 0) this.#serveWaiting()
  }

  /** What an active check found; `failuresMax` in a row are too many. */
  checked(member: Member, isGood: boolean, failuresMax: number): void {
    if (member.isGone) return
    member.checksFailed = isGood ? 0 : member.checksFailed + 1
    const { circuit } = member
    if (isGood) {
      const isForThat = circuit.is !== 'ready' && (circuit.because === 'healthCheck' || circuit.because === 'connect')
      if (isForThat) this.#turn(member, READY)
      return
    }
    if (member.checksFailed < failuresMax) return
    if (circuit.is === 'resting' && circuit.because === 'healthCheck') return
    this.#turn(member, { is: 'resting', because: 'healthCheck', until: Number.POSITIVE_INFINITY })
  }

  /** Those who wait wait in vain. */
  dismiss(why: Unavailable): void {
    for (const { taker, cancel } of this.#waiting.splice(0)) {
      cancel()
      taker.refused(why)
    }
  }

  /** Nobody will ask any more. */
  close(): void {
    this.#isClosed = true
    this.#cancelWake?.()
    this.replace([])
    this.dismiss('failfast')
  }

  // Choosing.

  #choose(wish: Wish): Member | undefined {
    this.#candidates ??= candidatesOf(this.#members.values(), this.settings)
    return choose(this.#candidates, wish, this.settings, this.now(), this.#random)
  }

  #lent(member: Member): Use {
    member.inFlight += 1
    member.chosen += 1
    if (member.circuit.is !== 'ready') this.#try(member, member.circuit.because)
    return new Use(member, this)
  }

  /** One try decides, and until it has nobody else is sent there. Also before its time, where all others are worse. */
  #try(member: Member, because: RestReason): void {
    member.circuit = { is: 'probing', because, isTaken: true }
    this.#candidates = undefined
  }

  #serveWaiting(): void {
    while (this.#waiting.length > 0) {
      const member = this.#choose(this.#waiting[0]!.wish)
      if (member === undefined) return
      const { taker, cancel } = this.#waiting.shift()!
      cancel()
      taker.taken(this.#lent(member))
    }
  }

  #waitedTooLong(waiting: Waiting): void {
    if (!this.#forget(waiting)) return
    if (this.#unreadySince === undefined) return waiting.taker.refused('overloaded')
    this.#failfast(true)
    waiting.taker.refused('failfast')
  }

  #forget(waiting: Waiting): boolean {
    const at = this.#waiting.indexOf(waiting)
    if (at === -1) return false
    this.#waiting.splice(at, 1)
    waiting.cancel()
    return true
  }

  // Circuits.

  /** Never the last ones: of those that can be had, some stay, however badly they do. */
  #mayEject(): boolean {
    let ready = 0
    let ejected = 0
    for (const { circuit } of this.#members.values()) {
      if (circuit.is === 'ready') ready += 1
      else if (circuit.because !== 'connect' && circuit.because !== 'healthCheck') ejected += 1
    }
    const { ejectedPercentMax } = this.settings.outlier
    return ready > 1 && (ejected + 1) * 100 <= ejectedPercentMax * this.#members.size
  }

  #eject(member: Member, because: RestReason): void {
    if (because === 'connect' || because === 'healthCheck') return this.#rest(member, because)
    const { ejectionMs, ejectionMsMax } = this.settings.outlier
    const pause = pauseMs(member.ejections, ejectionMs, ejectionMsMax, EJECTION_JITTER, this.#random())
    member.ejections += 1
    member.failuresInRow = 0
    member.good = 0
    member.bad = 0
    this.#turn(member, { is: 'resting', because, until: this.now() + pause })
  }

  #rest(member: Member, because: RestReason): void {
    const { backoffMs, backoffMsMax } = this.settings
    const isAlone = ![...this.#members.values()].some((it) => it !== member && isReady(it))
    const longest = isAlone ? Math.min(ALONE_MS_MAX, backoffMsMax) : backoffMsMax
    const pause = pauseMs(member.connectFailures, backoffMs, longest, BACKOFF_JITTER, this.#random())
    member.connectFailures += 1
    this.#turn(member, { is: 'resting', because, until: this.now() + pause })
    if (isAlone) this.#shortenPauses()
  }

  /** The last one is gone: the others are looked after again soon. */
  #shortenPauses(): void {
    const latest = this.now() + ALONE_MS_MAX
    for (const member of this.#members.values()) {
      const { circuit } = member
      if (circuit.is !== 'resting' || circuit.because !== 'connect' || circuit.until <= latest) continue
      member.circuit = { ...circuit, until: latest }
      this.#wakeAt(latest)
    }
  }

  #turn(member: Member, circuit: Circuit): void {
    const before = member.circuit
    member.circuit = circuit
    if (circuit.is === 'resting') this.#wakeAt(circuit.until)
    const isNews = before.is === 'ready' ? circuit.is !== 'ready' : circuit.is === 'ready'
    if (isNews) this.#watcher.circuit(member, before)
    this.#changed()
  }

  #wakeAt(at: number): void {
    if (at >= this.#wakesAt || this.#isClosed) return
    this.#cancelWake?.()
    this.#wakesAt = at
    this.#cancelWake = this.#clock.after(Math.max(0, at - this.now()), () => this.#wake())
  }

  /** Rests that are over end in one try: of a connect by whoever probes, of anything else by the next request. */
  #wake(): void {
    this.#wakesAt = Number.POSITIVE_INFINITY
    const now = this.now()
    for (const member of this.#members.values()) {
      const { circuit } = member
      if (circuit.is !== 'resting') continue
      if (circuit.until > now) {
        if (circuit.until < Number.POSITIVE_INFINITY) this.#wakeAt(circuit.until)
        continue
      }
      const isProbed = this.#isProbed(circuit.because)
      member.circuit = { is: 'probing', because: circuit.because, isTaken: isProbed }
      if (isProbed) this.#watcher.probe!(member, (isThere) => this.#probed(member, isThere))
    }
    this.#changed()
  }

  #isProbed(because: RestReason): boolean {
    return because === 'connect' && this.#watcher.probe !== undefined
  }

  #probed(member: Member, isThere: boolean): void {
    if (member.isGone || this.#isClosed || member.circuit.is !== 'probing') return
    if (!isThere) return this.#rest(member, 'connect')
    member.connectFailures = 0
    this.#turn(member, READY)
  }

  #changed(): void {
    this.#candidates = undefined
    let isAnyReady = false
    for (const member of this.#members.values()) if (isReady(member)) isAnyReady = true
    if (isAnyReady) {
      this.#unreadySince = undefined
      this.#failfast(false)
    } else this.#unreadySince ??= this.now()
    if (this.#waiting.length > 0) this.#serveWaiting()
  }

  #failfast(isOn: boolean): void {
    if (this.#isFailfast === isOn) return
    this.#isFailfast = isOn
    this.#watcher.failfast(isOn)
  }
}

const nothing = () => {}
