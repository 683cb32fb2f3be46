import { connect, type Socket, type TcpNetConnectOpts } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Address } from './address.ts'
import type { Clock } from './clock.ts'
import { codedError } from './codedError.ts'
import type { Dial } from './connection.ts'

/** Begins to connect, as `net.connect` does. */
export type TcpOpener = (to: TcpNetConnectOpts) => Socket

/** Dials by TCP; `open` lets a caller prepare the socket (a mark, a source address) before it connects. */
export const tcpDialer =
  (open: TcpOpener = connect): Dial =>
  (to, signal) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(aborted())
      const socket: Socket = open({
        host: to.host,
        port: to.port,
        allowHalfOpen: true,
        noDelay: true,
        autoSelectFamily: false,
      })
      // A stream without an error listener kills the process: this one stays for the socket's whole life.
      socket.on('error', reject)
      const abort = () => {
        socket.destroy()
        reject(aborted())
      }
      signal?.addEventListener('abort', abort, { once: true })
      socket.once('close', () => signal?.removeEventListener('abort', abort))
      socket.once('connect', () => {
        signal?.removeEventListener('abort', abort)
        resolve(socket)
      })
    })

/** Bounds a dial in time: rejects with code `CONNECT_TIMEOUT` and leaves nothing behind. */
export const dialWithin = (dial: Dial, to: Address, ms: number, clock: Clock, signal?: AbortSignal): Promise<Duplex> =>
  new Promise((resolve, reject) => {
    const giveUp = new AbortController()
    const abort = () => giveUp.abort()
    const cancel = clock.after(ms, () => {
      giveUp.abort()
      reject(codedError('CONNECT_TIMEOUT', `no answer to the connect within ${ms} ms`))
    })
    const settled = () => {
      cancel()
      signal?.removeEventListener('abort', abort)
    }
    if (signal?.aborted) abort()
    signal?.addEventListener('abort', abort, { once: true })
    dial(to, giveUp.signal).then(
      (stream) => {
        settled()
        // The time may have run out in the very turn in which the connect came through.
        if (giveUp.signal.aborted) stream.destroy()
        resolve(stream)
      },
      (error) => {
        settled()
        reject(error)
      },
    )
  })

const aborted = (): Error => codedError('ABORT_ERR', 'the connect was given up')
