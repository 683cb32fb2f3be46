import { Agent, Server as HttpServer } from 'node:http'
import type { Http2SecureServer, Http2Server, ServerHttp2Session } from 'node:http2'
import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import { Server as TlsServer } from 'node:tls'
import { connectCalls, type TcpTarget } from './connectCalls.ts'
import { http1Calls } from './http1Calls.ts'
import { http2Calls } from './http2Calls.ts'
import { memoryConnection } from './memoryConnection.ts'
import type { Call, Handle } from './serveChannel.ts'

/** Less than any server leaves a connection idle before it closes it: of those in use, gunicorn's 2 s is the shortest. */
const IDLE_MS = 1_000
const IDLE_CONNECTIONS_MAX = 64

/** What `createConnectionInjector` of a grpc-js server answers. */
export interface GrpcInjector {
  injectConnection(connection: Duplex): void
  drain(graceTimeMs: number): void
  destroy(): void
}

/** An app that listens on its own loopback. */
export interface LocalApp {
  readonly host?: string | undefined
  readonly port: number
  readonly protocol: 'http' | 'h2c'
}

/** The app as it may be given: a server of Node, a grpc-js server's connection injector, or where it listens. */
export type AppServer = HttpServer | Http2Server | Http2SecureServer | GrpcInjector | LocalApp

/** How the calls of a channel reach this app. Throws TypeError when it is none of the kinds above. */
export const appHandle = (app: AppServer, tcp: TcpTarget | undefined): Handle => {
  const connects = connectCalls(tcp)
  const { extendedConnect, call, opened } = callsOf(app)
  const isTunnel = ({ headers }: Call) => headers[':method'] === 'CONNECT' && headers[':protocol'] === undefined
  return {
    extendedConnect,
    call: (each) => (isTunnel(each) ? connects(each) : call(each)),
    ...(opened && { opened }),
  }
}

const callsOf = (app: AppServer): Handle => {
  if ('injectConnection' in app) return grpcHandle(app)
  if (app instanceof HttpServer || isHttps(app)) return httpHandle(app)
  if ('port' in app) return localHandle(app)
  if (isHttp2(app)) return http2Handle(app)
  throw new TypeError(
    'server: expected a node:http or node:http2 server, or the connection injector of a grpc-js server',
  )
}

/** https.Server is a TLS server which speaks HTTP/1; one of node:http2 has `updateSettings`. */
const isHttps = (app: object): app is HttpServer => app instanceof TlsServer && !('updateSettings' in app)
const isHttp2 = (app: object): app is Http2Server => 'updateSettings' in app

/** The server is given an in-memory connection where it expects one of TCP, or, behind TLS, what is inside. */
const httpHandle = (server: HttpServer): Handle => {
  const event = server instanceof TlsServer ? 'secureConnection' : 'connection'
  const agent = new Agent({ keepAlive: true, maxFreeSockets: IDLE_CONNECTIONS_MAX })
  let ends: { remoteAddress: string | undefined; remotePort: number | undefined } | undefined
  agent.createConnection = () => {
    const [client, own] = memoryConnection(ends ?? { remoteAddress: undefined, remotePort: undefined })
    server.emit(event, own)
    return client
  }
  return {
    extendedConnect: true,
    call: http1Calls({ agent, name: 'the app', target: undefined }),
    opened: ({ socket: { remoteAddress, remotePort } }) => {
      ends = { remoteAddress, remotePort }
    },
  }
}

/** Calls are the server's own from the start: its listeners for `stream` or `request` are what node:http2 would run. */
const http2Handle = (server: Http2Server): Handle => ({
  extendedConnect: false,
  opened: (session: ServerHttp2Session) => void server.emit('session', session),
  call: ({ stream, headers, flags, rawHeaders }) => {
    const isTaken = server.emit('stream', stream, headers, flags, rawHeaders)
    if (!isTaken) stream.respond({ ':status': 501 }, { endStream: true })
  },
})

const grpcHandle = (injector: GrpcInjector): Handle => ({
  extendedConnect: false,
  call: http2Calls({
    name: 'the gRPC server',
    connect: () => {
      const [client, own] = memoryConnection({ remoteAddress: undefined, remotePort: undefined })
      injector.injectConnection(own)
      return client
    },
  }),
})

const localHandle = ({ host = '127.0.0.1', port, protocol }: LocalApp): Handle => {
  const name = `the app at ${host}:${port}`
  if (protocol === 'h2c')
    return { extendedConnect: false, call: http2Calls({ name, connect: () => connect({ host, port, noDelay: true }) }) }
  const agent = new Agent({ keepAlive: true, timeout: IDLE_MS, maxFreeSockets: IDLE_CONNECTIONS_MAX })
  return { extendedConnect: true, call: http1Calls({ agent, name, target: { host, port } }) }
}
