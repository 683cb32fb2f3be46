import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  createServer,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2'
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'

/**
 * The proxy's side of the callback channel in the fewest words, written from the reference alone and with none of our own
 * code: what the app's side is checked against. Bytes that come and go are kept, to compare them with the reference.
 */
export interface CallbackPeer {
  readonly port: number
  readonly address: string
  /** Headers of each ConnectAppCallback, with the bytes of its body. */
  readonly asked: { readonly path: string; readonly headers: IncomingHttpHeaders; readonly body: Buffer }[]
  /** Each channel in the order in which it came up, with those that have ended. */
  readonly channels: PeerChannel[]
  /** The next channel to come up. */
  next(): Promise<PeerChannel>
  close(): Promise<void>
}

/** One channel: the peer is its HTTP/2 client. */
export interface PeerChannel {
  readonly socket: Socket
  readonly session: ClientHttp2Session
  /** What the app wrote before it spoke HTTP/2. */
  readonly preamble: Buffer
  /** What it sent on Ping. */
  readonly pings: Buffer[]
  readonly ping: ClientHttp2Stream
  call(headers: OutgoingHttpHeaders, body?: Buffer | string): Promise<Reply>
}

/** What came back. */
export interface Reply {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly trailers: IncomingHttpHeaders
  readonly body: Buffer
}

/** How the peer behaves; by default as our proxy does. */
export interface PeerOptions {
  readonly port?: number
  readonly host?: string
  /** Answers ConnectAppCallback in the peer's stead; true when it did. */
  readonly refuse?: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => boolean
  readonly withNonce?: boolean
  /** False for a peer that never opens Ping. */
  readonly withPing?: boolean
  /** TLS on the channel, and on the connections to the API. */
  readonly secure?: (socket: Socket) => Promise<Duplex>
  readonly secureApi?: (socket: Socket) => Promise<Duplex>
}

export const openCallbackPeer = async (options: PeerOptions = {}): Promise<CallbackPeer> => {
  const { host = '127.0.0.1', withNonce = true, withPing = true } = options
  const asked: CallbackPeer['asked'] = []
  const channels: PeerChannel[] = []
  const waiting: ((channel: PeerChannel) => void)[] = []
  const sockets = new Set<Socket>()
  const listeners = new Set<Server>()
  const up = (channel: PeerChannel) => {
    channels.push(channel)
    waiting.shift()?.(channel)
  }

  const answer = async (stream: ServerHttp2Stream) => {
    const nonce = withNonce ? randomBytes(32) : Buffer.alloc(0)
    const listener = createTcpServer((socket) => {
      listener.close()
      sockets.add(socket)
      socket.on('error', () => {})
      socket.setNoDelay(true)
      void takeChannel(socket, nonce, withPing, options.secure).then(up, () => socket.destroy())
    })
    listeners.add(listener)
    listener.listen(0, host)
    await once(listener, 'listening')
    const { port } = listener.address() as AddressInfo
    const message = [0x08, (port & 0x7f) | 0x80, ((port >> 7) & 0x7f) | 0x80, port >> 14]
    if (withNonce) message.push(0x12, 32, ...nonce)
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
    stream.end(Buffer.from([0, 0, 0, 0, message.length, ...message]))
  }

  const api = createServer()
  const sessions = new Set<{ destroy(): void }>()
  api.on('session', (session) => {
    sessions.add(session)
    session.on('error', () => {})
  })
  api.on('stream', (stream: ServerHttp2Stream, headers) => {
    stream.on('error', () => {})
    const chunks: Buffer[] = []
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.on('end', () => {
      asked.push({ path: headers[':path']!, headers, body: Buffer.concat(chunks) })
      if (options.refuse?.(stream, headers)) return
      if (/\/ConnectAppCallback$/.test(headers[':path']!)) void answer(stream)
      else refuseWith(stream, 12)
    })
  })
  const front = createTcpServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    const { secureApi } = options
    if (secureApi === undefined) api.emit('connection', socket)
    else
      void secureApi(socket).then(
        (secured) => api.emit('connection', secured),
        () => socket.destroy(),
      )
  })
  front.listen(options.port ?? 0, host)
  await once(front, 'listening')
  const { port } = front.address() as AddressInfo
  return {
    port,
    address: `${host}:${port}`,
    asked,
    channels,
    next: () => new Promise((resolve) => waiting.push(resolve)),
    close: async () => {
      for (const listener of listeners) listener.close()
      const closed = once(front, 'close')
      front.close()
      for (const session of [...sessions, ...channels.map(({ session }) => session)]) session.destroy()
      for (const socket of sockets) socket.destroy() // no reset: Node would leave open a handle that HTTP/2 holds
      await closed
    },
  }
}

/** A gRPC error without a body. */
export const refuseWith = (stream: ServerHttp2Stream, status: number, message = ''): void =>
  stream.respond(
    { ':status': 200, 'content-type': 'application/grpc', 'grpc-status': `${status}`, 'grpc-message': message },
    { endStream: true },
  )

const takeChannel = async (
  socket: Socket,
  nonce: Buffer,
  withPing: boolean,
  secure: PeerOptions['secure'],
): Promise<PeerChannel> => {
  const stream = secure === undefined ? socket : await secure(socket)
  const preamble = nonce.length === 0 ? nonce : await readExactly(stream, 8 + nonce.length)
  if (nonce.length > 0 && !preamble.equals(Buffer.concat([Buffer.from('SLUICECB'), nonce])))
    throw new Error(`the nonce is wrong: ${preamble.toString('hex')}`)
  const session = connect('http://the-app', { createConnection: () => stream, maxSessionMemory: 512 })
  session.on('error', () => {})
  await once(session, 'remoteSettings')
  const pings: Buffer[] = []
  if (!withPing) return channelOn(socket, session, preamble, pings, undefined as never)
  const ping = session.request({
    ':method': 'POST',
    ':path': '/dapr.proto.runtime.v1.DaprAppChannelCallback/Ping',
    'content-type': 'application/grpc',
    te: 'trailers',
  })
  ping.on('error', () => {})
  ping.on('data', (chunk: Buffer) => pings.push(chunk))
  await once(ping, 'data')
  return channelOn(socket, session, preamble, pings, ping)
}

const channelOn = (
  socket: Socket,
  session: ClientHttp2Session,
  preamble: Buffer,
  pings: Buffer[],
  ping: ClientHttp2Stream,
): PeerChannel => ({
  socket,
  session,
  preamble,
  pings,
  ping,
  call: async (headers, body) => {
    const stream = session.request(headers, { endStream: body === undefined })
    if (body !== undefined) stream.end(body)
    return replyOf(stream)
  },
})

/** All of an answer; throws when the stream closes without one. */
export const replyOf = (stream: ClientHttp2Stream): Promise<Reply> =>
  new Promise((resolve, reject) => {
    let headers: IncomingHttpHeaders & { ':status'?: number | undefined } = {}
    let trailers: IncomingHttpHeaders = {}
    const chunks: Buffer[] = []
    stream.on('response', (received) => (headers = received))
    stream.on('trailers', (received) => (trailers = received))
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.on('error', reject)
    stream.on('close', () => {
      const status = headers[':status']
      if (status === undefined || stream.rstCode !== 0) reject(new Error(`closed with ${stream.rstCode}`))
      else resolve({ status, headers, trailers, body: Buffer.concat(chunks) })
    })
  })

const readExactly = async (stream: Duplex, length: number): Promise<Buffer> => {
  for (;;) {
    const bytes: Buffer | null = stream.read(length)
    if (bytes !== null && bytes.length >= length) return bytes
    if (stream.readableEnded || stream.destroyed) throw new Error('the connection ended within its preamble')
    await Promise.race([once(stream, 'readable'), once(stream, 'close')])
  }
}
