import { type ClientHttp2Session, type ClientHttp2Stream, connect, constants } from 'node:http2'
import { connect as dial } from 'node:net'
import { type Address, formatAddress } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import { backoffMs } from './backoff.ts'
import { frameOf, frameReader } from './grpcFrames.ts'

/** How a call ended: the number of gRPC, 0 to 16, and what the server, or we, said about it. */
export interface GrpcStatus {
  readonly code: number
  readonly message: string
  /** The connection failed, not this call: it is opened again by itself when there is one. */
  readonly isConnection: boolean
}

/** The codes that mean something to us. */
export const GRPC = {
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
} as const

/** What a call hears. Nothing after `ended`, nor after it was cancelled. */
export interface Hears {
  readonly message: (bytes: Uint8Array) => void
  readonly ended: (status: GrpcStatus) => void
}

/** One connection to one server, made when there is a call, and made again when it is lost. */
export interface GrpcChannel {
  /**
   * A call with one message from us and any number from the server. It begins as soon as there is a connection; the
   * server has to send its first message within FIRST_MS_MAX from then.
   */
  readonly call: (path: string, request: Uint8Array, hears: Hears) => () => void
  readonly close: () => void
}

const CONNECT_MS_MAX = 5_000
const FIRST_MS_MAX = 3_000 // a control plane answers at once, if only that there is nothing
const PAUSE = { minMs: 100, maxMs: 10_000 } // between attempts to connect
const KEEPALIVE_MS = 10_000 // the kernel asks a silent host for a sign of life; ten without an answer end it
const PING_MS = 330_000 // servers of gRPC hang up on those who ping more often than every five minutes
const PING_ANSWER_MS_MAX = 10_000

interface Call {
  readonly path: string
  readonly request: Uint8Array
  readonly hears: Hears
  stream: ClientHttp2Stream | undefined
  cancelWait: () => void
}

/** Opens nothing yet. `reconnected` is told each time a connection takes the place of one that was lost, or failed. */
export const grpcChannel = (
  server: Address,
  clock: Clock,
  random: () => number,
  reconnected: () => void,
): GrpcChannel => {
  const calls = new Set<Call>()
  let session: ClientHttp2Session | undefined
  let isReady = false
  /** When the server last gave a sign of life. */
  let heardAt = 0
  /** What is to be done when the server answers a PING. */
  const probing = new Set<() => void>()
  let failures = 0
  let cancelRetry: (() => void) | undefined
  let isClosed = false

  const open = (): void => {
    if (session !== undefined || cancelRetry !== undefined || isClosed || calls.size === 0) return
    const own = connect(`http://${formatAddress(server)}`, {
      createConnection: () => dial({ ...server, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEPALIVE_MS }),
    })
    session = own
    let failure = 'the server closed the connection'
    const cancelConnect = clock.after(CONNECT_MS_MAX, () => {
      failure = `no connection within ${CONNECT_MS_MAX} ms`
      own.destroy()
    })
    let cancelPing = (): void => {}
    own.on('error', (error) => (failure = (error as Error).message))
    own.on('connect', () => {
      cancelConnect()
      cancelPing = pinging(own, clock)
      if (failures > 0) reconnected()
      isReady = true
      for (const call of calls) begin(call, own)
    })
    // A server that is about to go finishes its streams; new calls need a new connection, so all move at once.
    own.on('goaway', () => own.destroy())
    own.on('close', () => {
      cancelConnect()
      cancelPing()
      if (session === own) lost(failure)
    })
  }

  const lost = (why: string): void => {
    session = undefined
    isReady = false
    probing.clear()
    failures++
    if (isClosed) return
    cancelRetry = clock.after(backoffMs(failures, PAUSE, random), () => {
      cancelRetry = undefined
      open()
    })
    const message = `${formatAddress(server)}: ${why}`
    for (const call of [...calls]) finish(call, { code: GRPC.unavailable, message, isConnection: true })
  }

  const finish = (call: Call, status: GrpcStatus): void => {
    if (!calls.delete(call)) return
    call.cancelWait()
    call.stream?.close(constants.NGHTTP2_CANCEL)
    call.hears.ended(status)
  }

  /** Asks whether a silent server is still there: calls wait for its answer, and without one the connection ends. */
  const probe = (on: ClientHttp2Session, message: string, alive: () => void): void => {
    if (on.destroyed) return
    probing.add(alive)
    if (probing.size > 1) return
    const cancel = clock.after(FIRST_MS_MAX, () => on.destroy(new Error(message)))
    on.ping((error) => {
      cancel()
      const waiting = [...probing]
      probing.clear()
      if (error !== null) return
      heardAt = clock.now()
      for (const each of waiting) each()
    })
  }

  const begin = (call: Call, on: ClientHttp2Session): void => {
    if (on.destroyed || on.closed) return
    const stream = on.request({
      ':method': 'POST',
      ':path': call.path,
      'content-type': 'application/grpc',
      te: 'trailers',
      'user-agent': 'sluice',
    })
    call.stream = stream
    const begunAt = clock.now()
    call.cancelWait = clock.after(FIRST_MS_MAX, () => {
      const message = `${formatAddress(server)} did not answer within ${FIRST_MS_MAX} ms`
      const timedOut = (): void => finish(call, { code: GRPC.deadlineExceeded, message, isConnection: false })
      // Whoever says nothing to anybody may not be there any more, whatever the connection looks like.
      if (heardAt < begunAt) probe(on, message, timedOut)
      else timedOut()
    })
    const frames = frameReader()
    let status: GrpcStatus | undefined
    const heard = (): number => (heardAt = clock.now())
    const read = (headers: Readonly<Record<string, unknown>>): void => {
      const found = statusIn(headers)
      if (found !== undefined) status = found
    }
    const fail = (message: string): void =>
      finish(call, { code: GRPC.internal, message: `${formatAddress(server)}: ${message}`, isConnection: false })
    const messagesIn = (bytes: Uint8Array): readonly Uint8Array[] => {
      try {
        return frames.push(bytes)
      } catch (error) {
        fail((error as Error).message)
        return []
      }
    }
    stream.on('response', (headers) => {
      heard()
      if (headers[':status'] !== 200) return fail(`HTTP status ${headers[':status']}`)
      failures = 0
      return read(headers)
    })
    stream.on('trailers', read)
    stream.on('data', (bytes: Uint8Array) => {
      heard()
      for (const message of messagesIn(bytes)) {
        call.cancelWait()
        // What one message leads to may cancel the call.
        if (calls.has(call)) call.hears.message(message)
      }
    })
    let failure = 'the call ended without a status'
    stream.on('error', (error) => (failure = error.message))
    stream.on('close', () => {
      // When the connection is lost, that is what all its calls hear.
      if (on.destroyed || session !== on) return
      if (status !== undefined) finish(call, status)
      else fail(failure)
    })
    stream.end(frameOf(call.request))
  }

  return {
    call: (path, request, hears) => {
      const call: Call = { path, request, hears, stream: undefined, cancelWait: () => {} }
      calls.add(call)
      if (isReady && session !== undefined) begin(call, session)
      else open()
      return () => {
        calls.delete(call)
        call.cancelWait()
        call.stream?.close(constants.NGHTTP2_CANCEL)
      }
    },
    close: () => {
      isClosed = true
      cancelRetry?.()
      for (const { cancelWait } of calls) cancelWait()
      calls.clear()
      session?.destroy()
    },
  }
}

/** The status of a call, in its trailers, or in headers that are trailers as well. */
const statusIn = (headers: Readonly<Record<string, unknown>>): GrpcStatus | undefined => {
  const code = headers['grpc-status']
  if (typeof code !== 'string' || !/^\d{1,2}$/.test(code)) return undefined
  return { code: Number(code), message: percentDecoded(String(headers['grpc-message'] ?? '')), isConnection: false }
}

const MESSAGE_LETTERS_MAX = 300 // it goes into a log line

const percentDecoded = (text: string): string => {
  const cut = text.slice(0, MESSAGE_LETTERS_MAX)
  try {
    return decodeURIComponent(cut)
  } catch {
    return cut
  }
}

/** Asks now and then whether the server is still there, and ends the connection when it does not answer. */
const pinging = (session: ClientHttp2Session, clock: Clock): (() => void) => {
  let cancel = (): void => {}
  const ping = (): void => {
    if (session.destroyed) return
    const cancelWait = clock.after(PING_ANSWER_MS_MAX, () => session.destroy())
    session.ping(cancelWait)
    cancel = clock.after(PING_MS, ping)
  }
  cancel = clock.after(PING_MS, ping)
  return () => cancel()
}
