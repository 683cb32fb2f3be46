import { Balancer, type Taker, type Unavailable } from '../balance/balancer.ts'
import type { Wish } from '../balance/choose.ts'
import type { Circuit, Member } from '../balance/member.ts'
import { type Address, formatAddress } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import type { Dial } from '../net/connection.ts'
import type { Discovery, Resolution } from '../net/endpoint.ts'
import type { Balancing } from './balancing.ts'
import { isThere, isWell } from './healthCheck.ts'

/** Names in use at a time; each may hold a watch at its source. Beyond it, whoever was not asked for longest is forgotten. */
const SERVICES_MAX = 1_000
/** A name that nobody asks for is forgotten after this time; linkerd has less, and loses what it has learned. */
const IDLE_MS = 300_000
const SWEEP_MS = 30_000
/** How long the connect may take that asks whether an endpoint is back. */
const PROBE_MS = 1_000

/** A name, or a list of addresses, with its balancer. */
export interface Service {
  /** As it was asked for: `orders:80`, or the addresses. */
  readonly name: string
  readonly balancing: Balancing
  readonly balancer: Balancer
  /** What discovery last said; undefined before it has said anything, and always for a list of addresses. */
  readonly resolution: Resolution | undefined
  /** Takes an endpoint, now or later. Returns how to wait no longer. */
  take(wish: Wish, taker: Taker): () => void
}

/** What happens to the endpoints of a name. */
export type BalanceEvent =
  | { readonly is: 'circuit'; readonly service: Service; readonly member: Member; readonly before: Circuit }
  | { readonly is: 'failfast'; readonly service: Service; readonly isOn: boolean }
  | { readonly is: 'refused'; readonly service: Service; readonly why: Unavailable }

/** The balancers of one process, by what is asked for and by the settings it is asked for with. */
export class Balancers {
  readonly #clock: Clock
  readonly #random: () => number
  readonly #left: (address: Address) => void
  readonly #services = new Map<string, KeptService>()
  readonly #listKeys = new WeakMap<readonly Address[], string>()
  readonly #hearers = new Set<(event: BalanceEvent) => void>()
  #dial: Dial | undefined
  #isSweeping = false

  /** `left`: told of each address that is served no more. */
  constructor(clock: Clock, random: () => number, left: (address: Address) => void) {
    this.#clock = clock
    this.#random = random
    this.#left = left
  }

  /** From now on endpoints that are paused, or to be checked, are asked by connections of our own. */
  askBy(dial: Dial): void {
    this.#dial = dial
  }

  subscribe(hearer: (event: BalanceEvent) => void): void {
    this.#hearers.add(hearer)
  }

  /** All that are in use. */
  get services(): Iterable<Service> {
    return this.#services.values()
  }

  get size(): number {
    return this.#services.size
  }

  /** The balancer of a list of addresses. Undefined: there are too many in use. */
  ofAddresses(addresses: readonly Address[], balancing: Balancing): Service | undefined {
    let name = this.#listKeys.get(addresses)
    if (name === undefined) {
      name = addresses.map(formatAddress).join(', ')
      this.#listKeys.set(addresses, name)
    }
    return this.#find(name, balancing, addresses)
  }

  /** The balancer of a name. Undefined: there are too many in use. */
  ofName(name: Address, balancing: Balancing, discovery: Discovery): Service | undefined {
    const service = this.#find(formatAddress(name), balancing)
    service?.watch(name, discovery)
    return service
  }

  close(): void {
    for (const service of this.#services.values()) service.close()
    this.#services.clear()
  }

  #find(name: string, balancing: Balancing, addresses?: readonly Address[]): KeptService | undefined {
    const key = `${name} ${balancing.id}`
    const known = this.#services.get(key)
    if (known !== undefined) return known
    if (this.#services.size >= SERVICES_MAX && !this.#forgetOldest()) return undefined
    const service = new KeptService(name, balancing, this.#clock, this.#random, {
      dial: () => this.#dial,
      left: this.#left,
      hear: (event) => {
        for (const hear of this.#hearers) hear(event)
      },
    })
    this.#services.set(key, service)
    if (addresses) service.balancer.replace(addresses.map((address) => ({ address, weight: 1, labels: {} })))
    this.#sweepLater()
    return service
  }

  #forgetOldest(): boolean {
    let oldest: [string, KeptService] | undefined
    for (const entry of this.#services)
      if (entry[1].isIdle && (oldest === undefined || entry[1].usedAt < oldest[1].usedAt)) oldest = entry
    if (oldest === undefined) return false
    this.#services.delete(oldest[0])
    oldest[1].close()
    return true
  }

  #sweepLater(): void {
    if (this.#isSweeping) return
    this.#isSweeping = true
    this.#clock.after(SWEEP_MS, () => {
      this.#isSweeping = false
      const until = this.#clock.now() - IDLE_MS
      for (const [key, service] of this.#services) {
        if (!service.isIdle || service.usedAt > until) continue
        this.#services.delete(key)
        service.close()
      }
      if (this.#services.size > 0) this.#sweepLater()
    })
  }
}

/** What a service needs of the process. */
interface Around {
  readonly dial: () => Dial | undefined
  readonly left: (address: Address) => void
  readonly hear: (event: BalanceEvent) => void
}

class KeptService implements Service {
  readonly name: string
  readonly balancing: Balancing
  readonly balancer: Balancer
  resolution: Resolution | undefined
  usedAt: number
  readonly #clock: Clock
  readonly #random: () => number
  readonly #around: Around
  #discovery: Discovery | undefined
  #stop = () => {}
  #isClosed = false

  constructor(name: string, balancing: Balancing, clock: Clock, random: () => number, around: Around) {
    this.name = name
    this.balancing = balancing
    this.usedAt = clock.now()
    this.#clock = clock
    this.#random = random
    this.#around = around
    const isAsking = around.dial() !== undefined
    this.balancer = new Balancer(balancing.settings, clock, random, {
      circuit: (member, before) => around.hear({ is: 'circuit', service: this, member, before }),
      failfast: (isOn) => around.hear({ is: 'failfast', service: this, isOn }),
      joined: (member) => this.#checkLater(member, random()),
      left: ({ endpoint }) => around.left(endpoint.address),
      probe: isAsking ? (member, found) => this.#probe(member, found) : undefined,
    })
  }

  /** Hears what becomes of the name. After a reload there may be others who know it; until they say, it stays as it is. */
  watch(name: Address, discovery: Discovery): void {
    if (this.#discovery === discovery) return
    this.#stop()
    this.#discovery = discovery
    this.#stop = discovery.watch(name, (resolution) => {
      if (this.#discovery === discovery) this.resolved(resolution)
    })
  }

  get isIdle(): boolean {
    return this.balancer.inFlight === 0 && this.balancer.queued === 0
  }

  resolved(resolution: Resolution): void {
    if (this.#isClosed) return
    this.resolution = resolution
    this.balancer.replace(resolution.is === 'endpoints' ? resolution.endpoints : [])
    if (this.#isNowhere()) this.balancer.dismiss('absent')
  }

  /** Whether the policy wants those told who ask for a name that is known to be served nowhere. */
  #isNowhere(): boolean {
    const { otherwise } = this.balancing
    if (otherwise === 'failfast' || this.resolution === undefined) return false
    return this.resolution.is === 'absent' || (otherwise === 'original' && this.resolution.endpoints.length === 0)
  }

  take(wish: Wish, taker: Taker): () => void {
    this.usedAt = this.#clock.now()
    if (this.#isNowhere()) {
      taker.refused('absent')
      return () => {}
    }
    return this.balancer.take(wish, {
      taken: (use) => taker.taken(use),
      refused: (why) => {
        this.#around.hear({ is: 'refused', service: this, why })
        taker.refused(why)
      },
    })
  }

  close(): void {
    this.#isClosed = true
    this.#stop()
    this.balancer.close()
  }

  #probe({ endpoint }: Member, found: (isThere: boolean) => void): void {
    const dial = this.#around.dial()!
    void isThere(dial, endpoint.address, PROBE_MS, this.#clock).then(found)
  }

  /** The first check comes at a random moment of the interval, so that not all are asked at once. */
  #checkLater(member: Member, part: number): void {
    const { health } = this.balancing
    const dial = this.#around.dial()
    if (health === undefined || dial === undefined) return
    this.#clock.after(health.intervalMs * part, async () => {
      if (this.#isClosed || member.isGone) return
      const isGood = await isWell(dial, member.endpoint.address, hostOf(this.name), health, this.#clock)
      this.balancer.checked(member, isGood, health.failuresMax)
      this.#checkLater(member, 0.9 + 0.2 * this.#random())
    })
  }
}

/** What a check says it asks for: the name, or of a list its first address. */
const hostOf = (name: string): string => name.split(',', 1)[0]!
