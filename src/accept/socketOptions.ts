import { BoundSocket, connect, isIP, Socket, type TcpNetConnectOpts } from 'node:net'
import { fdOf, type Shim } from '../native/shim.ts'
import type { TcpOpener } from '../net/dial.ts'
import { DIRECT_READS, makeDirect } from '../net/direct.ts'
import type { OwnDials } from './ownDials.ts'

/** What the kernel is told about every socket; 0 leaves a thing as the kernel has it. */
export interface SocketOptions {
  readonly mark: number
  readonly userTimeout: number
  readonly keepalive: number
}

const PROBES = 3 // one lost probe, or two, is no dead peer

/** Dead-peer detection for one connected socket. Without the shim only keepalive can be set. */
export const tune = (socket: Socket, { userTimeout, keepalive }: SocketOptions, shim: Shim | undefined): void => {
  if (keepalive > 0) {
    const seconds = Math.max(1_000, keepalive)
    socket.setKeepAlive({ enable: true, initialDelay: seconds, interval: seconds, count: PROBES })
  }
  const fd = fdOf(socket)
  if (userTimeout > 0 && shim !== undefined && fd !== undefined) shim.setUserTimeout(fd, userTimeout)
}

/** Opens sockets as `net.connect` does, with these options; the mark is on before the first packet leaves. */
export const tunedOpener =
  (options: SocketOptions, shim: Shim | undefined, dials?: OwnDials): TcpOpener =>
  (plain) => {
    const to = shim === undefined ? plain : { ...plain, ...DIRECT_READS }
    const socket = options.mark > 0 && shim !== undefined ? marked(to, options.mark, shim) : connect(to)
    dials?.opened(socket, { host: to.host ?? '', port: to.port })
    socket.once('connect', () => {
      tune(socket, options, shim)
      const fd = fdOf(socket)
      if (shim === undefined || fd === undefined) return
      makeDirect(socket, (first, firstBytes, second) => shim.send(fd, first, firstBytes, second))
    })
    return socket
  }

/**
 * Only a bound socket has a descriptor before it connects. Binding takes a local port for each connection, so that about
 * 28,000 can be open at once instead of as many to each destination. A name is looked up in IPv4 only.
 */
const marked = (to: TcpNetConnectOpts, mark: number, shim: Shim): Socket => {
  const isV6 = isIP(to.host ?? '') === 6
  const handle = new BoundSocket(isV6 ? { host: '::', ipv6Only: true } : { host: '0.0.0.0' })
  try {
    shim.setMark(handle.fd(), mark)
  } catch (error) {
    handle.close()
    const socket = new Socket()
    return socket.destroy(error as Error)
  }
  return new Socket({ ...to, handle }).connect({ ...to, family: isV6 ? 6 : 4 })
}
