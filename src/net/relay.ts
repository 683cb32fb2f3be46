import type { Duplex } from 'node:stream'
import type { Clock } from './clock.ts'
import type { Ending, Traffic } from './traffic.ts'

const LINGER_MS = 200 // a few round trips: enough for the last bytes before a RST, short enough to hold a dead pair

/** What bounds a relay, and where it reports while it runs. */
export interface RelayOptions {
  readonly clock: Clock
  /** Milliseconds without a byte in either direction. */
  readonly idleMs: number
  /** Milliseconds without a byte once one side has said goodbye: its peer may be gone for good (linkerd #5180). */
  readonly halfClosedMs: number
  /** Live byte counts: the relay adds to them. */
  readonly count: { sent: number; received: number }
  /** Is given a function that ends the relay early, for drain and policy changes; and, by a relay which does not keep
   *  `count` up to date by itself, one that does it now. */
  readonly onCloser?: (close: (why: Ending) => void, recount?: () => void) => void
}

const GENTLE: ReadonlySet<Ending> = new Set(['closed', 'idleTimeout', 'halfClosedTimeout'])

/** Moves bytes both ways until both sides have said goodbye. There are two: this one, and the pump of the shim. */
export type Relay = (client: Duplex, upstream: Duplex, options: RelayOptions) => Promise<Traffic>

/**
 * Moves bytes both ways until both sides have said goodbye. Keeps half-close, back-pressure and resets: an end is passed
 * on as an end, a reset as a reset (RFC 9293 section 3.5.2) once the bytes before it are flushed. Both streams are
 * destroyed when it resolves. Never rejects.
 */
export const relay: Relay = (client, upstream, options) =>
  new Promise((resolve) => {
    const { clock, count } = options
    let lastByteAt = clock.now()
    let over = false
    let cancelTimer = () => {}

    const finish = (ended: Ending, error?: Error) => {
      if (over) return
      over = true
      cancelTimer()
      // What is cut off from outside ends in a reset: a goodbye would tell its reader that all of it had come.
      const close = GENTLE.has(ended) ? (stream: Duplex) => stream.destroy() : reset
      close(client)
      close(upstream)
      resolve({ sent: count.sent, received: count.received, ended, ...(error && { error: described(error) }) })
    }

    const forward = (from: Duplex, to: Duplex, add: (bytes: number) => void, lost: Ending) => {
      from.on('data', (chunk: Buffer) => {
        lastByteAt = clock.now()
        add(chunk.length)
        if (to.writable && !to.write(chunk)) from.pause()
      })
      to.on('drain', () => from.resume())
      const ended = () => {
        lastByteAt = clock.now()
        if (to.writable) to.end()
        watch()
        settle()
      }
      // A client that said goodbye while it was being looked at does not say so again.
      if (from.readableEnded) queueMicrotask(ended)
      else from.on('end', ended)
      to.on('finish', settle)
      from.on('error', (error: Error) => broke(from, to, lost, error))
      from.on('close', () => broke(from, to, lost))
    }

    /** Both directions have ended and are flushed: the connection ended well. */
    const settle = () => {
      const done = (stream: Duplex) => stream.readableEnded && (stream.writableFinished || stream.destroyed)
      if (done(client) && done(upstream)) finish('closed')
    }

    /** One side is gone for good. What it had sent still reaches the other side, then the other side learns of it. */
    const broke = (side: Duplex, other: Duplex, lost: Ending, error?: Error) => {
      if (over) return
      if (side.readableEnded && side.writableFinished) return settle()
      const end = () => finish(lost, error ?? side.errored ?? undefined)
      // A goodbye came before the reset: a RST now could overtake the last bytes, so the kernel gets time to send them.
      const endLater = () => (side.readableEnded ? clock.after(LINGER_MS, end) : end())
      if (other.destroyed || (other.writableLength === 0 && !other.writableNeedDrain)) return void endLater()
      other.once(other.writableEnded ? 'finish' : 'drain', endLater)
      other.once('close', end)
    }

    /** Timers are checked, not reset at each byte. */
    const watch = () => {
      if (over) return
      cancelTimer()
      const halfClosed = client.readableEnded || upstream.readableEnded
      const limit = halfClosed ? Math.min(options.halfClosedMs, options.idleMs) : options.idleMs
      const left = lastByteAt + limit - clock.now()
      if (left <= 0) return finish(halfClosed && limit === options.halfClosedMs ? 'halfClosedTimeout' : 'idleTimeout')
      cancelTimer = clock.after(left, watch)
    }

    options.onCloser?.((why) => finish(why))
    forward(client, upstream, (bytes) => (count.sent += bytes), 'clientReset')
    forward(upstream, client, (bytes) => (count.received += bytes), 'upstreamReset')
    // Either side may have gone between accept, dial and now; its events are then past.
    if (client.destroyed) broke(client, upstream, 'clientReset')
    else if (upstream.destroyed) broke(upstream, client, 'upstreamReset')
    else watch()
  })

/**
 * Closes with RST where the stream can, so that the peer learns that data may be lost.
 *
 * While its goodbye is on the way libuv refuses to reset a socket (EINVAL), and Node has forgotten the descriptor by
 * then: it would stay open for good, and the process could not end. By then all that was written is with the kernel.
 */
export const reset = (stream: Duplex): void => {
  if (stream.destroyed) return
  const socket = stream as Duplex & { resetAndDestroy?: () => void }
  const isEnding = stream.writableEnded && stream.writableLength === 0 && !stream.writableFinished
  if (socket.resetAndDestroy && !isEnding) socket.resetAndDestroy()
  else stream.destroy()
}

/** An error as an Outcome shows it. */
export const described = (error: Error): { code: string; message: string } => ({
  code: (error as NodeJS.ErrnoException).code ?? error.name,
  message: error.message,
})
