import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'

/**
 * A TLS socket whose reset reaches the socket below: Node's own throws, because only a bare TCP handle can be reset.
 *
 * The mark is Node's private one, because its public way, `below.resetAndDestroy()` and then `socket.destroy()`, frees
 * the session while OpenSSL is still on the stack, and the process dies. Without the mark a FIN would be sent.
 */
export const resettable = (socket: TLSSocket, below: Duplex): TLSSocket =>
  Object.assign(socket, {
    resetAndDestroy: () => {
      Object.assign(below, { resetAndClosing: true })
      return socket.destroy()
    },
  })
