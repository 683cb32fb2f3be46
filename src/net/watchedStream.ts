import { Duplex } from 'node:stream'
import { reset } from './relay.ts'

/** What somebody hears who watches a stream. */
export interface Ears {
  /** Bytes that came from the peer. */
  readonly heard: (bytes: Buffer) => void
  /** Bytes that go to the peer. */
  readonly said: (bytes: Buffer) => void
  readonly peerEnded: () => void
  readonly weEnded: () => void
}

/**
 * A stream that is another one, with ears. Everything passes through it, back-pressure, half-close and resets among
 * them, so whoever is given it in place of the other notices nothing, except that it is no socket: bytes pass through
 * Node, by the plain way that a replay takes, too.
 */
export const watchedStream = (inner: Duplex, ears: Ears): Duplex => new WatchedStream(inner, ears)

class WatchedStream extends Duplex {
  readonly #inner: Duplex
  readonly #ears: Ears
  /** Set by what ends TLS above: see net/tls/resettable.ts. */
  resetAndClosing = false
  #written: ((error?: Error) => void) | undefined

  constructor(inner: Duplex, ears: Ears) {
    super({ allowHalfOpen: true })
    this.#inner = inner
    this.#ears = ears
    // Paused first, so that listening does not make it flow.
    inner.pause()
    inner.on('data', (bytes: Buffer) => {
      ears.heard(bytes)
      if (!this.push(bytes)) inner.pause()
    })
    inner.on('end', () => {
      ears.peerEnded()
      this.push(null)
    })
    inner.on('error', (error) => this.destroy(error))
    inner.on('close', () => this.destroy())
    inner.on('drain', () => this.#wrote())
  }

  override _read() {
    this.#inner.resume()
  }

  override _write(bytes: Buffer, _encoding: BufferEncoding, done: (error?: Error) => void) {
    this.#ears.said(bytes)
    if (this.#inner.write(bytes)) return done()
    this.#written = done
  }

  override _final(done: (error?: Error | null) => void) {
    this.#ears.weEnded()
    this.#inner.end(() => done())
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void) {
    if (this.resetAndClosing) reset(this.#inner)
    else this.#inner.destroy()
    this.#wrote()
    done(error)
  }

  /** As a socket does it. */
  resetAndDestroy() {
    this.resetAndClosing = true
    return this.destroy()
  }

  #wrote() {
    const done = this.#written
    this.#written = undefined
    done?.()
  }
}
