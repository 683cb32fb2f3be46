import { borrowSegment, returnSegment } from './segments.ts'

/** Whole frames of DATA: what stands in a segment is taken out again in such pieces. */
const USED_BYTES = 4 * 16_384
/** A few bytes that wait alone get no segment. */
const FEW_BYTES = 2_048

/** Bytes that wait for their turn, first in, first out, in memory of their own. */
export class ByteQueue {
  readonly #segments: Buffer[] = []
  /** Where the first segment begins, and the last one ends. */
  #from = 0
  #to = 0
  /** All that waits. */
  bytes = 0

  /** Takes a copy. */
  push(chunk: Buffer): void {
    for (let at = 0; at < chunk.length; ) {
      let last = this.#segments.at(-1)
      if (last === undefined || this.#to === last.length) {
        const areFew = last === undefined && chunk.length <= FEW_BYTES
        last = areFew ? Buffer.allocUnsafeSlow(chunk.length) : borrowSegment().subarray(0, USED_BYTES)
        this.#segments.push(last)
        this.#to = 0
      }
      const count = Math.min(chunk.length - at, last.length - this.#to)
      last.set(chunk.subarray(at, at + count), this.#to)
      this.#to += count
      at += count
    }
    this.bytes += chunk.length
  }

  /** The first of them, at most so many, where they stand: valid until the next call. Empty when nothing waits. */
  peek(bytesMax: number): Buffer {
    const first = this.#segments[0]
    if (first === undefined) return NOTHING
    const end = this.#segments.length === 1 ? this.#to : first.length
    return first.subarray(this.#from, Math.min(end, this.#from + bytesMax))
  }

  /** The first `bytes`, no more than `peek` showed, have left. */
  drop(bytes: number): void {
    const first = this.#segments[0]
    if (first === undefined) return
    this.bytes -= bytes
    this.#from += bytes
    if (this.#from < (this.#segments.length === 1 ? this.#to : first.length)) return
    this.#segments.shift()
    this.#from = 0
    returnSegment(first)
  }

  /** Nobody wants them any longer. */
  clear(): void {
    for (const segment of this.#segments.splice(0)) returnSegment(segment)
    this.#from = 0
    this.bytes = 0
  }
}

const NOTHING = Buffer.alloc(0)
