import { EventEmitter } from 'node:events'
import type { ConnectionOptions } from 'node:tls'
import { type Address, parseAddress } from '../net/address.ts'
import { type AppServer, appHandle } from './appServer.ts'
import type { TcpTarget } from './connectCalls.ts'
import { type ChannelState, keepChannel } from './keepChannel.ts'
import { openChannel } from './openChannel.ts'
import { reachProxy } from './reachProxy.ts'
import { livingClock, TIMING, type Timing } from './timing.ts'

export type { AppServer, GrpcInjector, LocalApp } from './appServer.ts'
export type { Connect, TcpTarget } from './connectCalls.ts'
export type { ChannelState } from './keepChannel.ts'
export type { Timing } from './timing.ts'

/** What `serveOverCallback` is given. */
export interface CallbackOptions {
  /** The API address of the proxy, `host:port`. */
  readonly proxy: string
  /**
   * What serves the calls: a node:http or node:http2 server, which need not listen; a grpc-js server's
   * `createConnectionInjector(credentials)`; or where an app listens on its own loopback.
   */
  readonly server: AppServer
  /** The name by which the proxy's policy calls this app. */
  readonly appId?: string | undefined
  /** The proxy's API token; a function is asked before each try, so that a new token is taken up. */
  readonly token?: string | (() => string | undefined | Promise<string | undefined>) | undefined
  /** TLS to the proxy, as for `tls.connect`: `ca`, and `cert` and `key` for mutual TLS. */
  readonly tls?: ConnectionOptions | undefined
  /** What takes opaque TCP, which comes as CONNECT. Without it such calls are answered with 501. */
  readonly tcp?: TcpTarget | undefined
  /**
   * On these signals the channel is drained; then, if nobody else listens for it, the signal takes its course.
   * SIGTERM, unless told otherwise; an empty list for none.
   */
  readonly signals?: readonly NodeJS.Signals[] | undefined
  /** Other waits than those of docs/apps-behind-a-firewall.md. */
  readonly timing?: Partial<Timing> | undefined
}

/** A running callback server. It emits `state` at each change. */
export interface CallbackServer extends EventEmitter<{ state: [state: ChannelState] }> {
  readonly state: ChannelState
  /** Opens a new channel, and leaves the present one when that is up. Does nothing while there is none. */
  replace(): void
  /** Takes no more calls, finishes those in flight, and resolves when they have ended. */
  close(): Promise<void>
}

/**
 * Serves an app over connections which it opens itself, to a proxy that then calls it there. It listens nowhere. It tries
 * for ever: also when the proxy is not there yet, or refuses.
 */
export const serveOverCallback = (options: CallbackOptions): CallbackServer => {
  const proxy = proxyAddress(options.proxy)
  const handle = appHandle(options.server, options.tcp)
  const { token, tls, appId } = options
  const readToken = typeof token === 'function' ? token : () => token
  const timing = { ...TIMING, ...options.timing }
  const stop = new AbortController()
  const events = new EventEmitter<{ state: [state: ChannelState] }>()
  let state: ChannelState = { is: 'connecting' }
  let replaceNow = (_: string): void => {}
  const common = { clock: livingClock, random: Math.random, timing }

  const tell = (next: ChannelState) => {
    state = next
    events.emit('state', next)
  }
  const ended = Promise.resolve().then(() =>
    keepChannel(
      {
        reach: (signal) => reachProxy(proxy, common, signal),
        open: (reached, signal) =>
          openChannel(reached, { proxy, appId, token: readToken, tls, handle, clock: livingClock, timing }, signal),
      },
      { ...common, tell, signal: stop.signal, onReplacer: (replace) => (replaceNow = replace) },
    ),
  )
  const close = async (): Promise<void> => {
    stop.abort()
    await ended
  }
  const forgetSignals = drainOn(options.signals ?? ['SIGTERM'], close)
  void ended.finally(forgetSignals)
  return Object.defineProperty(
    Object.assign(events, { close, replace: () => replaceNow('it was asked for') }),
    'state',
    { get: () => state },
  ) as unknown as CallbackServer
}

const proxyAddress = (text: string): Address => {
  const address = parseAddress(text)
  if (address === undefined || address.port === 0) throw new TypeError(`proxy: expected host:port, not '${text}'`)
  return address
}

/** Drains on a signal. A listener keeps a signal from ending the process, which it shall do if no other is there. */
const drainOn = (signals: readonly NodeJS.Signals[], close: () => Promise<void>): (() => void) => {
  const drain = (signal: NodeJS.Signals) => {
    void close().then(() => {
      if (process.listenerCount(signal) === 0) process.kill(process.pid, signal)
    })
  }
  const listeners = signals.map((signal) => [signal, () => drain(signal)] as const)
  for (const [signal, listener] of listeners) process.once(signal, listener)
  return () => {
    for (const [signal, listener] of listeners) process.off(signal, listener)
  }
}
