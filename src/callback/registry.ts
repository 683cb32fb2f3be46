import type { Channels } from '../forward/channels.ts'
import type { Waiter } from '../forward/pool.ts'
import type { Clock } from '../net/clock.ts'
import { codedError } from '../net/codedError.ts'
import type { Channel } from './channel.ts'
import { openTunnel } from './tunnel.ts'

/** How calls are given to channels. */
export interface RegistryOptions {
  readonly clock: Clock
  readonly pick: 'leastLoaded' | 'newest'
  /** How long a call waits where there is no room. */
  readonly waitMs: number
  /** Calls that may wait for one app. */
  readonly pendingMax: number
}

/** Every channel, by the app at its other end. */
export interface Registry extends Omit<Channels, 'views'> {
  readonly add: (channel: Channel) => void
  readonly remove: (channel: Channel) => void
  /** There may be more room on it than before. */
  readonly freed: (channel: Channel) => void
  /** Of one app, or of all: oldest first. */
  readonly list: (app?: string) => readonly Channel[]
  /** Calls that wait for a channel of this app. */
  readonly waiting: (app: string) => number
  /** The same for every app for which some do. */
  readonly allWaiting: () => readonly (readonly [app: string, calls: number])[]
  /** The channel that the next call of an app would go to. */
  readonly next: (app: string) => Channel | undefined
}

/** A call that waits, and whether any channel will do. */
interface Pending {
  readonly waiter: Waiter
  readonly mayTake: MayTake
  readonly cancelTimer: () => void
}

interface App {
  readonly channels: Set<Channel>
  readonly waiting: Pending[]
}

type MayTake = (channel: Channel) => boolean

const ANY: MayTake = () => true
const nothing = (): void => {}

/** An empty one. Nothing is kept of an app that has no channel and that nobody waits for. */
export const createRegistry = ({ clock, pick, waitMs, pendingMax }: RegistryOptions): Registry => {
  const apps = new Map<string, App>()
  let picked = 0

  const appOf = (name: string): App => {
    let found = apps.get(name)
    if (found === undefined) {
      found = { channels: new Set(), waiting: [] }
      apps.set(name, found)
    }
    return found
  }
  const forgetIfEmpty = (name: string): void => {
    const app = apps.get(name)
    if (app !== undefined && app.channels.size === 0 && app.waiting.length === 0) apps.delete(name)
  }

  const find = (name: string, mayTake: MayTake): Channel | undefined => {
    let best: Channel | undefined
    for (const channel of apps.get(name)?.channels ?? []) {
      if (channel.room() === 0 || !mayTake(channel)) continue
      // They are in the order in which they came up.
      if (best === undefined || pick === 'newest' || isBetter(channel, best)) best = channel
    }
    return best
  }
  const take = (name: string, mayTake: MayTake): Channel | undefined => {
    const found = find(name, mayTake)
    if (found !== undefined) found.lastPicked = ++picked
    return found
  }

  const acquire = (name: string, waiter: Waiter, mayTake = ANY): (() => void) => {
    const found = take(name, mayTake)
    if (found !== undefined) {
      waiter.ready(found)
      return nothing
    }
    const app = apps.get(name)
    if (waitMs === 0) waiter.failed(failureOf(app))
    else if ((app?.waiting.length ?? 0) >= pendingMax)
      waiter.failed(codedError('POOL_PENDING', `${pendingMax} calls wait for a channel of ${name} already`))
    else return wait(name, waiter, mayTake)
    return nothing
  }

  const wait = (name: string, waiter: Waiter, mayTake: MayTake): (() => void) => {
    const { waiting } = appOf(name)
    const forget = (): boolean => {
      const at = waiting.indexOf(pending)
      if (at >= 0) waiting.splice(at, 1)
      forgetIfEmpty(name)
      return at >= 0
    }
    const cancelTimer = clock.after(waitMs, () => forget() && waiter.failed(failureOf(apps.get(name))))
    const pending: Pending = { waiter, mayTake, cancelTimer }
    waiting.push(pending)
    return () => forget() && cancelTimer()
  }

  /** Those who wait get what room there is, in their order. */
  const serve = (name: string): void => {
    const { waiting } = apps.get(name) ?? NO_APP
    for (let at = 0; at < waiting.length; ) {
      const pending = waiting[at]!
      const found = take(name, pending.mayTake)
      if (found === undefined) {
        at += 1
        continue
      }
      waiting.splice(at, 1)
      pending.cancelTimer()
      pending.waiter.ready(found)
    }
  }

  return {
    acquire: (name, waiter) => acquire(name, waiter),
    tunnel: (name, to, signal) => openTunnel(name, to, signal, (waiter) => acquire(name, waiter, takesTcp)),
    add: (channel) => {
      appOf(channel.peer.app).channels.add(channel)
      serve(channel.peer.app)
    },
    remove: (channel) => {
      apps.get(channel.peer.app)?.channels.delete(channel)
      forgetIfEmpty(channel.peer.app)
    },
    freed: ({ peer }) => {
      if ((apps.get(peer.app)?.waiting.length ?? 0) > 0) serve(peer.app)
    },
    list: (name) =>
      name === undefined
        ? [...apps.values()].flatMap(({ channels }) => [...channels])
        : [...(apps.get(name)?.channels ?? [])],
    waiting: (name) => apps.get(name)?.waiting.length ?? 0,
    allWaiting: () => [...apps].map(([name, { waiting }]) => [name, waiting.length] as const),
    next: (name) => find(name, ANY),
  }
}

const NO_APP: App = { channels: new Set(), waiting: [] }

/** Fewer calls; and of those with as many, the one that was not given work for longer. */
const isBetter = (one: Channel, other: Channel): boolean =>
  one.load < other.load || (one.load === other.load && one.lastPicked < other.lastPicked)

const takesTcp = ({ peer }: Channel): boolean => peer.isOurs

const failureOf = (app: App | undefined): Error =>
  [...(app?.channels ?? [])].some(({ state }) => state === 'up')
    ? codedError('POOL_PENDING', 'no channel of the app has had room in time')
    : codedError('NO_CHANNEL', 'the app has no open channel')
