import { execFileSync } from 'node:child_process'
import { createServer, Socket } from 'node:net'
import { join } from 'node:path'
import { accept, type ListenerOptions, type Listening, listening } from '../../src/accept/listen.ts'
import { tunedOpener } from '../../src/accept/socketOptions.ts'
import { fdOf, loadShim, type Shim } from '../../src/native/shim.ts'
import { type TcpOpener, tcpDialer } from '../../src/net/dial.ts'
import { DIRECT_READS, makeDirect } from '../../src/net/direct.ts'
import type { World } from '../../src/proxy.ts'

const ROOT = join(import.meta.dirname, '../..')

/** The shim as these sources make it. */
export const builtShim = (): Shim => {
  const addon = join(ROOT, 'build/test-direct.node')
  execFileSync(join(ROOT, 'scripts/build-native.sh'), [addon])
  const shim = loadShim(addon)
  if (shim.is === 'missing') throw new Error(shim.reason)
  return shim.value
}

/**
 * Present where a test wants sockets as `sluice serve` has them: read and written without streams. Test files that end
 * in `Direct.test.ts` set the variable and then run the cases of their twin.
 */
const shim = process.env.SLUICE_TEST_DIRECT === undefined ? undefined : builtShim()

const open: TcpOpener | undefined = shim && tunedOpener({ mark: 0, userTimeout: 0, keepalive: 0 }, shim)

/** Dials as `sluice serve` does, where the test wants that. */
export const testDialer = () => tcpDialer(open)

/** Accepts direct sockets, which the pump makes otherwise. Undefined where the test does not want them. */
export const listenDirect =
  shim &&
  (async (options: ListenerOptions, world: World): Promise<Listening> => {
    let count = 0
    const server = createServer({ pauseOnConnect: true }, (plain) => {
      const socket = direct(plain, shim)
      socket.on('error', () => {})
      accept({ socket, open: ++count, options, world, found: { address: options.destination! }, left: () => count-- })
    })
    const opened = await listening(server, options)
    return { address: opened.address, close: () => server.close() }
  })

/** Takes the handle out of a socket of Node's and into one that reads directly. */
const direct = (plain: Socket, shim: Shim): Socket => {
  const inside = plain as unknown as { _handle: object | null }
  const handle = inside._handle
  inside._handle = null
  const options = { handle, allowHalfOpen: true, noDelay: true, readable: true, writable: true, ...DIRECT_READS }
  const socket = new Socket(options as object)
  const fd = fdOf(socket)!
  makeDirect(socket, (first, firstBytes, second) => shim.send(fd, first, firstBytes, second))
  return socket
}
