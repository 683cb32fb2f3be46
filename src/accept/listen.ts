import { createServer, type Server, type Socket } from 'node:net'
import type { ProxyHeader } from '../codec/proxyHeader.ts'
import { refuse } from '../forward/refuse.ts'
import type { Shim } from '../native/shim.ts'
import { type Address, formatAddress, unmapped } from '../net/address.ts'
import type { Direction } from '../net/connection.ts'
import type { ProtocolError } from '../net/protocolError.ts'
import { serve, type World } from '../proxy.ts'
import { type Destination, originalDestination } from './originalDestination.ts'
import type { OwnDials } from './ownDials.ts'
import { type ProxyProtocol, takeProxyHeader } from './proxyProtocol.ts'
import { type SocketOptions, tune } from './socketOptions.ts'

/** One listening address. */
export interface ListenerOptions {
  readonly name: string
  readonly direction: Direction
  readonly address: Address
  readonly maxConnections: number
  /** Where every connection goes, for a listener that nothing is redirected to. */
  readonly destination?: Address
  /** Whether connections may, or must, begin with a PROXY protocol header. */
  readonly proxyProtocol?: ProxyProtocol
  readonly sockets?: SocketOptions
  /** What becomes of each connection; `serve` unless said otherwise. */
  readonly serve?: typeof serve
  readonly ownDials?: OwnDials
  /** Others listen there, too: each gets its share of the connections. */
  readonly reusePort?: boolean
}

/** A listener at work. `close` stops accepting; connections already accepted live on. */
export interface Listening {
  readonly address: Address
  close(): void
}

/** Opens a listener. Rejects with an Error that names the address, for example when it is taken. */
export const listen = (options: ListenerOptions, world: World, shim: Shim | undefined): Promise<Listening> => {
  let open = 0
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    // A stream without an error listener kills the process.
    socket.on('error', () => {})
    open += 1
    if (options.sockets !== undefined) tune(socket, options.sockets, shim)
    const found = originalDestination(socket, shim, options.destination)
    // Not the socket's close: a pumped connection goes on when its socket is gone.
    void accept(socket, open, options, world, found).finally(() => {
      open -= 1
    })
  })
  return listening(server, options)
}

/** Binds a server to the address of its options. */
export const listening = (server: Server, { address, name, reusePort = false }: ListenerOptions): Promise<Listening> =>
  new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      reject(
        Object.assign(new Error(`listener ${name} cannot listen on ${formatAddress(address)}: ${error.code}`), {
          code: error.code,
        }),
      )
    })
    server.listen({ host: address.host, port: address.port, ipv6Only: true, reusePort, backlog: 4096 }, () => {
      // Accept errors (descriptors used up) are the kernel's to retry; they must not end the process.
      server.on('error', () => {})
      resolve({ address: boundTo(server), close: () => server.close() })
    })
  })

/** Takes an accepted connection through its life; resolves when it is over. */
export const accept = async (
  socket: Socket,
  open: number,
  options: ListenerOptions,
  world: World,
  found: Destination,
): Promise<void> => {
  const { name: listener, direction, maxConnections, proxyProtocol = 'none' } = options
  const peer = { host: unmapped(socket.remoteAddress ?? ''), port: socket.remotePort ?? 0 }
  const local = { host: unmapped(socket.localAddress ?? ''), port: socket.localPort ?? 0 }
  const turnAway = (code: string, message: string) => {
    const life = world.ledger.begin({ direction, listener, peer, destination: local })
    world.ledger.end(life, 'refused', refuse(socket, code, message))
  }
  const go = async (header?: ProxyHeader) => {
    const destination = destinationOf(found, header, world)
    if (destination === undefined) return turnAway('NO_ORIGINAL_DESTINATION', 'unknown' in found ? found.unknown : '')
    // A client of a listener with a fixed destination may have the port that we dial that destination from.
    const isRedirected = options.destination === undefined
    if (isRedirected && (await options.ownDials?.isOwn(peer, destination))) return turnAway('LOOP', OWN_DIAL)
    await (options.serve ?? serve)(
      { direction, listener, peer: header?.source ?? peer, destination, stream: socket },
      world,
    )
  }
  if (open > maxConnections) {
    turnAway('LIMIT_CONNECTIONS', `listener ${listener} already has ${maxConnections} connections`)
  } else if (proxyProtocol === 'none') {
    await go()
  } else {
    await takeProxyHeader(socket, proxyProtocol, world.clock).then(go, (error: ProtocolError) =>
      turnAway(error.code, error.message),
    )
  }
}

const OWN_DIAL = 'it is a connection of the proxy itself, which the redirect must leave alone: see --proxy-uid'

/**
 * Where the kernel says it was going; where it was not redirected, what a PROXY header says. Not the other way round:
 * a load balancer writes its own address there, and dialling that would bring the connection back.
 */
const destinationOf = (found: Destination, header: ProxyHeader | undefined, world: World): Address | undefined => {
  if ('unknown' in found) return header?.destination
  return world.isOwn(found.address) ? (header?.destination ?? found.address) : found.address
}

const boundTo = (server: Server): Address => {
  const bound = server.address()
  if (bound === null || typeof bound === 'string') throw new Error('a TCP listener has an address')
  return { host: bound.address, port: bound.port }
}
