import type { Answer, Asking, Fields, Open, RequestHead } from '../forward/exchange.ts'
import { fieldOf } from '../forward/fields.ts'
import type { Clock } from '../net/clock.ts'

/** What a gRPC call over a channel may cost. */
export interface GrpcLimits {
  readonly clock: Clock
  /** The largest message, either way. */
  readonly messageBytesMax: number
}

const CANCEL = 8
const DEADLINE_EXCEEDED = '4'
const RESOURCE_EXHAUSTED = '8'
const PREFIX_BYTES = 5
const TIMER_MS_MAX = 2_147_483_647

/** Whether a request is a gRPC call, by its content-type. */
export const isGrpcCall = ({ version, fields }: RequestHead): boolean => {
  if (version !== '2') return false
  for (let at = 0; at < fields.length; at += 2)
    if (fields[at] === 'content-type') return /^application\/grpc([+;]|$)/i.test(fields[at + 1]!)
  return false
}

/**
 * Opens a gRPC call whose messages are measured, and whose deadline is kept even where the app does not keep it. Both
 * end the call alone, with a status of gRPC: the channel lives on.
 */
export const openGrpcCall = (
  open: Open,
  head: RequestHead,
  last: boolean,
  answer: Answer,
  { clock, messageBytesMax }: GrpcLimits,
): Asking => {
  const sent = newMeter()
  const received = newMeter()
  let isAnswered = false
  let isOver = false
  let cancelDeadline = (): void => {}

  const over = (): void => {
    isOver = true
    cancelDeadline()
  }
  const end = (status: string, message: string): void => {
    if (isOver) return
    over()
    asking.abort(CANCEL)
    const trailers = ['grpc-status', status, 'grpc-message', message]
    if (isAnswered) answer.trailers(trailers)
    else answer.head({ status: 200, reason: '', fields: ['content-type', 'application/grpc', ...trailers] }, true)
  }
  const fits = (meter: Meter, chunk: Buffer, which: string): boolean => {
    const bytes = measure(meter, chunk)
    if (bytes <= messageBytesMax) return true
    end(RESOURCE_EXHAUSTED, `a ${which} of ${bytes} bytes, and at most ${messageBytesMax} are taken`)
    return false
  }

  const asking = open(head, last, {
    information: (information) => isOver || answer.information(information),
    head: (response, isLast) => {
      if (isOver) return
      isAnswered = true
      if (isLast) over()
      answer.head(response, isLast)
    },
    data: (chunk, isLast) => {
      if (isOver || !fits(received, chunk, 'response')) return
      if (isLast) over()
      answer.data(chunk, isLast)
    },
    trailers: (fields) => {
      if (isOver) return
      over()
      answer.trailers(fields)
    },
    abort: (code, why) => {
      if (isOver) return
      over()
      answer.abort(code, why)
    },
    consumed: (bytes) => isOver || answer.consumed(bytes),
  })

  const ms = timeoutMs(fieldOf(head.fields, 'grpc-timeout'))
  if (ms !== undefined)
    cancelDeadline = clock.after(ms, () => end(DEADLINE_EXCEEDED, 'the deadline of the call is over'))
  return {
    data: (chunk, isLast) => {
      if (!isOver && fits(sent, chunk, 'request')) asking.data(chunk, isLast)
    },
    trailers: (fields: Fields) => isOver || asking.trailers(fields),
    // Also after the answer: an app that did not wait for the rest of the request is told that none comes.
    abort: (code) => {
      over()
      asking.abort(code)
    },
    // Bytes that were on their way when the answer ended are still acknowledged: the window of the channel is shared.
    consumed: (bytes) => asking.consumed(bytes),
  }
}

/** Where in its messages one direction of a call is: what is left of this one, and the prefix of the next so far. */
interface Meter {
  left: number
  prefixBytes: number
  length: number
}

const newMeter = (): Meter => ({ left: 0, prefixBytes: 0, length: 0 })

/** Follows the messages through a chunk; the length of the longest that begins in it. */
const measure = (meter: Meter, chunk: Buffer): number => {
  let longest = 0
  let at = 0
  while (at < chunk.length) {
    if (meter.left > 0) {
      const skipped = Math.min(meter.left, chunk.length - at)
      meter.left -= skipped
      at += skipped
      continue
    }
    // One byte that says whether it is compressed, then four of length.
    if (meter.prefixBytes > 0) meter.length = meter.length * 256 + chunk[at]!
    at += 1
    meter.prefixBytes += 1
    if (meter.prefixBytes < PREFIX_BYTES) continue
    longest = Math.max(longest, meter.length)
    meter.left = meter.length
    meter.prefixBytes = 0
    meter.length = 0
  }
  return longest
}

const UNIT_MS: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1_000, m: 1, u: 0.001, n: 0.000_001 }

/** `grpc-timeout`: at most eight digits and a unit. Undefined where there is none, or none that can be read. */
export const timeoutMs = (text: string | undefined): number | undefined => {
  const found = /^(\d{1,8})([HMSmun])$/.exec(text ?? '')
  if (found === null) return undefined
  return Math.min(Number(found[1]) * UNIT_MS[found[2]!]!, TIMER_MS_MAX)
}
