import { randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { type Address, formatAddress } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import { Channel, type ChannelEnd, type ChannelOptions } from './channel.ts'
import type { Registry } from './registry.ts'
import { type Guest, listenForApp, type Refusal, type Rendezvous } from './rendezvous.ts'
import { type ConnectAnswer, NONCE_BYTES } from './wire.ts'

/** What became of one who asked for a channel, or who connected where one was expected. */
export type ConnectResult =
  | 'opened'
  | 'timeout'
  | 'replaced'
  | 'unauthenticated'
  | 'refused'
  | 'failed'
  | Refusal
  | Exclude<ChannelEnd, 'left' | 'closed'>

/** How apps are let in. */
export interface DoorOptions {
  readonly clock: Clock
  readonly registry: Registry
  readonly channel: ChannelOptions
  /** The port that channels are connected to; 0: a random one for each. */
  readonly port: number
  readonly connectMs: number
  readonly nonce: 'optional' | 'required'
  readonly channelsMax: number
  readonly secure: (
    socket: Socket,
  ) => Promise<{ readonly stream: Duplex; readonly identity: string | null } | undefined>
  readonly events: DoorEvents
}

/** What happens at the door, for the log and for metrics. */
export interface DoorEvents {
  readonly connected: (app: string, result: ConnectResult, from: Address) => void
  readonly ended: (channel: Channel, why: ChannelEnd, error: Error | undefined) => void
  readonly pingMissed: (channel: Channel) => void
}

/** Who asks for a channel. */
export interface Asker {
  readonly app: string
  /** It can send a nonce. */
  readonly isOurs: boolean
  readonly peer: Address
  /** The address of ours that it asked at: its channel is expected there too. */
  readonly local: string
  /** The connection that it asked on. */
  readonly connection: object
}

/** A refusal in the words of gRPC. */
export interface Refused {
  readonly status: number
  readonly says: string
}

/** Lets apps in that ask for it. */
export interface Door {
  readonly ask: (asker: Asker) => Promise<ConnectAnswer | Refused>
  /** Channels of any state, oldest first. */
  readonly channels: () => readonly Channel[]
  /** Lets nobody in any more; channels take no new calls and end after those in flight. */
  readonly close: () => void
}

const RESOURCE_EXHAUSTED = 8
const PERMISSION_DENIED = 7
const UNAVAILABLE = 14
const INTERNAL = 13
const CLOSING = 'the proxy is shutting down'

/** An app that was told a port and has not come yet. */
interface Pending {
  readonly asker: Asker
  rendezvous: Rendezvous | undefined
  isOver: boolean
  readonly candidates: Set<Channel>
  readonly settled: Promise<void>
  readonly settle: () => void
}

/** Opens one. */
export const createDoor = (options: DoorOptions): Door => {
  const { clock, registry, events, port, connectMs } = options
  const pending = new Set<Pending>()
  const channels = new Set<Channel>()
  let isClosed = false
  let count = 0

  /** The app is in, or is not expected any more. */
  const over = (it: Pending): void => {
    it.isOver = true
    it.rendezvous?.close()
    pending.delete(it)
    it.settle()
  }
  const replace = (it: Pending): void => {
    for (const channel of it.candidates) channel.destroy('closed')
    over(it)
    events.connected(it.asker.app, 'replaced', it.asker.peer)
  }

  /**
   * The newest request of an app counts. Apps of our SDK may be several replicas that ask at the same time, each with a
   * nonce and a port of its own: of them only requests of the same connection take each other's place.
   */
  const takesPlaceOf = (asker: Asker, { asker: older }: Pending): boolean =>
    older.app === asker.app && (port !== 0 || !older.isOurs || !asker.isOurs || older.connection === asker.connection)

  const enter = (it: Pending, { stream, peer, identity }: Guest): void => {
    if (stream.destroyed || isClosed) return void stream.destroy()
    const { app, isOurs } = it.asker
    count += 1
    const name = { name: `${app}/${count}`, peer }
    let wasUp = false
    const channel: Channel = new Channel(stream, { app, name, isOurs, identity }, options.channel, {
      spoke: () => {
        for (const other of it.candidates) if (other !== channel) other.destroy('closed')
        over(it)
      },
      up: () => {
        wasUp = true
        registry.add(channel)
        events.connected(app, 'opened', peer)
      },
      freed: () => registry.freed(channel),
      leaving: () => registry.remove(channel),
      pingMissed: () => events.pingMissed(channel),
      gone: (why, error) => {
        it.candidates.delete(channel)
        channels.delete(channel)
        registry.remove(channel)
        if (wasUp) events.ended(channel, why, error)
        else if (why !== 'left' && why !== 'closed') events.connected(app, why, peer)
      },
    })
    channels.add(channel)
    // Who has proved to be the one needs no rival; without that, others may come until one speaks.
    if (isOurs) over(it)
    else it.candidates.add(channel)
  }

  /** Takes its place among those who are expected. With one port for all, those who come later wait until it is free. */
  const takePlace = async (it: Pending): Promise<boolean> => {
    const late = Promise.withResolvers<void>()
    let isLate = false
    const cancel = clock.after(connectMs, () => {
      isLate = true
      late.resolve()
    })
    while (port !== 0 && pending.size > 0 && !isLate) {
      for (const older of pending) if (takesPlaceOf(it.asker, older)) replace(older)
      if (pending.size > 0) await Promise.race([late.promise, ...[...pending].map(({ settled }) => settled)])
    }
    cancel()
    if (isLate || isClosed) return false
    // In the turn in which it was seen to be free: others wait for the same.
    pending.add(it)
    return true
  }

  const ask = async (asker: Asker): Promise<ConnectAnswer | Refused> => {
    const { app, isOurs, peer, local } = asker
    const refuse = (status: number, says: string): Refused => {
      events.connected(app, status === INTERNAL ? 'failed' : 'refused', peer)
      return { status, says }
    }
    if (isClosed) return refuse(UNAVAILABLE, CLOSING)
    if (options.nonce === 'required' && !isOurs)
      return refuse(
        PERMISSION_DENIED,
        'callback.nonce is required here, and this client did not say that it can send one',
      )
    for (const older of pending) if (takesPlaceOf(asker, older)) replace(older)
    const here = [...channels].filter(({ peer, state }) => peer.app === app && state !== 'leaving').length
    const expected = [...pending].filter((it) => it.asker.app === app && it.candidates.size === 0).length
    if (here + expected >= options.channelsMax)
      return refuse(RESOURCE_EXHAUSTED, `${app} has as many channels as it may (callback.channels)`)
    const { promise: settled, resolve: settle } = Promise.withResolvers<void>()
    const it: Pending = { asker, rendezvous: undefined, isOver: false, candidates: new Set(), settled, settle }
    if (!(await takePlace(it)))
      return refuse(UNAVAILABLE, isClosed ? CLOSING : `port ${port} is kept by others who connect to it`)
    const nonce = isOurs ? randomBytes(NONCE_BYTES) : undefined
    try {
      it.rendezvous = await listenForApp(
        { at: { host: local, port }, peer: peer.host, nonce, ms: connectMs },
        {
          clock,
          secure: options.secure,
          came: (guest) => enter(it, guest),
          refused: (why, from) => events.connected(app, why, from),
          missed: () => {
            for (const channel of it.candidates) channel.destroy('closed')
            over(it)
            events.connected(app, 'timeout', peer)
          },
        },
      )
    } catch (error) {
      over(it)
      return refuse(INTERNAL, (error as Error).message)
    }
    if (it.isOver) it.rendezvous.close()
    return { port: it.rendezvous.address.port, ...(nonce && { nonce }) }
  }

  return {
    ask,
    channels: () => [...channels],
    close: () => {
      isClosed = true
      for (const it of [...pending]) over(it)
      for (const channel of channels) channel.close()
    },
  }
}

/** What is said of a result in the log. */
export const connectText = (app: string, result: ConnectResult, from: Address, connectMs: number): string => {
  const where = formatAddress(from)
  return {
    opened: `app ${app} opened a callback channel from ${where}`,
    timeout: `app ${app} at ${where} did not connect its callback channel within ${connectMs} ms`,
    replaced: `app ${app} at ${where} asked for a callback channel again before it had connected the last one`,
    unauthenticated: `${where} asked for a callback channel of app ${app} without the right token`,
    refused: `app ${app} at ${where} was refused a callback channel`,
    failed: `no port could be opened for a callback channel of app ${app} at ${where}`,
    wrongPeer: `${where} connected to a port where app ${app} was expected from another address`,
    wrongNonce: `${where} connected to a port where app ${app} was expected, and did not prove to be it`,
    tlsFailed: `TLS on a callback channel of app ${app} from ${where} failed`,
    tooMany: `too many connect to a port where app ${app} was expected; ${where} pushed one out`,
    lost: `a callback channel of app ${app} from ${where} ended before its first ping`,
    silent: `app ${app} at ${where} fell silent on its callback channel before its first ping`,
    noFirstPing: `app ${app} at ${where} did not ping on its callback channel in time`,
    pingRefused: `app ${app} at ${where} does not take Ping on its callback channel`,
    brokeProtocol: `app ${app} at ${where} does not speak HTTP/2 on its callback channel`,
  }[result]
}
