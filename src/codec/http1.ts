import { ProtocolError } from '../net/protocolError.ts'
import { isTargetCharacter } from './authority.ts'
import { ChunkedReader } from './http1Body.ts'
import { fail } from './http1Error.ts'
import {
  type Fields,
  type Http1Limits,
  isChunked,
  latin1,
  type Meaning,
  noMeaning,
  readFields,
  TOKEN,
} from './http1Head.ts'

/** How the body of a message is delimited (RFC 9112 section 6.3). `close`: by the end of the connection. */
export type Framing = 'none' | 'length' | 'chunked' | 'close' | 'tunnel'

/** The head of a request as it came: nothing removed, nothing routed yet. */
export interface RequestRead extends Meaning {
  readonly is: 'request'
  readonly method: string
  readonly target: string
  /** The 0 or 1 of HTTP/1.0 and HTTP/1.1. */
  readonly minor: number
  readonly framing: Framing
}

/** The head of a response as it came. A 1xx other than 101 has no end: another head follows. */
export interface ResponseRead extends Meaning {
  readonly is: 'response'
  readonly status: number
  readonly reason: string
  readonly minor: number
  readonly framing: Framing
}

/**
 * What a reader finds: a head, pieces of its body, its end; or what the peer did wrong, after which nothing follows.
 * Failing is an event so that what came before it in the same bytes is not lost. Bytes of a tunnel have no end.
 */
export type Http1Event<Head> =
  | Head
  | { readonly is: 'data'; readonly bytes: Buffer }
  | { readonly is: 'end'; readonly trailers: Fields }
  | { readonly is: 'failed'; readonly error: ProtocolError }

type State = 'start' | 'fields' | 'length' | 'chunked' | 'close' | 'ended' | 'failed'

const CR = 13
const LF = 10
const SP = 32
const NOTHING = Buffer.alloc(0)
const NO_TRAILERS: Fields = []
const END = { is: 'end', trailers: NO_TRAILERS } as const

/** What a target may hold, octet by octet. */
const TARGET = Uint8Array.from({ length: 256 }, (_, code) => (isTargetCharacter(code) ? 1 : 0))

/** What requests and responses differ in: their first line, and what follows from it. */
interface Grammar<Head> {
  readonly skipsEmptyLines: boolean
  /** Reads the start line, which is known to end with a line feed; answers where the next line begins. */
  startLine(bytes: Buffer, at: number): number
  /** Makes the head from the start line and the fields. */
  finish(meaning: Meaning): Head
  /** Whether another head follows this one before the message (1xx). */
  isInterim(head: Head): boolean
}

/**
 * Bytes in, events out, one message at a time. After the event `end` the reader stands still and keeps what follows,
 * until `next` is called: so a pipelined request waits, and `rest` is what a tunnel begins with.
 */
export class Http1Reader<Head extends Meaning & { readonly framing: Framing }> {
  readonly #limits: Http1Limits
  readonly #grammar: Grammar<Head>
  #bytes: Buffer = NOTHING
  #at = 0
  #state: State = 'start'
  #skipped = 0
  #headBytes = 0
  #left = 0
  #chunks: ChunkedReader | undefined
  #head: Meaning = noMeaning()
  /** A buffer that grows, for heads that come in small pieces. */
  #own: Buffer | undefined

  constructor(limits: Http1Limits, grammar: Grammar<Head>) {
    this.#limits = limits
    this.#grammar = grammar
  }

  /**
   * Reads `bytes`, and what was kept of those before. The bytes are the caller's again once the events are dealt with:
   * data is a view of them, and what is left for later is copied.
   */
  push(bytes: Buffer): Http1Event<Head>[] {
    const events: Http1Event<Head>[] = []
    if (this.#state === 'failed') return events
    this.#append(bytes)
    try {
      this.#read(events)
    } catch (error) {
      events.push(this.#failed(error))
    }
    if (this.unread > 0) this.#keep(NOTHING)
    else this.rest()
    return events
  }

  #failed(error: unknown): Http1Event<Head> {
    if (!(error instanceof ProtocolError)) throw error
    this.#state = 'failed'
    this.rest()
    return { is: 'failed', error }
  }

  /** The other side has finished. A body delimited by the end of the connection ends well; anything else is cut short. */
  end(): Http1Event<Head>[] {
    if (this.#state === 'close') {
      this.#state = 'ended'
      return [END]
    }
    if (!this.isWithin) return []
    return [this.#failed(new ProtocolError('HTTP1_CUT_SHORT', 'the connection ended within a message'))]
  }

  /** Goes on to the next message, once this one has ended. */
  next(): Http1Event<Head>[] {
    if (this.#state !== 'ended') return []
    this.#state = 'start'
    this.#headBytes = 0
    this.#skipped = 0
    return this.unread === 0 ? [] : this.push(NOTHING)
  }

  /** From here on every byte is data, until the connection ends. Answers those already here. */
  tunnel(): Buffer {
    this.#state = 'close'
    return this.rest()
  }

  /** Takes the bytes that were not read. */
  rest(): Buffer {
    const rest = this.unread === 0 ? NOTHING : this.#bytes.subarray(this.#at)
    this.#bytes = NOTHING
    this.#at = 0
    return rest
  }

  /** Bytes that came and were not read yet. */
  get unread(): number {
    return this.#bytes.length - this.#at
  }

  /** A message has ended, and `next` was not called yet. */
  get isBetween(): boolean {
    return this.#state === 'ended'
  }

  /** A message has begun and has not ended. */
  get isWithin(): boolean {
    return this.#state === 'start' ? this.unread > 0 : this.#state !== 'ended' && this.#state !== 'failed'
  }

  #append(bytes: Buffer): void {
    if (this.#at === this.#bytes.length) {
      this.#bytes = bytes
      this.#at = 0
      return
    }
    if (bytes.length > 0) this.#keep(bytes)
  }

  /** Has what is unread, and `more` behind it, in a buffer of its own. */
  #keep(more: Buffer): void {
    const unread = this.unread
    const end = this.#bytes.byteOffset + this.#bytes.length
    const own = this.#own
    if (own !== undefined && this.#bytes.buffer === own.buffer && end + more.length <= own.byteOffset + own.length) {
      const start = this.#bytes.byteOffset + this.#at - own.byteOffset
      own.set(more, start + unread)
      this.#bytes = own.subarray(start, start + unread + more.length)
    } else {
      const next = Buffer.allocUnsafeSlow(Math.max(1024, 2 * (unread + more.length)))
      next.set(this.#bytes.subarray(this.#at))
      next.set(more, unread)
      this.#own = next
      this.#bytes = next.subarray(0, unread + more.length)
    }
    this.#at = 0
  }

  #read(events: Http1Event<Head>[]): void {
    while (this.#at < this.#bytes.length) {
      const before = this.#at
      switch (this.#state) {
        case 'start':
        case 'fields':
          this.#readHead(events)
          break
        case 'length':
          this.#readLength(events)
          break
        case 'chunked':
          this.#readChunks(events)
          break
        case 'close':
          events.push({ is: 'data', bytes: this.rest() })
          return
        default:
          return
      }
      if (this.#at === before) return
    }
  }

  #readHead(events: Http1Event<Head>[]): void {
    const bytes = this.#bytes
    if (this.#state === 'start' && this.#grammar.skipsEmptyLines) this.#skipEmptyLines()
    const from = this.#at
    const room = this.#limits.headBytesMax - this.#headBytes
    const last = Math.min(bytes.length, from + room) - 1
    const to = bytes[last] === LF ? last + 1 : bytes.lastIndexOf(LF, last) + 1
    let at = from
    if (this.#state === 'start' && to > at) {
      this.#head = noMeaning()
      at = this.#grammar.startLine(bytes, at)
      this.#state = 'fields'
    }
    if (this.#state === 'fields' && to > at) at = readFields(bytes, at, to, this.#head, this.#limits.fieldsMax)
    this.#headBytes += at - from
    this.#at = at
    if (this.#head.whole && this.#state === 'fields') this.#headRead(events)
    else if (bytes.length - from >= room) this.#refuseLongHead()
  }

  #refuseLongHead(): never {
    return this.#state === 'start'
      ? fail('HTTP1_TARGET_BYTES', `the first line is longer than ${this.#limits.headBytesMax} bytes`)
      : fail('HTTP1_HEAD_BYTES', `the head is longer than ${this.#limits.headBytesMax} bytes`)
  }

  /** A server ignores empty lines before a request (RFC 9112 section 2.2); a few, not a stream of them. */
  #skipEmptyLines(): void {
    const bytes = this.#bytes
    while (bytes[this.#at] === CR && bytes[this.#at + 1] === LF) {
      this.#at += 2
      if (++this.#skipped > 8) fail('HTTP1_REQUEST_LINE', 'too many empty lines')
    }
  }

  #headRead(events: Http1Event<Head>[]): void {
    const head = this.#grammar.finish(this.#head)
    events.push(head)
    this.#headBytes = 0
    if (this.#grammar.isInterim(head)) {
      this.#state = 'start'
      return
    }
    switch (head.framing) {
      case 'none':
        this.#ended(events, NO_TRAILERS)
        return
      case 'length':
        this.#left = head.length
        this.#state = 'length'
        return
      case 'chunked':
        this.#chunks = new ChunkedReader(this.#limits)
        this.#state = 'chunked'
        return
      default:
        this.#state = 'close'
    }
  }

  #readLength(events: Http1Event<Head>[]): void {
    const bytes = this.#bytes
    const from = this.#at
    const whole = from === 0 && bytes.length <= this.#left
    const data = whole ? bytes : bytes.subarray(from, from + this.#left)
    this.#at = from + data.length
    this.#left -= data.length
    events.push({ is: 'data', bytes: data })
    if (this.#left === 0) this.#ended(events, NO_TRAILERS)
  }

  #readChunks(events: Http1Event<Head>[]): void {
    const chunks = this.#chunks!
    this.#at = chunks.read(this.#bytes, this.#at, (bytes) => events.push({ is: 'data', bytes }))
    if (chunks.done) this.#ended(events, chunks.trailers)
  }

  #ended(events: Http1Event<Head>[], trailers: Fields): void {
    this.#state = 'ended'
    events.push(trailers.length === 0 ? END : { is: 'end', trailers })
  }
}

/** Reads requests (RFC 9112 section 3). */
export const requestReader = (limits: Http1Limits): Http1Reader<RequestRead> =>
  new Http1Reader(limits, new RequestGrammar())

class RequestGrammar implements Grammar<RequestRead> {
  readonly skipsEmptyLines = true
  #method = ''
  #target = ''
  #minor = 1

  startLine(bytes: Buffer, from: number): number {
    let at = from
    while (TOKEN[bytes[at]!] === 1) at++
    if (at === from || bytes[at] !== SP) return fail('HTTP1_REQUEST_LINE', 'no method, or no space after it')
    const targetAt = at + 1
    at = targetAt
    while (TARGET[bytes[at]!] === 1) at++
    if (at === targetAt || bytes[at] !== SP) return fail('HTTP1_REQUEST_LINE', 'no target, or no space after it')
    this.#minor = minorOf(bytes, at + 1, CR)
    this.#method = methodOf(bytes, from, targetAt - 1)
    this.#target = latin1(bytes, targetAt, at)
    if (bytes[at + 10] !== LF) return fail('HTTP1_LINE_END', 'a carriage return without a line feed')
    return at + 11
  }

  finish(meaning: Meaning): RequestRead {
    if (meaning.lengths > 1) fail('HTTP1_TWO_LENGTHS', 'Content-Length is given twice')
    const chunked = isChunked(meaning, this.#minor)
    return {
      ...meaning,
      is: 'request',
      method: this.#method,
      target: this.#target,
      minor: this.#minor,
      framing: chunked ? 'chunked' : meaning.length > 0 ? 'length' : 'none',
    }
  }

  isInterim(): boolean {
    return false
  }
}

/** Common methods without making a string. */
const methodOf = (bytes: Buffer, from: number, to: number): string => {
  const first = bytes[from]
  if (to - from === 3) {
    if (first === 71 && bytes[from + 1] === 69 && bytes[from + 2] === 84) return 'GET'
    if (first === 80 && bytes[from + 1] === 85 && bytes[from + 2] === 84) return 'PUT'
  }
  return latin1(bytes, from, to)
}

/** `HTTP/1.0` or `HTTP/1.1` at `at`, then `after`: the minor version. */
const minorOf = (bytes: Buffer, at: number, after: number): number => {
  const isHttp1 =
    bytes[at] === 72 &&
    bytes[at + 1] === 84 &&
    bytes[at + 2] === 84 &&
    bytes[at + 3] === 80 &&
    bytes[at + 4] === 47 &&
    bytes[at + 5] === 49 &&
    bytes[at + 6] === 46 &&
    bytes[at + 8] === after
  const minor = bytes[at + 7]! - 48
  return isHttp1 && (minor === 0 || minor === 1) ? minor : badVersion(latin1(bytes, at, at + 8), bytes[at + 8], after)
}

const badVersion = (text: string, then: number | undefined, after: number): never => {
  if (!/^HTTP\/\d\.\d$/.test(text)) return fail('HTTP1_REQUEST_LINE', 'no version, or more than one space before it')
  if (then === after) return fail('HTTP1_VERSION', `version ${text.slice(5)}`)
  return then === LF
    ? fail('HTTP1_LINE_END', 'a line feed without a carriage return')
    : fail('HTTP1_REQUEST_LINE', 'something after the version')
}

/** Reads the responses of one connection (RFC 9112 section 4). `expect` is called before each with its request. */
export const responseReader = (limits: Http1Limits): Http1Reader<ResponseRead> & { expect(method: string): void } => {
  const grammar = new ResponseGrammar()
  return Object.assign(new Http1Reader(limits, grammar), { expect: (method: string) => grammar.expect(method) })
}

class ResponseGrammar implements Grammar<ResponseRead> {
  readonly skipsEmptyLines = false
  #method: string | undefined
  #status = 0
  #reason = ''
  #minor = 1

  expect(method: string): void {
    this.#method = method
  }

  startLine(bytes: Buffer, from: number): number {
    if (this.#method === undefined) return fail('HTTP1_UNASKED', 'a response to no request')
    this.#minor = minorOf(bytes, from, SP)
    const status = statusOf(bytes, from + 9)
    const after = bytes[from + 12]
    if (status < 100 || (after !== SP && after !== CR)) return fail('HTTP1_STATUS_LINE', 'no status of three digits')
    const lineEnd = bytes.indexOf(LF, from + 12)
    if (bytes[lineEnd - 1] !== CR) return fail('HTTP1_LINE_END', 'a line feed without a carriage return')
    this.#status = status
    this.#reason = reasonOf(bytes, after === SP ? from + 13 : lineEnd - 1, lineEnd - 1)
    return lineEnd + 1
  }

  finish(meaning: Meaning): ResponseRead {
    const framing = this.#framing(meaning)
    if (this.#status >= 200 || this.#status === 101) this.#method = undefined
    return {
      ...meaning,
      is: 'response',
      status: this.#status,
      reason: this.#reason,
      minor: this.#minor,
      framing,
    }
  }

  /** RFC 9112 section 6.3, in its order. */
  #framing(meaning: Meaning): Framing {
    const status = this.#status
    if (status === 101) return 'tunnel'
    if (this.#method === 'CONNECT' && status >= 200 && status < 300) return 'tunnel'
    if (status < 200 || status === 204) return 'none'
    const chunked = isChunked(meaning, this.#minor)
    if (this.#method === 'HEAD' || status === 304) return 'none'
    if (chunked) return 'chunked'
    if (meaning.lengths === 0) return 'close'
    return meaning.length > 0 ? 'length' : 'none'
  }

  isInterim(head: ResponseRead): boolean {
    return head.status < 200 && head.status !== 101
  }
}

/** Three digits, or -1. */
const statusOf = (bytes: Buffer, at: number): number => {
  const [a, b, c] = [bytes[at]! - 48, bytes[at + 1]! - 48, bytes[at + 2]! - 48]
  const digits = a >= 0 && a <= 9 && b >= 0 && b <= 9 && c >= 0 && c <= 9
  return digits ? a * 100 + b * 10 + c : -1
}

const reasonOf = (bytes: Buffer, from: number, to: number): string => {
  if (to - from === 2 && bytes[from] === 79 && bytes[from + 1] === 75) return 'OK'
  for (let at = from; at < to; at++) {
    if (bytes[at]! < 32 ? bytes[at] !== 9 : bytes[at] === 127) {
      return fail('HTTP1_STATUS_LINE', 'a control character in the reason')
    }
  }
  return latin1(bytes, from, to)
}
