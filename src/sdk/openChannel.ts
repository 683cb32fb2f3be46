import { connect as netConnect, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { type ConnectionOptions, connect as tlsConnect } from 'node:tls'
import { CHANNEL_MAGIC } from '../callback/wire.ts'
import type { Address } from '../net/address.ts'
import { formatAddress } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import { askForChannel } from './askForChannel.ts'
import type { Opened } from './keepChannel.ts'
import type { ReachedProxy } from './reachProxy.ts'
import { type Handle, serveChannel } from './serveChannel.ts'
import { pause, type Timing } from './timing.ts'

/** What opening a channel takes. */
export interface Opening {
  readonly proxy: Address
  readonly appId?: string | undefined
  readonly token: () => string | undefined | Promise<string | undefined>
  /** For the proxy's API and for the channel alike; absent where both are plain. */
  readonly tls?: ConnectionOptions | undefined
  readonly handle: Handle
  readonly clock: Clock
  readonly timing: Timing
}

/** Asks over the connection, dials the port of the answer, serves there, and waits for the proxy's Ping. */
export const openChannel = async (reached: ReachedProxy, opening: Opening, stop: AbortSignal): Promise<Opened> => {
  const { proxy, clock, timing, tls } = opening
  const failed = (because: string, isSilent = false): Opened => ({ is: 'failed', because, isSilent })
  // The address that answered, not the name: behind a name there may be more than one proxy.
  const host = reached.socket.remoteAddress ?? proxy.host
  const own: Duplex[] = [reached.socket]
  let channel: Opened | undefined
  const over = new AbortController()
  const limit = (ms: number) => limited(clock, ms, stop, over.signal)
  try {
    const asking = limit(timing.dialMs)
    const token = await tokenOf(opening)
    if (token instanceof Error) return failed(`the token cannot be had: ${token.message}`)
    const api = tls === undefined ? reached.socket : await secured(reached.socket, tls, proxy.host, asking.signal)
    if (typeof api === 'string') return failed(`TLS to the proxy failed: ${api}`, asking.signal.aborted)
    own.push(api)
    const answer = await askForChannel(
      api,
      { scheme: tls === undefined ? 'http' : 'https', authority: formatAddress(proxy), appId: opening.appId, token },
      asking.signal,
    )
    if (answer.is === 'refused') return failed(answer.because, !answer.heard)

    const dialling = limit(timing.dialMs)
    const at = { host, port: answer.answer.port }
    const plain = await dialled(at, dialling.signal)
    const tooLong = () => dialling.signal.aborted
    if (typeof plain === 'string')
      return failed(`the channel at ${formatAddress(at)} cannot be reached: ${plain}`, tooLong())
    const dial = tls === undefined ? plain : await secured(plain, tls, proxy.host, dialling.signal)
    if (typeof dial === 'string') return failed(`TLS on the channel failed: ${dial}`, tooLong())
    if (answer.answer.nonce) await written(dial, Buffer.concat([CHANNEL_MAGIC, answer.answer.nonce]))
    answer.release()
    if (dial.destroyed) return failed('the channel was closed at once')
    const served = serveChannel(dial, { handle: opening.handle, clock, timing, bytesRead: () => plain.bytesRead })
    const pinging = limit(timing.firstPingMs)
    const first = await Promise.race([
      served.pinged.then(() => 'pinged' as const),
      served.channel.ended,
      pinging.fired.then(() => 'fired' as const),
    ])
    if (first === 'pinged') {
      channel = { is: 'channel', channel: served.channel }
      return channel
    }
    served.destroy()
    return first === 'fired'
      ? failed('the proxy did not open Ping on the channel', true)
      : failed(`the channel ended before its Ping: ${first}`)
  } finally {
    over.abort()
    if (channel === undefined) for (const each of own) each.destroy()
  }
}

const tokenOf = async ({ token }: Opening): Promise<string | undefined | Error> => {
  try {
    return await token()
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error)) // the app's own function
  }
}

/** A signal that fires after so many milliseconds, or with `stop`; no more once it is over. */
const limited = (clock: Clock, ms: number, stop: AbortSignal, over: AbortSignal) => {
  const limit = new AbortController()
  const fired = new Promise<void>((resolve) => limit.signal.addEventListener('abort', () => resolve()))
  void pause(clock, ms, AbortSignal.any([stop, over])).then(() => over.aborted || limit.abort())
  return { signal: limit.signal, fired }
}

/** A TCP connection, or what went wrong. */
const dialled = ({ host, port }: Address, signal: AbortSignal): Promise<Socket | string> =>
  new Promise((resolve) => {
    const socket = netConnect({ host, port, noDelay: true })
    const stop = () => socket.destroy(new Error('it took too long'))
    signal.addEventListener('abort', stop)
    const done = (result: Socket | string) => {
      signal.removeEventListener('abort', stop)
      resolve(result)
    }
    socket.on('error', (error) => done(error.message))
    socket.once('close', () => done('it was closed'))
    socket.once('connect', () => done(socket))
    if (signal.aborted) stop()
  })

/** Resolves when the bytes have left us, or never will: HTTP/2 takes the handle over, and aborts where TLS still writes. */
const written = (stream: Duplex, bytes: Buffer): Promise<void> =>
  new Promise((resolve) => {
    stream.once('close', resolve)
    stream.write(bytes, () => resolve())
  })

const secured = (socket: Socket, tls: ConnectionOptions, host: string, signal: AbortSignal): Promise<Duplex | string> =>
  new Promise((resolve) => {
    const secure = tlsConnect({ host, servername: isName(host) ? host : '', ...tls, socket, ALPNProtocols: ['h2'] })
    const stop = () => secure.destroy(new Error('it took too long'))
    signal.addEventListener('abort', stop)
    const done = (result: Duplex | string) => {
      signal.removeEventListener('abort', stop)
      if (typeof result === 'string') socket.destroy()
      resolve(result)
    }
    secure.on('error', (error) => done(error.message))
    secure.once('close', () => done('it was closed'))
    secure.once('secureConnect', () => done(secure))
    if (signal.aborted) stop()
  })

const isName = (host: string): boolean => !/^[\d.]+$|:/.test(host)
