import { randomBytes } from 'node:crypto'
import type { Duplex } from 'node:stream'
import { type Http1Event, type ResponseRead, responseReader } from '../codec/http1.ts'
import type { Http1Limits } from '../codec/http1Head.ts'
import { hearBytes, kept } from '../net/direct.ts'
import { Fault } from '../net/fault.ts'
import { BodyWriter } from './bodyWriter.ts'
import type { Answer, Asking, Fields, RequestHead, ResponseHead, Upstream, UpstreamEvents, Why } from './exchange.ts'
import { endToEnd, hasOption } from './hopByHop.ts'
import { requestText } from './http1Request.ts'
import { Output } from './output.ts'

/** Bytes of a response that wait for a slow client before its upstream is read no further: about one read, not two. */
const WINDOW_BYTES = 32_768

const INTERNAL_ERROR = 2
const PROTOCOL_ERROR = 1
const NOTHING = Buffer.alloc(0)

/** An HTTP/1 connection to an upstream: one request at a time, reused while both sides keep it open. */
export class Http1Upstream implements Upstream, Asking {
  readonly protocol = 'http1'
  readonly #stream: Duplex
  readonly #events: UpstreamEvents
  readonly #reader
  readonly #output: Output
  readonly #body: BodyWriter
  #answer: Answer | undefined
  #head: RequestHead | undefined
  #requestDone = true
  #responseDone = true
  #persists = true
  #isTunnel = false
  /** A request was answered on it before, so its server may be closing it while we send the next one. */
  #isUsed = false
  /** What came for a tunnel that does not stand yet. */
  #held: Buffer[] = []
  #isHeard = false
  #isClosing = false
  #sentUnacknowledged = 0
  #unacknowledged = 0
  #isPaused = false

  constructor(stream: Duplex, limits: Http1Limits, events: UpstreamEvents) {
    this.#stream = stream
    this.#events = events
    this.#reader = responseReader(limits)
    this.#output = new Output(stream, this)
    this.#body = new BodyWriter(this.#output)
    hearBytes(stream, (bytes) => this.#read(this.#reader.push(bytes)))
    stream.on('end', () => this.#ended())
    stream.on('error', (error) => error instanceof Fault && this.#fail(INTERNAL_ERROR, 'fault'))
    stream.on('close', () => this.#gone())
  }

  room(): number {
    return this.#isIdle && !this.#isClosing ? 1 : 0
  }

  get #isIdle(): boolean {
    return this.#requestDone && this.#responseDone
  }

  close() {
    this.#isClosing = true
    if (this.#isIdle) this.#destroy()
  }

  readonly open = (head: RequestHead, last: boolean, answer: Answer): Asking => {
    this.#answer = answer
    this.#head = head
    this.#requestDone = last
    this.#responseDone = false
    this.#isHeard = false
    this.#held = []
    const isChunked = !last && head.length === undefined
    this.#body.begin(last ? 'none' : isChunked ? 'chunked' : 'length', head.length)
    const text = requestText(head, isChunked, webSocketKey)
    if (text === undefined) {
      queueMicrotask(() => this.#fail(PROTOCOL_ERROR, 'malformed'))
      return this
    }
    this.#reader.expect(isExtendedConnect(head) ? 'GET' : head.method)
    this.#output.text(text)
    return this
  }

  data(chunk: Buffer, last: boolean) {
    if (this.#answer === undefined || this.#requestDone) return
    if (chunk.length > 0) this.#send(chunk)
    if (last) this.#sent(NO_FIELDS)
  }

  trailers(fields: Fields) {
    if (this.#answer === undefined || this.#requestDone) return
    this.#sent(fields)
  }

  abort() {
    if (this.#answer === undefined) return
    this.#answer = undefined
    this.#destroy()
  }

  consumed(bytes: number) {
    this.#unacknowledged -= bytes
    if (this.#isPaused && this.#unacknowledged < WINDOW_BYTES / 2) this.#resume()
  }

  /** The system took what was sent. */
  written() {
    const bytes = this.#sentUnacknowledged
    if (bytes === 0) return
    this.#sentUnacknowledged = 0
    this.#answer?.consumed(bytes)
  }

  #send(chunk: Buffer) {
    // Before the tunnel stands, its bytes could be read as a request.
    if (this.#head?.method === 'CONNECT' && !this.#isTunnel) {
      this.#held.push(kept(chunk))
      return
    }
    this.#sentUnacknowledged += chunk.length
    if (!this.#body.write(chunk)) this.#fail(PROTOCOL_ERROR, 'malformed')
  }

  #sent(trailers: Fields) {
    if (this.#head?.method === 'CONNECT' && !this.#isTunnel) {
      this.#requestDone = true
      return
    }
    if (!this.#body.end(trailers)) return this.#fail(PROTOCOL_ERROR, 'malformed')
    if (this.#isTunnel) this.#output.end()
    this.#requestDone = true
    if (this.#responseDone) this.#finish()
  }

  #read(events: Http1Event<ResponseRead>[]) {
    if (this.#answer === undefined) return this.#destroy()
    this.#isHeard = true
    for (let i = 0; i < events.length; i++) {
      const event = events[i]!
      const answer = this.#answer
      if (answer === undefined) return
      if (event.is === 'response') {
        this.#answered(event, answer)
        // The end of a response without a body follows; by now the connection may serve another request.
        if (event.framing === 'none' && event.status >= 200) return
      } else if (event.is === 'data') {
        const next = events[i + 1]
        if (next?.is === 'end' && next.trailers.length === 0) return this.#answeredWholly(answer, event.bytes)
        this.#unacknowledged += event.bytes.length
        answer.data(event.bytes, false)
        this.#pauseIfFull()
      } else if (event.is === 'end') {
        return this.#answeredWholly(answer, NOTHING, event.trailers)
      } else return this.#fail(PROTOCOL_ERROR, event.error.code === 'HTTP1_CUT_SHORT' ? 'closed' : 'malformed')
    }
  }

  #answered(read: ResponseRead, answer: Answer) {
    // We never say that we take another one (RFC 9112 section 7.4): passed on as chunks alone it would be read wrongly.
    if (read.framing === 'chunked' && read.coding?.toLowerCase() !== 'chunked') {
      return this.#fail(PROTOCOL_ERROR, 'malformed')
    }
    const head = responseHead(read)
    if (read.status === 101) return this.#switched(head, read, answer)
    if (read.status < 200) return answer.information(head)
    this.#persists = read.framing !== 'close' && persists(read) && this.#head?.version !== '1.0'
    if (read.framing === 'tunnel') return this.#tunnel(head, answer)
    if (read.framing !== 'none') return answer.head(head, false)
    this.#free()
    answer.head(head, true)
    this.#over(answer)
  }

  /** A 101 answers an Upgrade, and over HTTP/2 an extended CONNECT, which wants a 2xx (RFC 8441 section 5). */
  #switched(head: ResponseHead, read: ResponseRead, answer: Answer) {
    if (this.#head?.upgrade === undefined) return this.#fail(PROTOCOL_ERROR, 'malformed')
    const upgrade = read.upgrade ?? this.#head.upgrade
    this.#tunnel(
      isExtendedConnect(this.#head)
        ? { ...head, status: 200, fields: withoutAccept(head.fields) }
        : { ...head, upgrade },
      answer,
    )
  }

  #tunnel(head: ResponseHead, answer: Answer) {
    this.#isTunnel = true
    this.#persists = false
    this.#body.begin('close')
    const wasDone = this.#requestDone && this.#head?.method === 'CONNECT'
    this.#requestDone = false
    answer.head(head, false)
    for (const chunk of this.#held.splice(0)) this.#send(chunk)
    if (wasDone) this.#sent(NO_FIELDS)
  }

  /** The response is complete. The connection is free before the client hears of it, since its next request may follow. */
  #answeredWholly(answer: Answer, chunk: Buffer, trailers: Fields = NO_FIELDS) {
    this.#free()
    if (trailers.length > 0) answer.trailers(trailers)
    else answer.data(chunk, true)
    this.#over(answer)
  }

  #free() {
    this.#responseDone = true
    if (this.#requestDone) this.#finish()
  }

  /** What the server sends after the end of a response, or a request that goes on after it, makes the connection unfit. */
  #over(answered: Answer) {
    // Where it is free, another request may have taken it by now.
    if (this.#answer !== answered) return
    this.#answer = undefined
    this.#destroy()
  }

  #finish() {
    this.#answer = undefined
    this.#head = undefined
    this.#isUsed = true
    this.#unacknowledged = 0
    if (!this.#persists || this.#isClosing || this.#reader.unread > 0 || this.#stream.destroyed) return this.#destroy()
    this.#reader.next()
    if (this.#isPaused) this.#resume()
    this.#events.freed(this)
  }

  #pauseIfFull() {
    if (this.#unacknowledged <= WINDOW_BYTES || this.#isPaused) return
    this.#isPaused = true
    this.#stream.pause()
  }

  #resume() {
    this.#isPaused = false
    this.#stream.resume()
  }

  /** The server said goodbye: the end of a response that has no other, of a tunnel, or of an idle connection. */
  #ended() {
    this.#persists = false
    const answer = this.#answer
    if (answer === undefined) return this.#destroy()
    if (this.#isTunnel) {
      this.#responseDone = true
      answer.data(NOTHING, true)
      if (this.#requestDone) this.#finish()
      return
    }
    const events = this.#reader.end()
    if (events.length === 0) this.#fail(INTERNAL_ERROR, this.#isUsed && !this.#isHeard ? 'closedIdle' : 'closed')
    else this.#read(events)
  }

  #gone() {
    this.#isClosing = true
    this.#events.ended(this)
    if (this.#answer !== undefined) {
      this.#fail(INTERNAL_ERROR, this.#isUsed && !this.#isHeard ? 'closedIdle' : 'closed')
    }
  }

  #fail(code: number, why: Why) {
    const answer = this.#answer
    this.#answer = undefined
    this.#destroy()
    answer?.abort(code, why)
  }

  #destroy() {
    this.#isClosing = true
    this.#output.drop()
    if (!this.#stream.destroyed) this.#stream.destroy()
    this.#events.ended(this)
  }
}

const NO_FIELDS: Fields = []

const webSocketKey = (): string => randomBytes(16).toString('base64')

const isExtendedConnect = (head: RequestHead): boolean => head.method === 'CONNECT' && head.upgrade !== undefined

const persists = (read: ResponseRead): boolean =>
  read.minor === 1 ? !hasOption(read.connection, 'close') : hasOption(read.connection, 'keep-alive')

const responseHead = (read: ResponseRead): ResponseHead => {
  const { status, reason } = read
  let fields = endToEnd(read)
  // No body can follow, so neither may its length (RFC 9110 sections 8.6 and 9.3.6).
  if (read.lengths > 0 && (status < 200 || status === 204 || read.framing === 'tunnel')) {
    fields = fields.filter((_, i) => fields[i & ~1]!.toLowerCase() !== 'content-length')
    return { status, reason, fields }
  }
  return read.lengths > 0 ? { status, reason, fields, length: read.length } : { status, reason, fields }
}

const withoutAccept = (fields: Fields): Fields =>
  fields.filter((_, i) => fields[i & ~1]!.toLowerCase() !== 'sec-websocket-accept')
