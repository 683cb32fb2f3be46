import type { IncomingHttpHeaders } from 'node:http2'
import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import { unanswered } from './http1Calls.ts'
import { joinStreams } from './joinStreams.ts'
import type { Call } from './serveChannel.ts'
import { endWith } from './streamEnd.ts'

/** Opaque TCP that came over the channel. */
export interface Connect {
  /** Where its caller wanted to go, `address:port`; for a proxy that does not say, the authority of the CONNECT. */
  readonly destination: string
  readonly headers: IncomingHttpHeaders
}

/** What takes the bytes of a CONNECT: a function, or a port that listens. */
export type TcpTarget =
  | ((stream: Duplex, to: Connect) => void)
  | { readonly host?: string | undefined; readonly port: number }

/** Carries CONNECT streams (RFC 9113 section 8.5) to the target. */
export const connectCalls =
  (target: TcpTarget | undefined) =>
  ({ stream, headers }: Call): void => {
    if (target === undefined) return unanswered(stream, 501, 'this app takes no TCP, only HTTP')
    if (typeof target === 'function') {
      stream.respond({ ':status': 200 }, { waitForTrailers: true })
      endWith(stream, () => ({}))
      return target(stream, { destination: `${headers['sluice-destination'] ?? headers[':authority'] ?? ''}`, headers })
    }
    const { host = '127.0.0.1', port } = target
    const socket = connect({ host, port, allowHalfOpen: true, noDelay: true })
    const refused = (error: NodeJS.ErrnoException) =>
      unanswered(stream, error.code === 'ECONNREFUSED' ? 503 : 502, `the app at ${host}:${port}: ${error.message}`)
    socket.once('error', refused)
    stream.once('close', () => socket.connecting && socket.destroy())
    socket.once('connect', () => {
      socket.off('error', refused)
      if (stream.destroyed || stream.closed) return void socket.destroy()
      stream.respond({ ':status': 200 }, { waitForTrailers: true })
      joinStreams(stream, socket)
    })
  }
