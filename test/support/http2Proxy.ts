import { once } from 'node:events'
import {
  type ClientHttp2Session,
  connect as connectHttp2,
  type Http2Server,
  type IncomingHttpHeaders,
} from 'node:http2'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import type { Test } from 'tap'
import { HTTP2_LIMITS, type Http2Limits } from '../../src/codec/http2State.ts'
import type { Open } from '../../src/forward/exchange.ts'
import { type Http2Face, type Http2Serving, serveHttp2 } from '../../src/forward/http2Server.ts'
import { Http2Upstream } from '../../src/forward/http2Upstream.ts'
import { HTTP2_TIMES, type Http2Times } from '../../src/forward/http2Wire.ts'
import { reply } from '../../src/forward/reply.ts'
import { type Clock, systemClock } from '../../src/net/clock.ts'

/** Listens on a port of its own for the time of a test. */
export const listening = async (t: Test, server: Server | Http2Server): Promise<number> => {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return (server.address() as AddressInfo).port
}

export interface ProxyOptions {
  readonly limits?: Partial<Http2Limits>
  readonly times?: Partial<Http2Times>
  readonly clock?: Clock
  /** Instead of the upstream at the port. */
  readonly open?: Open
}

export interface Http2Proxy {
  readonly port: number
  readonly servings: Http2Serving[]
  /** How each client-facing connection ended: its ending, and the code of its error. */
  readonly endings: string[]
  readonly upstreams: Http2Upstream[]
  readonly count: { sent: number; received: number }
}

/** HTTP/2 in, HTTP/2 out, one upstream connection after another, and no policy. */
export const http2Proxy = async (t: Test, upstreamPort: number, options: ProxyOptions = {}): Promise<Http2Proxy> => {
  const upstreams: Http2Upstream[] = []
  const limits = { ...HTTP2_LIMITS, extendedConnect: true, ...options.limits }
  const times = { ...HTTP2_TIMES, ...options.times }
  const clock = options.clock ?? systemClock
  const sockets = new Set<Socket>()
  const own = (socket: Socket): Socket => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    return socket
  }
  const dialled = (): Http2Upstream => {
    const socket = own(connect({ port: upstreamPort, host: '127.0.0.1', noDelay: true, allowHalfOpen: true }))
    const upstream = new Http2Upstream(socket, { limits, times, clock }, { freed() {}, ended() {} })
    upstreams.push(upstream)
    return upstream
  }
  const open: Open = (head, last, answer) =>
    (upstreams.findLast((upstream) => upstream.room() > 0) ?? dialled()).open(head, last, answer)
  const servings: Http2Serving[] = []
  const endings: string[] = []
  const count = { sent: 0, received: 0 }
  const face: Http2Face = {
    open: options.open ?? open,
    refuse: (head, cause, answer) => void reply(head, answer, { cause, isInformed: true }),
    refused() {},
    limits,
    times,
    clock,
    count,
    ended: (how, error) => endings.push(error === undefined ? how : `${how} ${(error as NodeJS.ErrnoException).code}`),
  }
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    servings.push(serveHttp2(own(socket), face))
  })
  const port = await listening(t, server)
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
  })
  return { port, servings, endings, upstreams, count }
}

/** node:http2 as a client. */
export const http2Client = (t: Test, port: number, settings = {}): ClientHttp2Session => {
  const session = connectHttp2(`http://127.0.0.1:${port}`, { settings })
  session.on('error', () => {})
  t.teardown(() => session.destroy())
  return session
}

export interface Reply {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
  readonly trailers: IncomingHttpHeaders
  readonly informations: number[]
  /** The code the stream ended with; 0 for a good end. */
  readonly code: number
}

/** One request by node:http2, and all that came of it. Never rejects. */
export const fetchHttp2 = (
  session: ClientHttp2Session,
  headers: Record<string, string | string[]> = {},
  body?: Buffer | string,
): Promise<Reply> =>
  new Promise((resolve) => {
    const stream = session.request({ ':path': '/', ...headers }, { endStream: body === undefined })
    const chunks: Buffer[] = []
    const informations: number[] = []
    let head: IncomingHttpHeaders = {}
    let trailers: IncomingHttpHeaders = {}
    stream.on('headers', (info: { ':status'?: number }) => informations.push(info[':status'] ?? 0))
    stream.on('response', (found) => (head = found))
    stream.on('trailers', (found: IncomingHttpHeaders) => (trailers = found))
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.on('error', () => {})
    stream.on('close', () =>
      resolve({
        status: Number(head[':status'] ?? 0),
        headers: head,
        body: Buffer.concat(chunks),
        trailers,
        informations,
        code: stream.rstCode ?? 0,
      }),
    )
    if (body !== undefined) stream.end(body)
  })
