import type { Duplex } from 'node:stream'
import { type Target, targetOf } from '../codec/authority.ts'
import { type Http1Event, type RequestRead, requestReader } from '../codec/http1.ts'
import { upgradeSettings } from '../codec/http2Control.ts'
import { hearBytes, stopHearing } from '../net/direct.ts'
import { Fault } from '../net/fault.ts'
import { ProtocolError } from '../net/protocolError.ts'
import { reset } from '../net/relay.ts'
import type { Ending } from '../net/traffic.ts'
import { BodyWriter } from './bodyWriter.ts'
import { Deadline } from './deadline.ts'
import { type Answer, type Asking, type Fields, OUR_FAULT, type RequestHead, type ResponseHead } from './exchange.ts'
import { valuesOf } from './fields.ts'
import { hasOption, upgradesOf } from './hopByHop.ts'
import { answerHeadText, checkCoding, refusalText, statusOf, switchText } from './http1Answer.ts'
import type { Http1ClientOptions } from './http1ClientOptions.ts'
import { requestHead } from './http1RequestHead.ts'
import { Output } from './output.ts'

/** Bytes of a request that wait for a slow upstream before the client is read no further. */
const WINDOW_BYTES = 65_536
/** Requests that wait for the answer to the one before them. */
const PIPELINED_BYTES = 262_144
/** After an answer that came early, so much of the rest is read and dropped, so that the answer is not lost in a reset. */
const LINGER_BYTES = 1_048_576
const LINGER_MS = 1000
/** A client that is silent for so long is left to whoever waits for less: most have another request within that, or none. */
const REST_MS = 3_000

const CANCEL = 8
const PROTOCOL_ERROR = 1
const NOTHING = Buffer.alloc(0)
const NO_FIELDS: Fields = []

type State = 'idle' | 'request' | 'tunnel' | 'lingering' | 'over'

/** A client's HTTP/1 connection: its requests one after another, and the answers in their order. */
export class Http1Client implements Answer {
  readonly #stream: Duplex
  readonly #options: Http1ClientOptions
  readonly #reader
  readonly #output: Output
  readonly #body: BodyWriter
  readonly #deadline: Deadline
  #state: State = 'idle'
  #asking: Asking | undefined
  #method = ''
  #minor = 1
  #keepsAlive = true
  #isDraining = false
  #isClientDone = false
  #requestDone = true
  #responseDone = true
  #headSent = false
  #linger = 0
  #unacknowledged = 0
  #isPaused = false
  #answerUnacknowledged = 0
  #isBusy = false
  #mayRest = false
  #why: Ending = 'closed'
  #lingered = 0

  constructor(stream: Duplex, options: Http1ClientOptions) {
    this.#stream = stream
    this.#options = options
    this.#reader = requestReader(options.limits)
    this.#output = new Output(stream, this)
    this.#output.total = options.count.received
    this.#body = new BodyWriter(this.#output)
    this.#deadline = new Deadline(options.clock, () => this.#late())
  }

  /** Begins. `stream` may hold bytes that detection put back. */
  start() {
    const stream = this.#stream
    this.#deadline.in(this.#options.limits.headMs)
    stream.on('error', (error) => this.#over(error instanceof Fault ? 'internalError' : 'clientReset', error))
    stream.on('close', () => this.#over('clientReset'))
    stream.on('end', () => this.#clientEnded())
    hearBytes(stream, (bytes) => this.#received(bytes))
  }

  /** Ends after the response that is under way; at once where there is none. */
  drain() {
    this.#isDraining = true
    if (this.#state === 'idle' && !this.#reader.isWithin) this.#lingerOn('closed')
  }

  /** The next request did not come in time. */
  expire() {
    this.#lingerOn('idleTimeout')
  }

  /** Ends now. */
  close(why: Ending) {
    this.#over(why)
  }

  // What the upstream says.

  information(head: ResponseHead) {
    if (this.#minor === 0 || this.#headSent) return
    this.#output.text(answerHeadText(1, head, ''))
  }

  head(head: ResponseHead, last: boolean) {
    if (this.#headSent) return
    this.#headSent = true
    const { status } = head
    if (status === 101 || (this.#method === 'CONNECT' && status >= 200 && status < 300)) return this.#switch(head)
    let more = this.#delimit(head, last)
    const minor = this.#minor
    if (this.#isDraining || this.#isLast || (!this.#requestDone && last)) this.#keepsAlive = false
    // What a client sent for a tunnel that it did not get could be read as a request.
    if (this.#method === 'CONNECT') this.#keepsAlive = false
    if (!this.#keepsAlive) more += 'Connection: close\r\n'
    else if (minor === 0) more += 'Connection: keep-alive\r\n'
    this.#output.text(answerHeadText(minor, head, more))
    if (last) this.#answered()
  }

  data(chunk: Buffer, last: boolean) {
    if (this.#responseDone || !this.#headSent) return
    if (chunk.length > 0) {
      this.#answerUnacknowledged += chunk.length
      if (!this.#body.write(chunk)) return this.abort()
    }
    if (last) this.trailers(NO_FIELDS)
  }

  trailers(fields: Fields) {
    if (this.#responseDone || !this.#headSent) return
    if (this.#state === 'tunnel') {
      this.#responseDone = true
      this.#output.end()
      return this.#tunnelEnded()
    }
    if (this.#body.end(fields)) this.#answered()
    else this.abort()
  }

  abort() {
    if (this.#responseDone) return
    // Half an answer must not look like a whole one.
    this.#output.flush()
    this.#asking = undefined
    this.#over('upstreamReset')
  }

  consumed(bytes: number) {
    this.#unacknowledged -= bytes
    if (this.#isPaused && this.#unacknowledged < WINDOW_BYTES / 2) this.#resume()
  }

  written() {
    this.#options.count.received = this.#output.total
    const bytes = this.#answerUnacknowledged
    if (bytes > 0) {
      this.#answerUnacknowledged = 0
      this.#asking?.consumed(bytes)
    }
    if (this.#isHeldBack) this.#advance(this.#reader.next())
  }

  /** The next request waits until the client has read the answers before it. */
  get #isHeldBack(): boolean {
    return this.#state === 'idle' && this.#reader.isBetween && !this.#isBusy
  }

  /** What has come of the next request. Of a client that reads no answers none is taken, or they would all lie here. */
  #next(): Http1Event<RequestRead>[] {
    return this.#output.isBlocked ? NONE : this.#reader.next()
  }

  /** The client has said goodbye, and nothing that it sent is left. */
  get #isLast(): boolean {
    return this.#isClientDone && this.#reader.unread === 0
  }

  /** How the body will be delimited (RFC 9112 section 6.1), and the fields that say so. */
  #delimit(head: ResponseHead, last: boolean): string {
    const isBodiless = this.#method === 'HEAD' || head.status === 204 || head.status === 304
    // Of an HTTP/2 server the end may still be on its way: there is no body all the same.
    if (last || isBodiless) {
      this.#body.begin('none')
      return isBodiless || head.length !== undefined ? '' : 'Content-Length: 0\r\n'
    }
    if (head.length !== undefined) {
      this.#body.begin('length', head.length)
      return ''
    }
    if (this.#minor === 1) {
      this.#body.begin('chunked')
      return 'Transfer-Encoding: chunked\r\n'
    }
    this.#body.begin('close')
    this.#keepsAlive = false
    return ''
  }

  /** The response is complete. */
  #answered() {
    this.#responseDone = true
    if (this.#requestDone) this.#turn()
    else this.#lingerOn('closed')
  }

  /** Both request and response are complete: the next request, or the end. */
  #turn() {
    this.#asking = undefined
    this.#state = 'idle'
    this.#method = ''
    if (!this.#keepsAlive || this.#isDraining || this.#isLast) return this.#lingerOn('closed')
    this.#unacknowledged = 0
    if (this.#isPaused) this.#resume()
    this.#mayRest = this.#options.mayRest && this.#options.limits.idleMs > REST_MS
    this.#deadline.in(this.#mayRest ? REST_MS : this.#options.limits.idleMs)
    // From within the reading of a batch that loop goes on by itself.
    if (!this.#isBusy) this.#advance(this.#next())
  }

  /**
   * Says goodbye and reads what still comes for a moment: closing with bytes unread would reset the connection, and the
   * reset could overtake the answer (RFC 9112 section 9.6).
   */
  #lingerOn(why: Ending) {
    if (this.#state === 'lingering' || this.#state === 'over') return
    this.#asking?.abort(0)
    this.#asking = undefined
    this.#state = 'lingering'
    this.#why = why
    this.#linger = LINGER_BYTES
    this.#output.end()
    this.#deadline.in(LINGER_MS)
    if (this.#isPaused) this.#resume()
    if (this.#stream.readableEnded) queueMicrotask(() => this.#clientEnded())
  }

  /** What the client sends. */
  #received(bytes: Buffer) {
    this.#options.count.sent += bytes.length
    if (this.#state === 'lingering') {
      this.#linger -= bytes.length
      if (this.#linger < 0) this.#over(this.#why)
      return
    }
    if (this.#state === 'over') return
    const isFirst = this.#state === 'idle' && !this.#reader.isWithin && !this.#reader.isBetween
    const events = this.#reader.push(bytes)
    if (events.length > 0) this.#advance(events)
    else if (isFirst) this.#deadline.in(this.#options.limits.headMs)
    // A client that sends requests without reading answers is read no further.
    if (this.#reader.unread > PIPELINED_BYTES && !this.#isPaused) this.#pause()
  }

  /** Deals with events, and with those of the requests that follow, until one has to wait for its answer. */
  #advance(first: Http1Event<RequestRead>[]) {
    if (this.#isBusy) return
    this.#isBusy = true
    let events = first
    while (events.length > 0) {
      this.#take(events)
      events = this.#state === 'idle' ? this.#next() : NONE
    }
    this.#isBusy = false
    if (this.#isClientDone && (this.#state === 'idle' || (this.#state === 'request' && !this.#requestDone))) {
      // What the client left unfinished will not be finished.
      const cut = this.#reader.end()
      if (cut.length > 0) this.#advance(cut)
    } else if (this.#state === 'idle' && this.#reader.isWithin) this.#deadline.in(this.#options.limits.headMs)
  }

  #take(events: Http1Event<RequestRead>[]) {
    const last = events[events.length - 1]!
    for (let i = 0; i < events.length; i++) {
      const event = events[i]!
      if (event.is === 'request') {
        // Of a request that is faulty in the same bytes the upstream never sees any.
        if (last.is === 'failed') return this.#refuse(last.error)
        this.#begin(event)
        if (event.framing === 'none') i++
      } else if (event.is === 'data') {
        const next = events[i + 1]
        const isLast = next?.is === 'end' && next.trailers.length === 0
        if (isLast) i++
        this.#pass(event.bytes, isLast)
      } else if (event.is === 'end') this.#requestEnded(event.trailers)
      else this.#failed(event.error)
      if (this.#state === 'lingering' || this.#state === 'over') return
    }
  }

  #begin(read: RequestRead) {
    this.#method = read.method
    this.#minor = read.minor
    this.#headSent = false
    this.#responseDone = false
    this.#keepsAlive =
      read.minor === 1 ? !hasOption(read.connection, 'close') : hasOption(read.connection, 'keep-alive')
    let target: Target
    try {
      target = targetOf(read)
      checkCoding(read)
    } catch (error) {
      if (error instanceof ProtocolError) return this.#refuse(error)
      throw error
    }
    const asked = upgradesOf(read)
    let head = requestHead(read, target, this.#options.scheme)
    if (asked.length > 0) {
      const upgrading = this.#options.chooseUpgrade(asked, head)
      if (upgrading.is === 'other') head = { ...head, upgrade: upgrading.protocol }
      if (upgrading.is === 'http2' && this.#upgradeToHttp2(read, head)) return
    }
    const last = read.framing === 'none' && read.method !== 'CONNECT'
    this.#state = 'request'
    this.#requestDone = last
    this.#deadline.clear()
    this.#asking = this.#options.open(head, last, this)
    // The request is complete; what follows a CONNECT waits until there is a tunnel.
    if (read.framing === 'none') this.#requestDone = true
    if (this.#responseDone) this.#asking = undefined
  }

  /** False where the request goes on as HTTP/1.1: without settings, or with two, it is no upgrade (RFC 7540 section 3.2.1). */
  #upgradeToHttp2(read: RequestRead, head: RequestHead): boolean {
    const written = valuesOf(read.fields, 'http2-settings')
    if (written.length !== 1) return false
    const settings = upgradeSettings(written[0]!)
    if (settings === undefined) {
      this.#refuse(new ProtocolError('HTTP1_UPGRADE', 'HTTP2-Settings is not the payload of a SETTINGS frame'))
      return true
    }
    this.#state = 'over'
    // The others, who watch the connection as such, stay.
    stopHearing(this.#stream)
    this.#stream.removeAllListeners('end')
    this.#deadline.stop()
    this.#options.toHttp2(this.#stream, head, settings, this.#reader.rest())
    return true
  }

  #pass(bytes: Buffer, last: boolean) {
    this.#unacknowledged += bytes.length
    if (last) this.#requestDone = true
    this.#asking?.data(bytes, last)
    if (this.#unacknowledged > WINDOW_BYTES && !this.#isPaused) this.#pause()
    if (last && this.#responseDone && this.#state === 'request') this.#turn()
  }

  #requestEnded(trailers: Fields) {
    this.#requestDone = true
    if (trailers.length > 0) this.#asking?.trailers(trailers)
    else this.#asking?.data(NOTHING, true)
    if (this.#responseDone && this.#state === 'request') this.#turn()
  }

  /** The client broke the protocol within a request. */
  #failed(error: ProtocolError) {
    if (this.#state === 'idle') return this.#refuse(error)
    const asking = this.#asking
    this.#asking = undefined
    const isTold = !this.#headSent
    const status = isTold ? { status: statusOf(error) } : {}
    // It has its Outcome already, and there is but one of each.
    asking?.abort(PROTOCOL_ERROR, { cause: error.code, ...status })
    if (!isTold) return this.#over('protocolError', error)
    this.#refuse(error, asking === undefined)
  }

  /** Answers what cannot be a request of ours, and closes. */
  #refuse(error: ProtocolError, isNews = true) {
    if (isNews) this.#options.refused(error, statusOf(error))
    this.#output.text(refusalText(error, this.#method === 'HEAD'))
    this.#responseDone = true
    this.#lingerOn('protocolError')
  }

  /** After a 101, or a 2xx to CONNECT: bytes both ways. */
  #switch(head: ResponseHead) {
    this.#output.text(switchText(head))
    this.#state = 'tunnel'
    this.#body.begin('close')
    this.#keepsAlive = false
    this.#requestDone = false
    const rest = this.#reader.tunnel()
    if (rest.length > 0) queueMicrotask(() => this.#pass(rest, false))
    if (this.#stream.readableEnded) queueMicrotask(() => this.#clientEnded())
  }

  #tunnelEnded() {
    if (this.#responseDone && this.#requestDone) this.#lingerOn('closed')
  }

  #clientEnded() {
    if (this.#state === 'lingering') return this.#leave()
    if (this.#state === 'tunnel') {
      if (this.#requestDone) return
      this.#requestDone = true
      this.#asking?.data(NOTHING, true)
      return this.#tunnelEnded()
    }
    this.#isClientDone = true
    // A client may say goodbye once its requests are sent, and still wants the answers.
    if (this.#state === 'request' && this.#requestDone) return
    if (this.#isHeldBack && this.#reader.unread > 0) return
    if (this.#state === 'idle' && !this.#reader.isWithin) this.#lingerOn('closed')
    else this.#advance(this.#reader.end())
  }

  /** The client has said goodbye too: what was written goes out, and that is all. */
  #leave() {
    const stream = this.#stream
    const done = () => this.#over(this.#why)
    this.#output.flush()
    if (stream.writableFinished) done()
    else stream.once('finish', done)
  }

  #late() {
    if (this.#state === 'lingering') {
      // An answer that is still on its way to a slow client gets as long as a pause between requests.
      this.#lingered += LINGER_MS
      if (this.#stream.writableLength === 0 || this.#lingered > this.#options.limits.idleMs) this.#over(this.#why)
      else this.#deadline.in(LINGER_MS)
      return
    }
    if (this.#state !== 'idle') return
    if (!this.#reader.isWithin) return this.#mayRest ? this.#rest() : this.#lingerOn('idleTimeout')
    this.#refuse(new ProtocolError('HTTP1_HEAD_TIMEOUT', 'the head of the request took too long'))
  }

  /** Leaves the stream to somebody else, who begins another client when there is something to do. */
  #rest() {
    this.#mayRest = false
    const leftMs = this.#options.limits.idleMs - REST_MS
    const isQuiet = !this.#isPaused && !this.#isClientDone && !this.#output.isBlocked
    if (!isQuiet || !this.#options.rest(this.#stream, leftMs)) return this.#deadline.in(leftMs)
    this.#state = 'over'
    this.#deadline.stop()
  }

  #over(why: Ending, error?: Error) {
    if (this.#state === 'over') return
    const wasLingering = this.#state === 'lingering'
    const wasWithin = this.#state === 'request' || this.#state === 'tunnel' || this.#reader.isWithin
    const ended = wasLingering || (why === 'clientReset' && !wasWithin) ? this.#why : why
    this.#state = 'over'
    this.#options.count.received = this.#output.total
    this.#deadline.stop()
    this.#asking?.abort(CANCEL, why === 'internalError' ? OUR_FAULT : undefined)
    this.#asking = undefined
    if (ABRUPT.has(ended)) reset(this.#stream)
    else this.#stream.destroy()
    this.#options.ended(ended, ended === why ? error : undefined)
  }

  #pause() {
    this.#isPaused = true
    this.#stream.pause()
  }

  #resume() {
    this.#isPaused = false
    this.#stream.resume()
  }
}

/** Half an answer must not look like a whole one. */
const ABRUPT: ReadonlySet<Ending> = new Set(['upstreamReset', 'policyChanged', 'internalError'])

const NONE: Http1Event<RequestRead>[] = []
