import { chunkText, lastChunkText } from '../codec/http1Write.ts'
import type { Fields } from './exchange.ts'
import type { Output } from './output.ts'

/** How a body is delimited (RFC 9112 section 6). `close`: by the end of the connection, as a tunnel is too. */
export type Delimiting = 'none' | 'length' | 'chunked' | 'close'

/** Writes the bodies of the messages of one HTTP/1 connection, each as its head said. */
export class BodyWriter {
  readonly #output: Output
  #delimiting: Delimiting = 'none'
  #left = 0

  constructor(output: Output) {
    this.#output = output
  }

  /** The head of the next message was written; `bytes`: its length, where it said one. */
  begin(delimiting: Delimiting, bytes = 0) {
    this.#delimiting = delimiting
    this.#left = bytes
  }

  /** False, and nothing is written, where it is more than was announced: that would be read as another message. */
  write(chunk: Buffer): boolean {
    const output = this.#output
    switch (this.#delimiting) {
      case 'chunked':
        output.text(chunkText(chunk.length))
        output.bytes(chunk)
        output.text('\r\n')
        return true
      case 'length':
        this.#left -= chunk.length
        if (this.#left < 0) return false
        output.bytes(chunk)
        return true
      case 'close':
        output.bytes(chunk)
        return true
      default:
        return false
    }
  }

  /** Ends the message; false where it is less than was announced. Only chunks can be followed by trailers. */
  end(trailers: Fields): boolean {
    if (this.#delimiting === 'chunked') this.#output.text(lastChunkText(trailers))
    return this.#delimiting !== 'length' || this.#left === 0
  }
}
