import type { Duplex } from 'node:stream'
import { type Flushable, flushLater } from './turn.ts'

/** Below this, copying into one buffer is cheaper than a writev of many (measured: about 2 µs against 6). */
const COPY_BYTES_MAX = 16_384

/** Who is told that everything given so far was taken by the system, or by a buffer that is not full. */
export interface Writer {
  written(): void
}

/** What one connection has to send, gathered and written once at the end of the turn of the loop it was given in. */
export class Output implements Flushable {
  readonly #stream: Duplex
  readonly #writer: Writer
  #text = ''
  #parts: (string | Buffer)[] = []
  #bytes = 0
  #isDirty = false
  #isEnding = false
  /** All bytes given so far. */
  total = 0
  /** The system takes no more for now. */
  isBlocked = false

  constructor(stream: Duplex, writer: Writer) {
    this.#stream = stream
    this.#writer = writer
    stream.on('drain', () => {
      this.isBlocked = false
      this.#writer.written()
    })
  }

  /** Text in latin1: heads and chunk sizes. */
  text(text: string) {
    this.#text += text
    this.total += text.length
    if (!this.#isDirty) this.#schedule()
  }

  bytes(chunk: Buffer) {
    if (this.#text !== '') {
      this.#parts.push(this.#text)
      this.#bytes += this.#text.length
      this.#text = ''
    }
    this.#parts.push(chunk)
    this.#bytes += chunk.length
    this.total += chunk.length
    if (!this.#isDirty) this.#schedule()
  }

  /** Says goodbye after what was given. */
  end() {
    this.#isEnding = true
    if (!this.#isDirty) this.#schedule()
  }

  /** Forgets what was given in this turn. */
  drop() {
    this.#text = ''
    this.#parts = []
    this.#bytes = 0
  }

  flush() {
    this.#isDirty = false
    const stream = this.#stream
    if (stream.destroyed || stream.writableEnded) return this.drop()
    if (this.#parts.length > 0) this.#writeParts()
    else if (this.#text !== '') {
      this.isBlocked = !stream.write(this.#text, 'latin1')
      this.#text = ''
    }
    if (this.#isEnding) stream.end()
    if (!this.isBlocked) this.#writer.written()
  }

  #schedule() {
    this.#isDirty = true
    flushLater(this)
  }

  #writeParts() {
    const stream = this.#stream
    const parts = this.#parts
    if (this.#text !== '') parts.push(this.#text)
    const size = this.#bytes + this.#text.length
    this.#text = ''
    this.#parts = []
    this.#bytes = 0
    if (parts.length === 1) {
      this.isBlocked = !stream.write(parts[0])
    } else if (size <= COPY_BYTES_MAX) {
      this.isBlocked = !stream.write(joined(parts, size))
    } else {
      stream.cork()
      for (const part of parts) {
        this.isBlocked = !(typeof part === 'string' ? stream.write(part, 'latin1') : stream.write(part))
      }
      stream.uncork()
    }
  }
}

const joined = (parts: readonly (string | Buffer)[], size: number): Buffer => {
  const all = Buffer.allocUnsafe(size)
  let at = 0
  for (const part of parts) {
    if (typeof part === 'string') at += all.write(part, at, 'latin1')
    else at += part.copy(all, at)
  }
  return all
}
