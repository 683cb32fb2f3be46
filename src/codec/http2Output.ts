import { FLAG, FRAME, FRAME_HEAD_BYTES } from './http2Codes.ts'
import { borrowSegment, returnSegment, SEGMENT_BYTES } from './segments.ts'

/** What a connection borrows for a turn; most turns of most connections need no more. */
const FIRST_BYTES = 4096
/** 1 MiB, for all connections together. */
const FIRST_SPARES_MAX = 256

const firstSpares: Buffer[] = []
const NO_BYTES = Buffer.alloc(0)

/**
 * What one connection has to send. Frames are written one behind the other into buffers, and whoever owns the socket
 * takes all of them at once. Buffers that it gives back once the socket is done with them are used again.
 */
export class Http2Output {
  /** Valid until the next call of `reserve`. */
  buffer: Buffer = NO_BYTES
  /** How much of the buffer is written. Whoever writes into it moves this. */
  length = 0
  /** Full buffers before it, and how much they hold. */
  #full: Buffer[] = []
  #fullBytes = 0

  /** All that waits to be taken, in bytes. */
  get bytes(): number {
    return this.#fullBytes + this.length
  }

  /** Makes room for so many bytes in a row. */
  reserve(bytes: number): void {
    if (this.length + bytes <= this.buffer.length) return
    if (this.length > 0) this.#full.push(this.buffer.subarray(0, this.length))
    else this.giveBack([this.buffer])
    this.#fullBytes += this.length
    this.length = 0
    if (bytes > SEGMENT_BYTES) this.buffer = Buffer.allocUnsafeSlow(bytes)
    else if (this.#fullBytes === 0 && bytes <= FIRST_BYTES)
      this.buffer = firstSpares.pop() ?? Buffer.allocUnsafeSlow(FIRST_BYTES)
    else this.buffer = borrowSegment()
  }

  /** Everything written since the last time. The bytes are the taker's, unless it gives them back. */
  take(): Buffer[] {
    const taken = this.#full
    if (this.length > 0) taken.push(this.buffer.subarray(0, this.length))
    else this.giveBack([this.buffer])
    this.buffer = NO_BYTES
    this.#full = []
    this.#fullBytes = 0
    this.length = 0
    return taken
  }

  /** Nobody looks any longer at these, which `take` returned. */
  giveBack(taken: readonly Buffer[]): void {
    for (const bytes of taken) {
      if (bytes.buffer.byteLength !== FIRST_BYTES) returnSegment(bytes)
      else if (firstSpares.length < FIRST_SPARES_MAX) firstSpares.push(Buffer.from(bytes.buffer))
    }
  }

  /** A frame's first nine bytes (RFC 9113 4.1); there is room for its payload too. */
  frame(type: number, flags: number, stream: number, payloadBytes: number): void {
    this.reserve(FRAME_HEAD_BYTES + payloadBytes)
    writeFrameHead(this.buffer, this.length, type, flags, stream, payloadBytes)
    this.length += FRAME_HEAD_BYTES
  }

  write(bytes: Uint8Array): void {
    this.reserve(bytes.length)
    this.buffer.set(bytes, this.length)
    this.length += bytes.length
  }

  data(stream: number, bytes: Uint8Array, last: boolean): void {
    this.frame(FRAME.data, last ? FLAG.endStream : 0, stream, bytes.length)
    this.write(bytes)
  }

  /** A frame whose payload is one number: RST_STREAM, WINDOW_UPDATE. */
  number(type: number, stream: number, value: number): void {
    this.frame(type, 0, stream, 4)
    this.#uint32(value)
  }

  settings(settings: readonly (readonly [id: number, value: number])[]): void {
    this.frame(FRAME.settings, 0, 0, settings.length * 6)
    for (const [id, value] of settings) {
      this.buffer[this.length] = id >> 8
      this.buffer[this.length + 1] = id
      this.length += 2
      this.#uint32(value)
    }
  }

  ping(payload: Uint8Array, isAck: boolean): void {
    this.frame(FRAME.ping, isAck ? FLAG.ack : 0, 0, 8)
    this.write(payload)
  }

  goaway(lastStream: number, code: number, why: string): void {
    this.frame(FRAME.goaway, 0, 0, 8 + why.length)
    this.#uint32(lastStream)
    this.#uint32(code)
    this.length += this.buffer.write(why, this.length, 'latin1')
  }

  #uint32(value: number): void {
    const { buffer, length } = this
    buffer[length] = value >>> 24
    buffer[length + 1] = value >>> 16
    buffer[length + 2] = value >>> 8
    buffer[length + 3] = value
    this.length = length + 4
  }
}

/** Writes the nine bytes at `at`. */
export const writeFrameHead = (
  into: Buffer,
  at: number,
  type: number,
  flags: number,
  stream: number,
  payloadBytes: number,
): void => {
  into[at] = payloadBytes >>> 16
  into[at + 1] = payloadBytes >>> 8
  into[at + 2] = payloadBytes
  into[at + 3] = type
  into[at + 4] = flags
  into[at + 5] = stream >>> 24
  into[at + 6] = stream >>> 16
  into[at + 7] = stream >>> 8
  into[at + 8] = stream
}
