import { once } from 'node:events'
import { createServer, Agent as HttpAgent, type Server as HttpServer, type IncomingMessage, request } from 'node:http'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { pathToFileURL } from 'node:url'
import { Client, credentials, Server, ServerCredentials, type sendUnaryData } from '@grpc/grpc-js'
import { Agent, request as undiciRequest } from 'undici'
import { WebSocket, WebSocketServer } from 'ws'

/**
 * One process with the servers that Node programs use, and their clients: `GET /undici?host=fd99::2` at `nodeClients`,
 * which is asked over loopback, lets the client of undici call the server there, and answers what it was told.
 */
export const NODE_PORTS = {
  nodeHttp: 8090,
  nodeWebSocket: 8091,
  /** A forward proxy for CONNECT, which leads any authority to the HTTP server of nginx beside it. */
  nodeConnect: 8092,
  nodeGrpc: 8093,
  nodeClients: 8094,
} as const

const BEHIND_CONNECT = 8080

const same = (bytes: Buffer): Buffer => bytes
const SAY = {
  path: '/lab.Lab/Say',
  requestStream: false,
  responseStream: false,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
} as const

const inUrl = (host: string): string => (host.includes(':') ? `[${host}]` : host)

const serve = async (): Promise<void> => {
  const http = createServer((asked, answer) => {
    answer.setHeader('x-seen', `${asked.httpVersion} ${asked.headers.expect ?? 'at once'}`)
    asked.pipe(answer)
  })
  const webSockets = createServer()
  new WebSocketServer({ server: webSockets }).on('connection', (socket) =>
    socket.on('message', (data) => socket.send(`${data} and back`)),
  )
  const tunnels = createServer().on('connect', (_, socket) => {
    const to = connect(BEHIND_CONNECT, '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
      socket.pipe(to).pipe(socket)
    })
    to.on('error', () => socket.destroy())
    socket.on('error', () => to.destroy())
  })
  const clients = createServer(async (asked, answer) => {
    const { pathname, searchParams } = new URL(asked.url!, 'http://clients')
    const called = CLIENTS[pathname.slice(1)]!(searchParams.get('host')!)
    answer.end(await called.catch((error: Error) => error.stack))
  })
  await Promise.all([
    listening(http, NODE_PORTS.nodeHttp),
    listening(webSockets, NODE_PORTS.nodeWebSocket),
    listening(tunnels, NODE_PORTS.nodeConnect),
    listening(clients, NODE_PORTS.nodeClients),
    serveGrpc(),
  ])
}

const listening = (server: HttpServer, port: number): Promise<unknown> => once(server.listen(port, '::'), 'listening')

const serveGrpc = (): Promise<void> => {
  const server = new Server()
  const say = ({ request: message }: { request: Buffer }, done: sendUnaryData<Buffer>) =>
    done(null, Buffer.from(`${message} and back`))
  server.addService({ say: SAY }, { say })
  return new Promise((settle, reject) =>
    server.bindAsync(`[::]:${NODE_PORTS.nodeGrpc}`, ServerCredentials.createInsecure(), (error) =>
      error === null ? settle() : reject(error),
    ),
  )
}

const byHttp = async (host: string): Promise<string> => {
  const agent = new HttpAgent({ keepAlive: true })
  const asking = request({
    ...{ host, port: NODE_PORTS.nodeHttp, method: 'PUT', path: '/by-node', agent },
    headers: { expect: '100-continue' },
  })
  asking.once('continue', () => asking.end('node:http and back'))
  const [answer] = (await once(asking, 'response')) as [IncomingMessage]
  const body = await text(answer)
  agent.destroy()
  return `${body}, ${answer.headers['x-seen']}`
}

const byUndici = async (host: string): Promise<string> => {
  const dispatcher = new Agent({ pipelining: 4, connections: 1 })
  const url = `http://${inUrl(host)}:${NODE_PORTS.nodeHttp}/by-undici`
  const texts = ['un', 'di', 'ci'].map(async (body) =>
    (await undiciRequest(url, { dispatcher, method: 'PUT', body })).body.text(),
  )
  const whole = (await Promise.all(texts)).join('')
  await dispatcher.close()
  return `${whole} and back`
}

const byWebSocket = async (host: string): Promise<string> => {
  const socket = new WebSocket(`ws://${inUrl(host)}:${NODE_PORTS.nodeWebSocket}/by-ws`)
  await once(socket, 'open')
  socket.send('ws')
  const [said] = await once(socket, 'message')
  socket.close(1000)
  const [code] = await once(socket, 'close')
  return `${said}, ${code}`
}

const byGrpc = async (host: string): Promise<string> => {
  const client = new Client(`${inUrl(host)}:${NODE_PORTS.nodeGrpc}`, credentials.createInsecure())
  try {
    return await new Promise((settle, reject) =>
      client.makeUnaryRequest(SAY.path, same, same, Buffer.from('grpc-js'), (error, value) =>
        error === null ? settle(`${value}`) : reject(error),
      ),
    )
  } finally {
    client.close()
  }
}

const CLIENTS: Readonly<Record<string, (host: string) => Promise<string>>> = {
  http: byHttp,
  undici: byUndici,
  ws: byWebSocket,
  grpc: byGrpc,
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await serve()
