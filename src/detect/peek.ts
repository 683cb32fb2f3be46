import type { Duplex } from 'node:stream'
import type { Clock } from '../net/clock.ts'
import { type Detection, detect } from './detect.ts'

export interface PeekOptions {
  readonly timeoutMs: number
  readonly maxBytes: number
  readonly clock: Clock
  /** Subscribes to the server's first bytes, where it is listened to already, and returns how to unsubscribe.
   *  Never calls back while subscribing. */
  readonly serverSpoke?: (spoke: () => void) => () => void
  /** Gives up: the bytes are put back and the promise rejects with the signal's reason. */
  readonly signal?: AbortSignal
}

export interface Peeked {
  readonly detection: Detection
  /** To go on with: as if nobody had read from it. */
  readonly stream: Duplex
  /** Bytes of the client that the decision was taken on. */
  readonly head: number
  /** These bytes: a view, good until the stream is read. */
  readonly bytes: Uint8Array
  readonly ms: number
}

/**
 * Reads from a client until it is sure what is spoken, and puts every byte back in the tick that read them, because
 * nothing can be put back once the stream's 'end' has been emitted. Leaves no listener behind.
 *
 * When the client closed without a byte its 'end' may have been emitted already: `stream.readableEnded` says so.
 */
export const peek = (stream: Duplex, options: PeekOptions): Promise<Peeked> => {
  const { clock, signal, maxBytes } = options
  const start = clock.now()
  let held: Buffer | undefined

  const look = (clientClosed: boolean, serverSpoke: boolean, timeUp: boolean): Detection | undefined => {
    const answer = detect(held ?? NOTHING, { clientClosed, serverSpoke, timeUp }, { maxBytes })
    return answer.is === 'yes' ? answer.value : undefined
  }
  const peeked = (detection: Detection): Peeked => {
    if (held !== undefined && !stream.destroyed) stream.unshift(held)
    const bytes = held ?? NOTHING
    return { detection, stream, head: bytes.length, bytes, ms: clock.now() - start }
  }

  if (signal?.aborted) return Promise.reject(signal.reason)
  if (stream.destroyed || stream.readableEnded) return Promise.resolve(peeked(closed))
  if (stream.readableLength > 0) {
    held = stream.read() as Buffer
    const detection = look(hasEnded(stream), false, false)
    if (detection !== undefined) return Promise.resolve(peeked(detection))
  }

  return new Promise((resolve, reject) => {
    let isSettled = false
    const settle = (detection: Detection): void => {
      // Bytes that were put back twice would be a request that is sent twice.
      if (isSettled) return
      isSettled = true
      stop()
      resolve(peeked(detection))
    }
    const readable = (): void => {
      // 'readable' with nothing to read is how the end announces itself. Not reading then keeps 'end' from following.
      const ended = stream.readableLength === 0
      if (!ended) {
        const chunk = stream.read() as Buffer
        held = held === undefined ? chunk : Buffer.concat([held, chunk])
      }
      const detection = look(ended || hasEnded(stream), false, false)
      if (detection !== undefined) settle(detection)
    }
    const gone = (): void => settle(closed)
    const spoke = (): void => settle(look(false, true, false)!)
    const timeUp = (): void => settle(look(false, false, true)!)
    const aborted = (): void => {
      isSettled = true
      stop()
      peeked(closed)
      reject(signal!.reason)
    }
    const stop = (): void => {
      stream.off('readable', readable).off('error', gone).off('close', gone).off('end', gone)
      signal?.removeEventListener('abort', aborted)
      stopTimer()
      stopServer?.()
    }
    stream.on('readable', readable).on('error', gone).on('close', gone).on('end', gone)
    signal?.addEventListener('abort', aborted)
    const stopTimer = clock.after(options.timeoutMs, timeUp)
    const stopServer = options.serverSpoke?.(spoke)
  })
}

const NOTHING = new Uint8Array()
const closed: Detection = { protocol: 'opaque', because: 'closed' }

/**
 * Whether the client's end waits behind the bytes just read. Node keeps this to itself: without it the end would be
 * emitted before the next chance to put the bytes back.
 */
const hasEnded = (stream: Duplex): boolean =>
  (stream as unknown as { _readableState: { ended: boolean } })._readableState.ended
