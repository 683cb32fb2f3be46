import { FLAG, FRAME, FRAME_HEAD_BYTES } from './http2Codes.ts'

const FIRST_BYTES = 4096
/** A buffer that grew beyond this for a burst is not kept. */
const KEPT_BYTES_MAX = 262_144

/**
 * The one output buffer of a connection. Frames are written into it, and whoever owns the socket takes all of them at
 * once. A buffer given back after the socket is done with it is used again.
 */
export class Http2Output {
  /** Valid until the next call of `reserve`. */
  buffer: Buffer = Buffer.allocUnsafeSlow(FIRST_BYTES)
  /** How much of the buffer is written. Whoever writes into it moves this. */
  length = 0
  /** The buffer that `take` handed out last, and one that came back. */
  #lent: Buffer | undefined
  #spare: Buffer | undefined

  /** Makes room for so many bytes more. */
  reserve(bytes: number): void {
    if (this.length + bytes <= this.buffer.length) return
    const larger = Buffer.allocUnsafeSlow(Math.max(this.buffer.length * 2, this.length + bytes))
    this.buffer.copy(larger, 0, 0, this.length)
    this.buffer = larger
  }

  /** Everything written since the last time. The bytes are the taker's, unless it gives them back. */
  take(): Buffer {
    const taken = this.buffer.subarray(0, this.length)
    this.#lent = this.buffer
    this.buffer = this.#spare ?? Buffer.allocUnsafeSlow(Math.min(this.buffer.length, KEPT_BYTES_MAX))
    this.#spare = undefined
    this.length = 0
    return taken
  }

  /** Nobody looks any longer at what `take` returned last. */
  giveBack(): void {
    if (this.#lent !== undefined && this.#lent.length <= KEPT_BYTES_MAX) this.#spare = this.#lent
    this.#lent = undefined
  }

  /** A frame's first nine bytes (RFC 9113 4.1); there is room for its payload too. */
  frame(type: number, flags: number, stream: number, payloadBytes: number): void {
    this.reserve(FRAME_HEAD_BYTES + payloadBytes)
    writeFrameHead(this.buffer, this.length, type, flags, stream, payloadBytes)
    this.length += FRAME_HEAD_BYTES
  }

  bytes(bytes: Uint8Array): void {
    this.reserve(bytes.length)
    this.buffer.set(bytes, this.length)
    this.length += bytes.length
  }

  data(stream: number, bytes: Uint8Array, last: boolean): void {
    this.frame(FRAME.data, last ? FLAG.endStream : 0, stream, bytes.length)
    this.bytes(bytes)
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
    this.bytes(payload)
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
