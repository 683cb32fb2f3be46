import { fail } from 'node:assert'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Address } from '../net/address.ts'
import type { Relay, RelayOptions } from '../net/relay.ts'
import type { Ending, Traffic } from '../net/traffic.ts'
import { type Addon, checked, type Loaded, loadAddon, systemError } from './addon.ts'
import { plainFd, socketOf } from './socket.ts'

/** Moves the bytes of opaque connections on a thread of the shim, with splice, and accepts connections there. */
export interface Pump {
  /** Relays plain sockets that Node has opened; anything else in the plain way. */
  readonly relay: Relay
  /** Accepts from a listening descriptor, of which it makes a duplicate, and asks about each connection it has no route for. */
  listen(fd: number, options: PumpListenOptions): { readonly number: number; readonly stop: () => void }
  /** All routes are forgotten: whoever comes next is asked about. */
  forgetRoutes(): void
  /** What is told the kernel about the sockets it opens; 0 leaves a thing as it is. */
  dialOptions(options: {
    readonly mark: number
    readonly userTimeoutMs: number
    readonly keepaliveSeconds: number
  }): void
  /** The connections that run along routes, as they are now. */
  carried(): readonly Carried[]
  count(id: number): { sent: number; received: number }
  /** The sums over the connections of a listener that run along routes, until their ends were told. */
  total(listener: number): { readonly open: number; readonly sent: number; readonly received: number }
  close(id: number, why: Ending): void
}

export interface PumpListenOptions {
  /** Where every connection goes; without it the kernel is asked for the original destination. */
  readonly destination: Address | undefined
  readonly maxConnections: number
  /** Whoever calls is on this machine. */
  readonly isNear: boolean
  /** Must call take or release, in this turn or later. */
  readonly asked: (connection: Asked) => void
  /** Whether somebody wants to know which connections end, and not only what of. */
  readonly wantsEach: () => boolean
  /** A connection that ran along a route is over. */
  readonly ended: (end: RouteEnd) => void
}

/** The end of a connection on a route. */
export interface RouteEnd {
  readonly id: number
  readonly tag: number
  readonly lastedMs: number
  readonly ended: Ending
  /** 0 when nothing went wrong. */
  readonly errno: number
  readonly sent: number
  readonly received: number
  /** Undefined unless `wantsEach`. */
  readonly connection: Carried | undefined
}

/** An accepted connection that waits for an answer. */
export interface Asked {
  readonly peer: Address
  readonly destination: Address | undefined
  /** How many connections this listener has, this one included. */
  readonly open: number
  /** The pump dialled it itself, and it was redirected to us: a loop. */
  readonly isOwn: boolean
  /** Goes this way, as do for a while all from the same peer's host to the same destination. */
  take(route: Route): void
  /** Leaves the pump: Node's from now on. `left` is called when it is over. */
  release(): { readonly socket: Socket; readonly left: () => void }
}

/** Where connections go that need no question. */
export interface Route {
  readonly upstream: Address
  readonly idleMs: number
  readonly halfClosedMs: number
  readonly connectMs: number
  /** The upstream is on this machine. */
  readonly isNear: boolean
  /** How long the answer is good. */
  readonly goodMs: number
  /** The caller's number for it, from 1. */
  readonly tag: number
}

/** A connection on a route. */
export interface Carried {
  readonly id: number
  /** The number that pump.listen gave. */
  readonly listener: number
  readonly tag: number
  readonly peer: Address
  readonly destination: Address
  readonly ageMs: number
}

const PIPES_MAX = 256 // two descriptors each; connections with bytes in flight beyond that are copied
const ROWS = 256
const ROW = 11 // id, listener, open or how long it lasted, tag, peer's port, destination's port, age, end, error, sent, received: see pumpNode.c

/** What the numbers of `enum pump_end` mean; undefined for what we ordered ourselves. */
const ENDINGS: readonly (Ending | undefined)[] = [
  'closed',
  'clientReset',
  'upstreamReset',
  'idleTimeout',
  'halfClosedTimeout',
  undefined,
  'internalError',
  'connectFailed',
  'connectTimeout',
  'clientGone',
]

/** What pumpNode.c writes about connections: `ROW` numbers and two hosts for each. */
interface Rows {
  readonly rows: Float64Array
  readonly hosts: string[]
}

interface Pumped {
  readonly count: RelayOptions['count']
  readonly resolve: (traffic: Traffic) => void
  told: Ending | undefined
}

/**
 * Starts the pump's thread, once a process or worker. `plain` is for streams that are no plain sockets, and for when
 * descriptors run out.
 */
export const loadPump = (plain: Relay, path?: string): Loaded<Pump> => {
  const loaded = loadAddon(path)
  if (loaded.is === 'missing') return loaded
  const addon = loaded.value
  const relayed = new Map<number, Pumped>()
  const listeners = new Map<number, PumpListenOptions & { readonly left: () => void }>()
  const stopped = new Set<number>()
  const told = new Map<number, Ending>()
  const heard: Rows = { rows: new Float64Array(ROWS * ROW), hosts: [] }
  // Of its own, because whoever hears of an end may look at what is left.
  const listed: Rows = { rows: new Float64Array(ROWS * ROW), hosts: [] }
  const { rows, hosts } = heard
  const counts = new Float64Array(3)
  let holding = false

  /** Open connections and listeners keep the process alive, as those of Node do. */
  const hold = () => {
    const wanted = relayed.size > 0 || stopped.size < listeners.size || (listeners.size > 0 && carried().length > 0)
    if (wanted !== holding) addon.pumpHold(wanted)
    holding = wanted
  }
  /** One list may grow while the other is taken: looked at until both are empty. */
  const hear = () => {
    let each = false
    for (const { wantsEach } of listeners.values()) each ||= wantsEach()
    for (let found = 1; found > 0; ) {
      const accepted = addon.pumpTakeAccepted(rows, hosts)
      for (let row = 0; row < accepted; row += 1) ask(row)
      const ended = addon.pumpTakeEnded(rows, each ? hosts : undefined)
      for (let row = 0; row < ended; row += 1) settle(row, each)
      found = accepted + ended
    }
    if (stopped.size === listeners.size) hold()
  }
  const carriedIn = ({ rows, hosts }: Rows, row: number): Carried => {
    const at = row * ROW
    return {
      id: rows[at]!,
      listener: rows[at + 1]!,
      tag: rows[at + 3]!,
      peer: { host: hosts[2 * row]!, port: rows[at + 4]! },
      destination: { host: hosts[2 * row + 1]!, port: rows[at + 5]! },
      ageMs: rows[at + 6]!,
    }
  }
  const ask = (row: number) => {
    const { id, listener, peer, destination } = carriedIn(heard, row)
    const open = rows[row * ROW + 2]!
    const { asked, left } = listeners.get(listener) ?? fail(`the pump accepted for listener ${listener}`)
    asked({
      peer,
      destination: destination.host === '' ? undefined : destination,
      open,
      isOwn: rows[row * ROW + 7] === 1,
      take: ({ upstream: { host, port }, idleMs, halfClosedMs, connectMs, tag, goodMs, isNear }) => {
        const taken = addon.pumpTakeRoute(id, host, port, idleMs, halfClosedMs, connectMs, tag, goodMs, isNear)
        checked('pumpTakeRoute', taken)
      },
      release: () => {
        return { socket: socketOf(addon, checked('pumpRelease', addon.pumpRelease(id))), left }
      },
    })
  }
  const settle = (row: number, each: boolean) => {
    const at = row * ROW
    const id = rows[at]!
    const errno = rows[at + 8]!
    const sent = rows[at + 9]!
    const received = rows[at + 10]!
    const ending = ENDINGS[rows[at + 7]!]
    const pumped = relayed.get(id)
    if (pumped !== undefined) {
      relayed.delete(id)
      Object.assign(pumped.count, { sent, received })
      return pumped.resolve(trafficOf({ ended: ending ?? pumped.told ?? 'drained', errno, sent, received }))
    }
    const ended = ending ?? told.get(id) ?? 'drained'
    if (told.size > 0) told.delete(id)
    const listener = rows[at + 1]!
    const { ended: hear } = listeners.get(listener) ?? fail(`the pump carried ${id} for listener ${listener}`)
    const connection = each ? carriedIn(heard, row) : undefined
    hear({ id, tag: rows[at + 3]!, lastedMs: rows[at + 2]!, ended, errno, sent, received, connection })
  }
  const carried = (): readonly Carried[] => {
    const found: Carried[] = []
    for (let from = 0, count = ROWS - 1; count === ROWS - 1; ) {
      count = addon.pumpList(from, listed.rows, listed.hosts)
      for (let row = 0; row < count; row += 1) found.push(carriedIn(listed, row))
      from = listed.rows[count * ROW]!
    }
    return found
  }
  const count = (id: number) => {
    addon.pumpCount(id, counts)
    return { sent: counts[0]!, received: counts[1]! }
  }

  const total = (listener: number) => {
    addon.pumpTotal(listener, counts)
    return { open: counts[0]!, sent: counts[1]!, received: counts[2]! }
  }

  const started = addon.pumpStart(PIPES_MAX, hear)
  if (started < 0) return { is: 'missing', reason: `cannot start the pump: ${systemError('pumpStart', started).code}` }

  const relay: Relay = (client, upstream, options) => {
    const id = handOver(addon, client, upstream, options)
    if (id === undefined) return plain(client, upstream, options)
    return new Promise((resolve) => {
      const pumped: Pumped = { count: options.count, resolve, told: undefined }
      relayed.set(id, pumped)
      hold()
      const isOpen = () => relayed.get(id) === pumped
      const close = (why: Ending) => {
        if (!isOpen() || pumped.told !== undefined) return
        pumped.told = why
        addon.pumpClose(id)
      }
      options.onCloser?.(close, () => void (isOpen() && Object.assign(pumped.count, count(id))))
    })
  }
  const listen = (fd: number, options: PumpListenOptions) => {
    const { host, port } = options.destination ?? { host: '', port: 0 }
    const listener = checked('pumpListen', addon.pumpListen(fd, host, port, options.maxConnections, options.isNear))
    // One for all its connections, however many are open.
    listeners.set(listener, { ...options, left: () => addon.pumpLeft(listener) })
    hold()
    const stop = () => {
      if (stopped.has(listener)) return
      stopped.add(listener)
      addon.pumpStopListening(listener)
      hold()
    }
    return { number: listener, stop }
  }
  const close = (id: number, why: Ending) => {
    if (told.has(id)) return
    told.set(id, why)
    addon.pumpClose(id)
  }
  const forgetRoutes = () => addon.pumpForgetRoutes()
  const dialOptions: Pump['dialOptions'] = ({ mark, userTimeoutMs, keepaliveSeconds }) =>
    addon.pumpDialOptions(mark, userTimeoutMs, keepaliveSeconds)
  return { is: 'ready', value: { relay, listen, forgetRoutes, dialOptions, carried, count, total, close } }
}

/**
 * Moves two sockets out of Node and into the pump, in one turn of the loop: what Node has read goes with them, the
 * kernel keeps the rest, and Node's own descriptors are closed, which ends nothing, because the pump has duplicates.
 * Undefined, and nothing is changed, when they are no plain sockets, or when there are no descriptors.
 */
const handOver = (addon: Addon, client: Duplex, upstream: Duplex, options: RelayOptions): number | undefined => {
  const clientFd = plainFd(client)
  const upstreamFd = plainFd(upstream)
  if (clientFd === undefined || upstreamFd === undefined) return undefined
  const toUpstream = takeRead(client)
  const toClient = takeRead(upstream)
  const id = addon.pumpAdd(clientFd, upstreamFd, toClient, toUpstream, options.idleMs, options.halfClosedMs)
  if (id < 0) {
    if (toUpstream) client.unshift(toUpstream)
    if (toClient) upstream.unshift(toClient)
    return undefined
  }
  client.destroy()
  upstream.destroy()
  return id
}

/** All that Node has read of a stream and nobody has taken yet. */
const takeRead = (stream: Duplex): Buffer | undefined => {
  const chunks: Buffer[] = []
  for (let chunk: Buffer | null; (chunk = stream.read() as Buffer | null) !== null; ) chunks.push(chunk)
  return chunks.length > 1 ? Buffer.concat(chunks) : chunks[0]
}

/** Of an end, what an Outcome says. */
export const trafficOf = ({
  ended,
  errno,
  sent,
  received,
}: Pick<RouteEnd, 'ended' | 'errno' | 'sent' | 'received'>): Traffic => ({
  sent,
  received,
  ended,
  ...((errno !== 0 || ended in EXPLAINED) && { error: errorOf(ended, errno) }),
})

/** Ends that are no errno, in the words of net/dial.ts. */
const EXPLAINED: Partial<Record<Ending, NonNullable<Traffic['error']>>> = {
  connectTimeout: { code: 'CONNECT_TIMEOUT', message: 'no answer to the connect in time' },
  clientGone: { code: 'ABORT_ERR', message: 'the connect was given up' },
}

const errorOf = (ended: Ending, error: number): NonNullable<Traffic['error']> => {
  const { code = 'UNKNOWN', message } = systemError('pump', -error)
  return EXPLAINED[ended] ?? { code, message }
}
