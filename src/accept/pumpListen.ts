import { createServer } from 'node:net'
import type { Asked, Carried, Pump } from '../native/pump.ts'
import { fdOf, type Shim } from '../native/shim.ts'
import type { Traffic } from '../net/traffic.ts'
import { type Foreseen, foresee, resultOf, type World, writeForeseen } from '../proxy.ts'
import type { Life } from '../telemetry/life.ts'
import { accept, type ListenerOptions, type Listening, listening } from './listen.ts'
import { NOT_REDIRECTED } from './originalDestination.ts'

const ROUTE_GOOD_MS = 1_000 // what a verdict rests on beside the policy (our own addresses) changes slowly

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
    const begin = (connection: Carried): Life => {
      const kind = foreseen[connection.tag - 1]
      if (kind === undefined) throw new Error(`the pump knows a route ${connection.tag} that nobody gave it`)
      const life = world.ledger.begin(facts(connection), connection.ageMs)
      writeForeseen(life, kind, world)
      return life
    }
    /** Whoever looks at the open connections sees these, too, though nothing is kept of them until then. */
    const show = () => {
      for (const connection of pump.carried()) {
        const { id } = connection
        if (connection.listener !== listener.number || lives.has(id)) continue
        const life = begin(connection)
        life.recount = (count) => Object.assign(count, pump.count(id))
        life.closer = (why) => pump.close(id, why)
        lives.set(id, life)
      }
    }
    const asked = (connection: Asked) => {
      const { peer, destination, open, isOwn } = connection
      const { direction, maxConnections, proxyProtocol = 'none' } = options
      if (destination !== undefined && !isOwn && open <= maxConnections && proxyProtocol === 'none') {
        const kind = foresee({ direction, peer, destination }, world)
        if (kind !== undefined) return connection.take({ ...kind, goodMs: ROUTE_GOOD_MS, tag: tagOf(kind) })
      }
      const { socket, left } = connection.release()
      socket.on('error', () => {})
      const found = destination === undefined ? NOT_REDIRECTED : { address: destination }
      const own = isOwn ? { ownDials: { opened: () => {}, isOwn: async () => true } } : {}
      void accept(socket, open, { ...options, ...own }, world, found).finally(left)
    }
    const ended = (connection: Carried, traffic: Traffic, lastedMs: number) => {
      const life = lives.get(connection.id) ?? begin(connection)
      lives.delete(connection.id)
      life.recount = undefined
      world.ledger.end(life, resultOf(traffic.ended), traffic, life.started + lastedMs)
    }
    const { destination, maxConnections } = options
    const listener = pump.listen(fd, { destination, maxConnections, asked, ended })
    close() // The pump has a duplicate, which goes on listening.
    world.ledger.alsoOpen(show)
    return { address, close: () => listener.stop() }
  }
