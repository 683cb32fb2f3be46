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
  const left = () => {
    open -= 1
  }
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    // A stream without an error listener kills the process.
    socket.on('error', () => {})
    open += 1
    if (options.sockets !== undefined) tune(socket, options.sockets, shim)
    const found = originalDestination(socket, shim, options.destination)
    // Not the socket's close: a pumped connection goes on when its socket is gone.
    accept({ socket, open, options, world, found, left })
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

/** A connection that was just accepted. */
export interface Accepted {
  readonly socket: Socket
  /** Whose it is, where that is known already. */
  readonly peer?: Address
  /** How many there are of its listener, with it. */
  readonly open: number
  readonly options: ListenerOptions
  readonly world: World
  readonly found: Destination
  /** Called when its life is over. */
  readonly left: () => void
}

/** Takes an accepted connection through its life. Nothing here waits for its end but `left`: that would cost memory. */
export const accept = (it: Accepted): void => {
  const { socket, open, options, world } = it
  const { name: listener, maxConnections, proxyProtocol = 'none' } = options
  if (open > maxConnections)
    return turnAway(it, 'LIMIT_CONNECTIONS', `listener ${listener} already has ${maxConnections} connections`)
  if (proxyProtocol === 'none') return go(it, undefined)
  void takeProxyHeader(socket, proxyProtocol, world.clock).then(
    (header) => go(it, header),
    (error: ProtocolError) => turnAway(it, error.code, error.message),
  )
}

const go = (it: Accepted, header: ProxyHeader | undefined): void => {
  const { options, world, found } = it
  const destination = destinationOf(found, header, world)
  if (destination === undefined) return turnAway(it, 'NO_ORIGINAL_DESTINATION', 'unknown' in found ? found.unknown : '')
  // A client of a listener with a fixed destination may have the port that we dial that destination from.
  const { ownDials } = options
  if (ownDials === undefined || options.destination !== undefined) return begin(it, header, destination)
  void ownDials.isOwn(peerOf(it), destination).then((isOwn) => {
    if (isOwn) turnAway(it, 'LOOP', OWN_DIAL)
    else begin(it, header, destination)
  })
}

const begin = (it: Accepted, header: ProxyHeader | undefined, destination: Address): void => {
  const { socket: stream, options, world, left } = it
  const { name: listener, direction } = options
  const peer = header?.source ?? peerOf(it)
  void (options.serve ?? serve)({ direction, listener, peer, destination, stream }, world).then(left)
}

const turnAway = (it: Accepted, code: string, message: string): void => {
  const { socket, options, world, left } = it
  const { name: listener, direction } = options
  const destination = { host: unmapped(socket.localAddress ?? ''), port: socket.localPort ?? 0 }
  const life = world.ledger.begin({ direction, listener, peer: peerOf(it), destination })
  world.ledger.end(life, 'refused', refuse(socket, code, message))
  left()
}

const peerOf = ({ socket, peer }: Accepted): Address =>
  peer ?? { host: unmapped(socket.remoteAddress ?? ''), port: socket.remotePort ?? 0 }

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
