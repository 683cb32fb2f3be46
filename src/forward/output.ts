import type { Duplex } from 'node:stream'
import { type Direct, directOf, kept } from '../net/direct.ts'
import { faulted } from '../net/fault.ts'
import { type Flushable, flushLater } from './turn.ts'

/**
 * Shorter pieces of a body wait with the heads for the end of the turn, as text, which costs no more than a copy; longer
 * ones are worth a call of their own.
 */
const SHORT_BYTES = 4096

/** Who is told that everything given so far was taken by the system, or by a buffer that is not full. */
export interface Writer {
  written(): void
}

/** Where text becomes bytes on its way to the system: used up before anything else can happen. */
const scratch = Buffer.allocUnsafeSlow(65_536)

/**
 * What one connection has to send, gathered and written once at the end of the turn of the loop it was given in. Long
 * pieces of a body go at once, with the text before them: then nobody has to keep their bytes.
 */
export class Output implements Flushable {
  readonly #stream: Duplex
  readonly #writer: Writer
  readonly #direct: Direct | undefined
  #text = ''
  #isDirty = false
  #isEnding = false
  /** All bytes given so far. */
  total = 0
  /** The system takes no more for now. */
  isBlocked = false

  constructor(stream: Duplex, writer: Writer) {
    this.#stream = stream
    this.#writer = writer
    this.#direct = directOf(stream)
    stream.on('drain', () => this.#drained())
  }

  /** Text in latin1: heads and chunk sizes. */
  text(text: string) {
    this.#text += text
    this.total += text.length
    if (!this.#isDirty) this.#schedule()
  }

  bytes(chunk: Buffer) {
    if (chunk.length < SHORT_BYTES) return this.text(chunk.toString('latin1'))
    this.total += chunk.length
    const stream = this.#stream
    if (stream.destroyed || stream.writableEnded) return
    const text = this.#text
    this.#text = ''
    this.#write(text, chunk)
    if (!this.isBlocked) this.#writer.written()
  }

  /** Says goodbye after what was given. */
  end() {
    this.#isEnding = true
    if (!this.#isDirty) this.#schedule()
  }

  /** Forgets what was given in this turn. */
  drop() {
    this.#text = ''
  }

  flush() {
    this.#isDirty = false
    const stream = this.#stream
    if (stream.destroyed || stream.writableEnded) return this.drop()
    const text = this.#text
    this.#text = ''
    if (text !== '') this.#write(text, undefined)
    if (this.#isEnding) stream.end()
    if (!this.isBlocked) this.#writer.written()
  }

  broke(error: unknown) {
    faulted(this.#stream, error)
  }

  #schedule() {
    this.#isDirty = true
    flushLater(this)
  }

  /** The system is asked without the stream, unless that holds something which has to go first. */
  #write(text: string, chunk: Buffer | undefined) {
    const stream = this.#stream
    if (this.#direct !== undefined && stream.writableLength === 0 && text.length <= scratch.length)
      return this.#writeDirectly(this.#direct, text, chunk)
    if (text !== '' && chunk !== undefined) stream.cork()
    if (text !== '') this.isBlocked = !stream.write(text, 'latin1')
    if (chunk !== undefined) this.isBlocked = !stream.write(kept(chunk))
    if (stream.writableCorked > 0) stream.uncork()
  }

  /** What the system does not take now, and its errors, are the stream's; whoever sends more waits until it is gone. */
  #writeDirectly(direct: Direct, text: string, chunk: Buffer | undefined) {
    const stream = this.#stream
    const head = text === '' ? 0 : scratch.write(text, 'latin1')
    const taken = Math.max(0, direct.send(scratch, head, chunk))
    if (taken === head + (chunk?.length ?? 0)) return
    this.isBlocked = true
    const drained = (error?: Error | null) => void (error || this.#drained())
    if (taken < head) stream.write(Buffer.from(scratch.subarray(taken, head)), drained)
    if (chunk !== undefined) stream.write(kept(chunk.subarray(Math.max(0, taken - head))), drained)
  }

  #drained() {
    if (this.#stream.writableLength > 0) return
    this.isBlocked = false
    this.#writer.written()
  }
}
