import { createServer } from 'node:net'
import { type Asked, type Carried, type Pump, type RouteEnd, trafficOf } from '../native/pump.ts'
import { fdOf, type Shim } from '../native/shim.ts'
import { isLoopback } from '../net/address.ts'
import { type Foreseen, foresee, likeForeseen, resultOf, type World, writeForeseen } from '../proxy.ts'
import type { Alike } from '../telemetry/ledger.ts'
import type { Life } from '../telemetry/life.ts'
import { accept, type ListenerOptions, type Listening, listening } from './listen.ts'
import { NOT_REDIRECTED } from './originalDestination.ts'

const ROUTE_GOOD_MS = 1_000 // what a verdict rests on beside the policy (our own addresses) changes slowly

/** A stream without an error listener kills the process. */
const ignored = (): void => {}

/** Of a connection that the pump has dialled. */
const ITS_OWN = { ownDials: { opened: () => {}, isOwn: async () => true } }

/**
 * Opens a listener whose connections the pump accepts. Those that the policy calls opaque before a byte is read never
 * come to Node at all: once one is known, others from the same host to the same destination take its way, and only
 * their Outcomes are written here. All others become sockets, as from any listener.
 */
export const pumpListener =
  (pump: Pump, world: World, shim: Shim) =>
  async (options: ListenerOptions): Promise<Listening> => {
    const server = createServer()
    const { address, close } = await listening(server, options)
    const fd = fdOf(server)
    if (fd === undefined) throw new Error(`listener ${options.name} has no descriptor`)
    // Accepted sockets inherit these.
    shim.setNoDelay(fd)
    const { userTimeout = 0, keepalive = 0, mark = 0 } = options.sockets ?? {}
    const keepaliveSeconds = keepalive > 0 ? Math.max(1, Math.round(keepalive / 1000)) : 0
    if (userTimeout > 0) shim.setUserTimeout(fd, userTimeout)
    if (keepalive > 0) shim.setKeepalive(fd, { idle: keepaliveSeconds, interval: keepaliveSeconds, count: 3 })
    pump.dialOptions({ mark, userTimeoutMs: userTimeout, keepaliveSeconds })

    const foreseen: Foreseen[] = []
    const tags = new Map<string, number>()
    const lives = new Map<number, Life>()
    const tagOf = (kind: Foreseen): number => {
      const key = JSON.stringify([kind.rules, kind.fixed, kind.idleMs, kind.halfClosedMs, kind.connectMs])
      const known = tags.get(key)
      if (known !== undefined) return known
      tags.set(key, foreseen.push(kind))
      return foreseen.length
    }
    const facts = ({ peer, destination }: Carried) => {
      const { direction, name } = options
      return { direction, listener: name, peer, destination }
    }
    const kindOf = (tag: number): Foreseen => {
      const kind = foreseen[tag - 1]
      if (kind === undefined) throw new Error(`the pump knows a route ${tag} that nobody gave it`)
      return kind
    }
    const begin = (connection: Carried): Life => {
      const life = world.ledger.begin(facts(connection), connection.ageMs)
      writeForeseen(life, kindOf(connection.tag), world)
      return life
    }
    const alike = new Map<string, Alike>()
    const alikeOf = (end: RouteEnd): Alike => {
      const key = `${end.tag} ${end.ended} ${end.errno}`
      const known = alike.get(key)
      if (known !== undefined) return known
      const { ended, error } = trafficOf(end)
      const { direction } = options
      const made = {
        ...likeForeseen(kindOf(end.tag)),
        direction,
        result: resultOf(ended),
        ended,
        ...(error && { error }),
      }
      alike.set(key, made)
      return made
    }
    /** Whoever looks at the open connections sees these, too, though nothing is kept of them until then. */
    const show = () => {
      for (const connection of pump.carried()) {
        const { id } = connection
        if (connection.listener !== listener.number || lives.has(id)) continue
        const life = begin(connection)
        lives.set(id, life)
        life.isCarried = true
        life.recount = (count) => Object.assign(count, pump.count(id))
        // Its number may be another one's by then.
        life.closer = (why) => void (lives.get(id) === life && pump.close(id, why))
      }
    }
    const asked = (connection: Asked) => {
      const { peer, destination, open, isOwn } = connection
      const { direction, maxConnections, proxyProtocol = 'none' } = options
      if (destination !== undefined && !isOwn && open <= maxConnections && proxyProtocol === 'none') {
        const kind = foresee({ direction, peer, destination }, world)
        if (kind !== undefined) {
          // What calls this machine goes to it, unless somebody says where else.
          const isForUs = direction === 'inbound' && kind.fixed === undefined && options.destination === undefined
          const isNear = isForUs || isLoopback(kind.upstream.host)
          return connection.take({ ...kind, goodMs: ROUTE_GOOD_MS, tag: tagOf(kind), isNear })
        }
      }
      const { socket, left } = connection.release()
      socket.on('error', ignored)
      const found = destination === undefined ? NOT_REDIRECTED : { address: destination }
      accept({ socket, peer, open, options: isOwn ? { ...options, ...ITS_OWN } : options, world, found, left })
    }
    // A candidate policy is asked about each.
    const wantsEach = () => world.ledger.wantsOutcomes || world.candidate?.() !== undefined
    const ended = (end: RouteEnd) => {
      const { id, connection, lastedMs } = end
      const known = lives.get(id)
      if (known === undefined && connection === undefined) return world.ledger.count(alikeOf(end), lastedMs, end)
      const life = known ?? begin(connection as Carried)
      lives.delete(id)
      life.recount = undefined
      world.ledger.end(life, resultOf(end.ended), trafficOf(end), life.started + lastedMs)
    }
    const { destination, maxConnections } = options
    const isNear = isLoopback(address.host)
    const listener = pump.listen(fd, { destination, maxConnections, isNear, asked, wantsEach, ended })
    close() // The pump has a duplicate, which goes on listening.
    world.ledger.alsoOpen({ show, total: () => ({ direction: options.direction, ...pump.total(listener.number) }) })
    return { address, close: () => listener.stop() }
  }
