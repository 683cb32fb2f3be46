import { Duplex } from 'node:stream'
import type { Tunnel } from '../forward/channels.ts'
import type { Answer, Asking, RequestHead } from '../forward/exchange.ts'
import type { Waiter } from '../forward/pool.ts'
import { type Address, formatAddress } from '../net/address.ts'
import { codedError } from '../net/codedError.ts'
import { kept } from '../net/direct.ts'

const CANCEL = 8
const NOTHING = Buffer.alloc(0)
const TRIES_MAX = 3 // as for a request: a channel may leave just as we call
const WAITING_BYTES_MAX = 262_144 // written and not yet on its way: then the writer waits

/** Where the client of a tunnel meant to go: for the app to look at, if it likes. */
export const DESTINATION_HEADER = 'sluice-destination'

/**
 * Opens a CONNECT stream (RFC 9113 section 8.5) on a channel: bytes of any kind, with half-close, back-pressure and
 * resets. Rejects when the app does not take it, or when the signal fires.
 */
export const openTunnel = async (
  app: string,
  to: Address,
  signal: AbortSignal,
  acquire: (waiter: Waiter) => () => void,
): Promise<Tunnel> => {
  for (let attempt = 1; ; attempt++) {
    const tried = await tryTunnel(app, to, signal, acquire)
    if (tried.is === 'open') return tried.tunnel
    if (tried.is === 'failed' || attempt === TRIES_MAX) throw tried.error
  }
}

/** `again`: the channel went before the app had said anything. */
type Tried =
  | { readonly is: 'open'; readonly tunnel: Tunnel }
  | { readonly is: 'failed' | 'again'; readonly error: Error }

const tryTunnel = (
  app: string,
  to: Address,
  signal: AbortSignal,
  acquire: (waiter: Waiter) => () => void,
): Promise<Tried> =>
  new Promise((resolve) => {
    const head: RequestHead = {
      method: 'CONNECT',
      scheme: '',
      authority: app,
      target: app,
      version: '2',
      fields: [DESTINATION_HEADER, formatAddress(to)],
    }
    let stop = (): void => {}
    const settle = (tried: Tried): void => {
      signal.removeEventListener('abort', giveUp)
      resolve(tried)
    }
    const giveUp = (): void => {
      stop()
      settle({ is: 'failed', error: codedError('ABORT_ERR', 'the tunnel was given up') })
    }
    if (signal.aborted) return giveUp()
    signal.addEventListener('abort', giveUp, { once: true })
    stop = acquire({
      failed: (error) => settle({ is: 'failed', error }),
      ready: (upstream) => {
        const tunnel = new TunnelStream()
        const waiting: Answer = {
          information: () => {},
          head: ({ status }, last) => {
            if (status < 300 && !last) {
              tunnel.isOpen = true
              return settle({ is: 'open', tunnel: { stream: tunnel, channel: upstream.channel! } })
            }
            tunnel.destroy()
            const error = codedError('CHANNEL_REFUSED', `the app answered the CONNECT with status ${status}`)
            settle({ is: 'failed', error })
          },
          data: (chunk, last) => tunnel.came(chunk, last),
          trailers: () => tunnel.came(NOTHING, true),
          consumed: (bytes) => tunnel.left(bytes),
          abort: (_, why) => {
            const error = codedError('ECONNRESET', 'the app reset the stream')
            tunnel.destroy(tunnel.isOpen ? error : undefined)
            settle({ is: why === undefined || why === 'malformed' ? 'failed' : 'again', error })
          },
        }
        tunnel.asking = upstream.open(head, false, waiting)
        stop = () => tunnel.destroy()
      },
    })
  })

/** A stream over one CONNECT. */
class TunnelStream extends Duplex {
  asking: Asking | undefined
  isOpen = false
  #unread = 0
  #unsent = 0
  #written: (() => void) | undefined
  #isOver = false

  constructor() {
    super({ allowHalfOpen: true })
    this.on('error', () => {}) // whoever relays it attaches its own; this one is for the time until then
  }

  /** From the app. What the reader does not take at once is not acknowledged before it does. */
  came(chunk: Buffer, last: boolean): void {
    if (this.destroyed) return
    this.#unread += chunk.length
    if (chunk.length > 0 && this.push(kept(chunk))) this.#acknowledge()
    if (!last) return
    this.push(null)
  }

  /** So much of what was written has left. */
  left(bytes: number): void {
    this.#unsent -= bytes
    if (this.#written === undefined || this.#unsent > WAITING_BYTES_MAX) return
    const written = this.#written
    this.#written = undefined
    written()
  }

  #acknowledge(): void {
    const bytes = this.#unread
    this.#unread = 0
    if (bytes > 0) this.asking?.consumed(bytes)
  }

  override _read(): void {
    this.#acknowledge()
  }

  override _write(chunk: Buffer, _: string, written: () => void): void {
    this.#unsent += chunk.length
    this.asking?.data(chunk, false)
    if (this.#unsent <= WAITING_BYTES_MAX) written()
    else this.#written = written
  }

  override _final(done: () => void): void {
    this.asking?.data(NOTHING, true)
    done()
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    if (!this.#isOver) this.asking?.abort(CANCEL)
    this.#isOver = true
    done(error)
  }
}
