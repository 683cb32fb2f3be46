import { connect as netConnect, type Socket } from 'node:net'
import type { Address } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import type { Reached } from './keepChannel.ts'
import type { Timing } from './timing.ts'

/** A TCP connection to the proxy. */
export interface ReachedProxy extends Reached {
  readonly socket: Socket
}

/** What reaching takes. */
export interface Reach {
  readonly clock: Clock
  readonly random: () => number
  readonly timing: Timing
  readonly connect?: (address: Address) => Socket
}

/**
 * Connects to the proxy, for ever. A new attempt starts every `probeMs` (a quarter more or less, so that many apps do not
 * move as one), beside those under way: where packets are lost, the repetitions of one SYN are too far apart. The first to
 * connect wins. Undefined when the signal fires.
 */
export const reachProxy = (address: Address, reach: Reach, signal: AbortSignal): Promise<ReachedProxy | undefined> =>
  new Promise((resolve) => {
    const { clock, random, timing, connect = tcpConnect } = reach
    const attempts = new Set<Socket>()
    let wasAway = false
    let cancelNext = () => {}

    const finish = (winner?: Socket) => {
      cancelNext()
      signal.removeEventListener('abort', stop)
      if (winner) attempts.delete(winner)
      for (const attempt of attempts) attempt.destroy()
      resolve(winner && reached(winner, wasAway))
    }
    const stop = () => finish()

    const attempt = () => {
      const socket = connect(address)
      attempts.add(socket)
      const cancelLimit = clock.after(timing.reachMs, () => socket.destroy())
      socket.on('error', () => {}) // its end is 'close'
      socket.once('close', () => {
        cancelLimit()
        wasAway = true
        attempts.delete(socket)
      })
      socket.once('connect', () => {
        cancelLimit()
        if (attempts.has(socket)) finish(socket)
      })
      cancelNext = clock.after(timing.probeMs * (0.75 + random() / 2), attempt)
    }

    if (signal.aborted) return resolve(undefined)
    signal.addEventListener('abort', stop)
    attempt()
  })

const tcpConnect = ({ host, port }: Address): Socket => netConnect({ host, port, noDelay: true })

const reached = (socket: Socket, wasAway: boolean): ReachedProxy => ({
  socket,
  wasAway,
  gone: new Promise((resolve) => socket.once('close', resolve)),
  discard: () => socket.destroy(),
})
