import { fail } from 'node:assert'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Relay, RelayOptions } from '../net/relay.ts'
import type { Ending, Traffic } from '../net/traffic.ts'
import { type Addon, type Loaded, loadAddon, systemError } from './addon.ts'
import { fdOf } from './shim.ts'

const PIPES_MAX = 256 // two descriptors each; connections with bytes in flight beyond that are copied
const ROWS = 256
const ROW = 5 // id, end, error, sent, received: as pumpNode.c writes them

/** What the numbers of `enum pump_end` mean; undefined for what we ordered ourselves. */
const ENDINGS: readonly (Ending | undefined)[] = [
  'closed',
  'clientReset',
  'upstreamReset',
  'idleTimeout',
  'halfClosedTimeout',
  undefined,
  'internalError',
]

interface Pumped {
  readonly count: RelayOptions['count']
  readonly resolve: (traffic: Traffic) => void
  told: Ending | undefined
}

/**
 * Starts the pump's thread, once a process or worker, which gives a relay that moves the bytes of plain sockets there, with splice. `plain` is
 * for streams that are no plain sockets, and for when descriptors run out.
 */
export const loadPump = (plain: Relay, path?: string): Loaded<Relay> => {
  const loaded = loadAddon(path)
  if (loaded.is === 'missing') return loaded
  const addon = loaded.value
  const open = new Map<number, Pumped>()
  const rows = new Float64Array(ROWS * ROW)
  const counts = new Float64Array(2)

  const collect = () => {
    for (let count = ROWS; count === ROWS; ) {
      count = addon.pumpTakeEnded(rows)
      for (let at = 0; at < count * ROW; at += ROW) settle(at)
    }
    if (open.size === 0) addon.pumpHold(false)
  }
  const settle = (at: number) => {
    const [id = 0, end = 0, error = 0, sent = 0, received = 0] = rows.subarray(at, at + ROW)
    const { count, resolve, told } = open.get(id) ?? fail(`the pump reported connection ${id}, which is not open`)
    open.delete(id)
    count.sent = sent
    count.received = received
    const ended = ENDINGS[end] ?? told ?? 'drained'
    resolve({ sent, received, ended, ...(error !== 0 && { error: errorOf(error) }) })
  }

  const started = addon.pumpStart(PIPES_MAX, collect)
  if (started < 0) return { is: 'missing', reason: `cannot start the pump: ${systemError('pumpStart', started).code}` }

  const pump: Relay = (client, upstream, options) => {
    const id = handOver(addon, client, upstream, options)
    if (id === undefined) return plain(client, upstream, options)
    if (open.size === 0) addon.pumpHold(true)
    return new Promise((resolve) => {
      const { count } = options
      const pumped: Pumped = { count, resolve, told: undefined }
      open.set(id, pumped)
      const isOpen = () => open.get(id) === pumped
      const close = (why: Ending) => {
        if (!isOpen() || pumped.told !== undefined) return
        pumped.told = why
        addon.pumpClose(id)
      }
      const recount = () => {
        if (!isOpen()) return
        addon.pumpCount(id, counts)
        count.sent = counts[0]!
        count.received = counts[1]!
      }
      options.onCloser?.(close, recount)
    })
  }
  return { is: 'ready', value: pump }
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

/** The descriptor of a connected socket that has nothing left to write; TLS and all other streams have none here. */
const plainFd = (stream: Duplex): number | undefined => {
  if (Object.getPrototypeOf(stream) !== Socket.prototype || stream.destroyed) return undefined
  if ((stream as Socket).connecting || stream.writableLength > 0 || stream.writableEnded) return undefined
  return fdOf(stream)
}

/** All that Node has read of a stream and nobody has taken yet. */
const takeRead = (stream: Duplex): Buffer | undefined => {
  const chunks: Buffer[] = []
  for (let chunk: Buffer | null; (chunk = stream.read() as Buffer | null) !== null; ) chunks.push(chunk)
  return chunks.length > 1 ? Buffer.concat(chunks) : chunks[0]
}

const errorOf = (error: number): NonNullable<Traffic['error']> => {
  const { code = 'UNKNOWN', message } = systemError('pump', -error)
  return { code, message }
}
