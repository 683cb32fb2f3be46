import type { Clock } from '../net/clock.ts'

/**
 * One point in time that keeps moving: setting it later costs nothing, because the timer that runs is only looked at
 * when it fires, and runs on if the time has moved.
 */
export class Deadline {
  readonly #clock: Clock
  readonly #passed: () => void
  #at = Number.POSITIVE_INFINITY
  #firesAt = Number.POSITIVE_INFINITY
  #cancel: (() => void) | undefined

  constructor(clock: Clock, passed: () => void) {
    this.#clock = clock
    this.#passed = passed
  }

  /** Passes `ms` from now, whatever was set before. */
  in(ms: number) {
    this.#at = this.#clock.now() + ms
    if (this.#at < this.#firesAt) this.#arm()
  }

  /** Never passes, until it is set again. */
  clear() {
    this.#at = Number.POSITIVE_INFINITY
  }

  /** Stops for good. */
  stop() {
    this.clear()
    this.#cancel?.()
    this.#cancel = undefined
    this.#firesAt = Number.POSITIVE_INFINITY
  }

  #arm() {
    this.#cancel?.()
    this.#firesAt = this.#at
    this.#cancel = this.#clock.after(Math.max(0, this.#at - this.#clock.now()), () => this.#fired())
  }

  #fired() {
    this.#firesAt = Number.POSITIVE_INFINITY
    this.#cancel = undefined
    if (this.#at === Number.POSITIVE_INFINITY) return
    if (this.#clock.now() < this.#at) return this.#arm()
    this.#at = Number.POSITIVE_INFINITY
    this.#passed()
  }
}
