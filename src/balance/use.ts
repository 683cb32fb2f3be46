import { estimated, measured } from './latency.ts'
import type { Member } from './member.ts'

/** What a failure counts as in latency, at least: an endpoint that fails fast must not look like a fast one. */
const FAILURE_MS = 1_000

/** Whose an endpoint is: told what became of a use of it. */
export interface Lender {
  readonly now: () => number
  readonly decayMs: number
  judged(member: Member, isGood: boolean): void
  unreachable(member: Member): void
  released(member: Member): void
}

/** An endpoint, taken for one request or connection until it is given back. Each of these counts once. */
export class Use {
  readonly member: Member
  readonly #lender: Lender
  readonly #since: number
  #isMeasured = false
  #isJudged = false
  #isOver = false

  constructor(member: Member, lender: Lender) {
    this.member = member
    this.#lender = lender
    this.#since = lender.now()
  }

  /** The first of an answer: so long it took. */
  answered(): void {
    if (this.#isMeasured || this.#isOver) return
    this.#isMeasured = true
    this.#measure(0)
  }

  /** Whether it was a good answer. */
  judged(isGood: boolean): void {
    if (this.#isJudged || this.#isOver) return
    this.#isJudged = true
    if (!isGood) {
      this.#isMeasured = true
      this.#measure(FAILURE_MS)
    }
    this.#lender.judged(this.member, isGood)
  }

  /** It could not even be connected to. */
  unreachable(): void {
    if (this.#isOver) return
    this.#isJudged = true
    this.#isMeasured = true
    this.#lender.unreachable(this.member)
    this.released()
  }

  /** Whatever came of it, it is over. What was given up on before an answer has waited for at least so long. */
  released(): void {
    if (this.#isOver) return
    this.#isOver = true
    const { now, decayMs } = this.#lender
    const waited = now() - this.#since
    const { latency } = this.member
    if (!this.#isMeasured && waited > estimated(latency, now(), decayMs)) measured(latency, waited, now(), decayMs)
    this.#lender.released(this.member)
  }

  #measure(leastMs: number): void {
    const { now, decayMs } = this.#lender
    measured(this.member.latency, Math.max(now() - this.#since, leastMs), now(), decayMs)
  }
}
