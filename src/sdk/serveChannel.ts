import {
  constants,
  createServer,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2'
import type { Duplex } from 'node:stream'
import { PING_PATH } from '../callback/wire.ts'
import type { Clock } from '../net/clock.ts'
import { answerPing, type Pinging } from './answerPing.ts'
import { heartbeat } from './heartbeat.ts'
import type { Channel } from './keepChannel.ts'
import type { Timing } from './timing.ts'

const WINDOW_BYTES = 1_048_576 // of a stream: a gigabit at 8 ms; Node's 64 KiB would be one at half a millisecond
const SESSION_WINDOW_BYTES = 16_777_216
const SESSION_MEMORY_MB = 512 // what Node lets a session hold before it refuses streams; ours are bounded by windows
const STREAMS_MAX = 1_000 // at once; the proxy queues the others
const NOTICE_MS = 1_000 // the longest that "no more calls" may take to the proxy; calls that crossed it are served
const LAST_STREAM = 2 ** 31 - 1

/** One call from the proxy, as node:http2 tells it; `rawHeaders` keeps order and repetitions. */
export interface Call {
  readonly stream: ServerHttp2Stream
  readonly headers: IncomingHttpHeaders
  readonly flags: number
  readonly rawHeaders: readonly string[]
}

/** Serves the calls of channels. */
export interface Handle {
  readonly call: (call: Call) => void
  /** A channel began; what is returned runs at its end. */
  readonly opened?: (session: ServerHttp2Session) => void
  /** Whether the app takes extended CONNECT (RFC 8441): WebSockets. */
  readonly extendedConnect: boolean
}

/** A channel at its app's end. */
export interface Served {
  readonly channel: Channel
  /** The proxy has opened Ping and has had our first message there. */
  readonly pinged: Promise<void>
  destroy(): void
}

interface Serving {
  readonly handle: Handle
  readonly clock: Clock
  readonly timing: Timing
  readonly bytesRead: () => number
}

/** Serves HTTP/2 on a connection that we dialled, until either side ends it. */
export const serveChannel = (connection: Duplex, { handle, clock, timing, bytesRead }: Serving): Served => {
  const session = sessionOn(connection, handle.extendedConnect)
  const pings = new Set<Pinging>()
  const leaving = outcome<string>()
  const ended = outcome<string>()
  const pinged = outcome<void>()
  let because = 'the proxy closed the connection'
  let calls = 0
  let isLeaving = false
  let isLeft = false

  let stopBeating = () => {}
  /** From the first Ping on: until then there is the limit for that. */
  const startBeating = () => {
    stopBeating = heartbeat({
      clock,
      periodMs: timing.pingMs,
      beat: () => beat(session),
      heard: bytesRead,
      dead: () => {
        because = 'the proxy is silent: two PINGs were not answered'
        session.destroy()
      },
    })
  }

  const settle = () => {
    if (!isLeft || calls > 0) return
    for (const ping of pings) ping.finish()
    session.close()
  }

  /** A connection that breaks ends its streams first. */
  const pingEnded = () => setImmediate(() => session.destroyed || leaving.settle('the proxy ended Ping'))

  const streamOpened = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, flags: number, raw: unknown) => {
    if (headers[':path'] === PING_PATH) {
      const ping = answerPing(stream, clock, timing.pingMs, pingEnded)
      if (pings.size === 0) {
        stopBeating()
        startBeating()
      }
      pings.add(ping)
      stream.once('close', () => pings.delete(ping))
      beat(session, () => pinged.settle()) // its answer shows that the proxy has our first message, and knows of us
      return
    }
    calls++
    stream.on('error', () => {}) // its call ends with it; the app's own listeners hear of it too
    stream.once('close', () => {
      calls--
      settle()
    })
    handle.call({ stream, headers, flags, rawHeaders: raw as readonly string[] })
  }

  session.on('stream', streamOpened as never)
  session.on('goaway', () => {
    leaving.settle('the proxy asks to leave (GOAWAY)')
    isLeft = true // it will not call here again
    settle()
  })
  session.on('error', (error) => {
    because = `the connection broke: ${error.message}`
  })
  session.once('close', () => {
    stopBeating()
    connection.destroy()
    ended.settle(because)
  })
  handle.opened?.(session)

  /** First it is said that no more calls are taken, then the proxy is given the time to hear it. */
  const leave = () => {
    if (isLeaving || session.destroyed) return
    isLeaving = true
    because = 'we left it'
    const cancelLimit = clock.after(timing.drainMs, () => session.destroy())
    session.once('close', cancelLimit)
    const noticed = () => {
      isLeft = true
      settle()
    }
    const cancelNotice = clock.after(NOTICE_MS, noticed)
    session.goaway(constants.NGHTTP2_NO_ERROR, LAST_STREAM)
    beat(session, () => {
      cancelNotice()
      noticed()
    })
  }

  return {
    channel: { leaving: leaving.promise, ended: ended.promise, leave },
    pinged: pinged.promise,
    destroy: () => session.destroy(),
  }
}

/** A server of its own for each connection: one that never listens. */
const sessionOn = (connection: Duplex, enableConnectProtocol: boolean): ServerHttp2Session => {
  const settings = {
    initialWindowSize: WINDOW_BYTES,
    maxConcurrentStreams: STREAMS_MAX,
    ...(enableConnectProtocol && { enableConnectProtocol }),
  }
  const server = createServer({ settings, maxSessionMemory: SESSION_MEMORY_MB })
  let session: ServerHttp2Session | undefined
  server.once('session', (opened) => (session = opened))
  server.on('sessionError', () => {}) // the session tells it too
  server.emit('connection', connection)
  session!.setLocalWindowSize(SESSION_WINDOW_BYTES)
  return session!
}

const beat = (session: ServerHttp2Session, answered: () => void = () => {}): void => {
  if (!session.destroyed) session.ping((error) => error === null && answered())
}

/** A promise, and the function that settles it: once, the others are ignored. */
const outcome = <T>(): { readonly promise: Promise<T>; readonly settle: (value: T) => void } => {
  let settle: (value: T) => void = () => {}
  const promise = new Promise<T>((resolve) => (settle = resolve))
  return { promise, settle }
}
