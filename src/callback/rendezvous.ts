import { timingSafeEqual } from 'node:crypto'
import { createServer, type Server, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { type Address, formatAddress, unmapped } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import { CHANNEL_MAGIC } from './wire.ts'

/** Where an app is expected to connect its channel, and by what it is known. */
export interface Expected {
  /** Where we listen; port 0 takes a free one. */
  readonly at: Address
  /** The only address that is let in: of whoever asked. */
  readonly peer: string
  /** What it must send first, where it can. */
  readonly nonce: Buffer | undefined
  readonly ms: number
}

/** What comes of those who connect. */
export interface Guests {
  readonly clock: Clock
  /** Ends TLS, where it is configured; undefined when that fails. */
  readonly secure: (
    socket: Socket,
  ) => Promise<{ readonly stream: Duplex; readonly identity: string | null } | undefined>
  /**
   * One that has passed what can be asked of it. Without a nonce others may come until it has spoken HTTP/2: the owner
   * then calls `close`.
   */
  readonly came: (guest: Guest) => void
  /** One that was not let in. */
  readonly refused: (why: Refusal, from: Address) => void
  /** Nobody came in time. */
  readonly missed: () => void
}

export interface Guest {
  readonly stream: Duplex
  readonly peer: Address
  readonly identity: string | null
}

export type Refusal = 'wrongPeer' | 'wrongNonce' | 'tlsFailed' | 'tooMany'

/** A listener for one app. */
export interface Rendezvous {
  readonly address: Address
  /** Stops listening; what was let in lives on, all others are closed. */
  readonly close: () => void
}

/** Of those that nobody has let in yet; whoever connects and says nothing must not keep the right one out. */
const GUESTS_MAX = 16

/**
 * Listens for the one who was told the port, for so long. Whoever else connects gets not a byte, and keeps nobody out.
 * Rejects with the system's error when it cannot listen.
 */
export const listenForApp = (expected: Expected, guests: Guests): Promise<Rendezvous> =>
  new Promise((resolve, reject) => {
    const { at, peer, nonce, ms } = expected
    const unknown = new Set<Socket>()
    let isOver = false

    const close = (): void => {
      if (isOver) return
      isOver = true
      cancelTimer()
      server.close()
      for (const socket of unknown) socket.destroy()
    }
    const cancelTimer = guests.clock.after(ms, () => {
      if (isOver) return
      close()
      guests.missed()
    })

    const judge = async (socket: Socket, from: Address): Promise<Guest | Refusal | undefined> => {
      if (from.host !== peer) return 'wrongPeer'
      const secured = await guests.secure(socket)
      if (secured === undefined) return 'tlsFailed'
      const { stream, identity } = secured
      stream.on('error', () => {}) // a stream without an error listener kills the process
      if (nonce !== undefined && !(await beginsWith(stream, Buffer.concat([CHANNEL_MAGIC, nonce])))) return 'wrongNonce'
      return stream.destroyed ? undefined : { stream, peer: from, identity }
    }

    const connected = (socket: Socket): void => {
      socket.on('error', () => {})
      const from = { host: unmapped(socket.remoteAddress ?? ''), port: socket.remotePort ?? 0 }
      unknown.add(socket)
      if (unknown.size > GUESTS_MAX) {
        const [oldest] = unknown
        unknown.delete(oldest!)
        oldest!.destroy()
        guests.refused('tooMany', from)
      }
      void judge(socket, from).then((judged) => {
        // Closed since, or pushed out: it does not count as having been refused.
        if (!unknown.delete(socket) || isOver) return socket.destroy()
        if (typeof judged !== 'object') {
          socket.destroy()
          if (judged !== undefined) guests.refused(judged, from)
          return
        }
        if (nonce !== undefined) close()
        guests.came(judged)
      })
    }

    const server: Server = createServer({ noDelay: true, allowHalfOpen: true }, connected)
    server.once('error', (error: NodeJS.ErrnoException) => {
      cancelTimer()
      isOver = true
      reject(new Error(`cannot listen on ${formatAddress(at)} for a channel: ${error.code}`))
    })
    server.listen({ host: at.host, port: at.port, ipv6Only: true }, () => {
      server.on('error', () => {})
      const { address, port } = server.address() as { address: string; port: number }
      resolve({ address: { host: address, port }, close })
    })
  })

/**
 * Reads as many bytes as `secret` has and puts back what follows them. False as soon as something else than the magic
 * comes, and when the stream ends before; the nonce is compared as a whole, in one time.
 */
const beginsWith = (stream: Duplex, secret: Buffer): Promise<boolean> =>
  new Promise((resolve) => {
    let held = Buffer.alloc(0)
    const settle = (is: boolean): void => {
      stream.off('readable', readable).off('end', gone).off('close', gone).off('error', gone)
      resolve(is)
    }
    const gone = (): void => settle(false)
    const readable = (): void => {
      const chunk = stream.read() as Buffer | null
      if (chunk === null) return
      held = Buffer.concat([held, chunk])
      if (!CHANNEL_MAGIC.subarray(0, held.length).equals(held.subarray(0, CHANNEL_MAGIC.length))) return settle(false)
      if (held.length < secret.length) return
      if (held.length > secret.length) stream.unshift(held.subarray(secret.length))
      settle(timingSafeEqual(held.subarray(0, secret.length), secret))
    }
    if (stream.destroyed || stream.readableEnded) return resolve(false)
    stream.on('readable', readable).on('end', gone).on('close', gone).on('error', gone)
    if (stream.readableLength > 0) readable()
  })
