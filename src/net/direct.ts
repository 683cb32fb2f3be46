import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { faulted } from './fault.ts'

/**
 * A plain socket that may be read and written without the streams of Node in between. Node allocates 64 KiB for every
 * read of a stream, and a write of one makes a request object and two turns of the microtask queue: together more than a
 * third of what a small HTTP request costs outside of the kernel.
 */
export interface Direct {
  /** Gives bytes to the system at once: how many it took of both, or minus errno. Only while the stream holds none. */
  readonly send: (first: Buffer, firstBytes: number, second?: Buffer) => number
  /** Who hears what is read; undefined: the stream, as of any socket. */
  reader: ((bytes: Buffer) => void) | undefined
}

/** Large enough that a body is read in few pieces, small enough to stay in the cache of a core. */
const READ_BYTES = 65_536

/** What every direct socket is read into; each read is dealt with before the next one of any socket begins. */
const shared = Buffer.allocUnsafeSlow(READ_BYTES)

const DIRECT = Symbol('direct')
type MayBeDirect = { [DIRECT]?: Direct | undefined }

/** Options for a new socket that is to be direct. Until `makeDirect` is called it is a socket as any other. */
export const DIRECT_READS = {
  onread: {
    buffer: shared,
    callback(this: Socket & MayBeDirect, count: number): boolean {
      const reader = this[DIRECT]?.reader
      if (reader === undefined) return this.push(Buffer.from(shared.subarray(0, count)))
      reader(shared.subarray(0, count))
      return true
    },
  },
} as unknown as { readonly onread: { readonly buffer: Buffer; readonly callback: () => boolean } }

/** A socket that was made with DIRECT_READS can be written directly as well, from now on. */
export const makeDirect = (socket: Socket, send: Direct['send']): void => {
  ;(socket as MayBeDirect)[DIRECT] = { send, reader: undefined }
}

/** The other way to read and write a stream, where it has one. */
export const directOf = (stream: Duplex): Direct | undefined => (stream as MayBeDirect)[DIRECT]

/**
 * Hears every byte of a stream, also those that were put back. The bytes may be those of a buffer that the next read
 * fills: whoever keeps them for longer than the call keeps `kept(bytes)`. If `heard` throws, the stream ends with a Fault.
 */
export const hearBytes = (stream: Duplex, heard: (bytes: Buffer) => void): void => {
  const hear = (bytes: Buffer) => {
    try {
      heard(bytes)
    } catch (error) {
      faulted(stream, error)
    }
  }
  const direct = directOf(stream)
  if (direct === undefined) {
    stream.on('data', hear)
    return
  }
  // Not before the stream has given away what it holds.
  const waiting = (bytes: Buffer) => {
    hear(bytes)
    if (stream.readableLength === 0 && stream.listeners('data').includes(waiting)) direct.reader = hear
  }
  direct.reader = undefined
  stream.on('data', waiting)
  if (stream.readableLength === 0) direct.reader = hear
}

/** Whoever heard the bytes of this stream hears no more. */
export const stopHearing = (stream: Duplex): void => {
  const direct = directOf(stream)
  if (direct !== undefined) direct.reader = undefined
  stream.removeAllListeners('data')
}

/** These bytes, to be kept for longer than the call that brought them. */
export const kept = (bytes: Buffer): Buffer => (bytes.buffer === shared.buffer ? Buffer.from(bytes) : bytes)
