import { isIP } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Use } from '../balance/use.ts'
import { type Address, formatAddress } from '../net/address.ts'
import type { Dial } from '../net/connection.ts'
import { dialWithin } from '../net/dial.ts'
import { settled, type Verdict } from '../policy/verdict.ts'
import { balancingOf } from './balancing.ts'
import { Choosing, connectFailed, hashFor, unavailableError } from './choosing.ts'
import type { Fields, RequestHead } from './exchange.ts'
import type { Plan } from './plan.ts'
import type { Cause } from './reply.ts'
import { reachMs } from './upstreamTls.ts'

/** What of a plan the choice of an endpoint depends on. */
type Around = Pick<Plan, 'connection' | 'clock' | 'http' | 'discovery' | 'policy'>

/** For whom there is something to choose. */
interface Asked {
  readonly verdict: Verdict
  readonly connectMs: number
  /** Of a request. */
  readonly fields?: Fields
  /** What a request names as its destination. */
  readonly name?: Address | undefined
  readonly scheme?: string
}

/** The one address that a verdict leaves; undefined where there is a choice, or nothing that has an address. */
export const fixedAddress = (verdict: Verdict, destination: Address): Address | undefined => {
  const upstream = settled(verdict.upstream)
  if (upstream.is === 'original') return destination
  return upstream.is === 'addresses' && upstream.addresses.length === 1 ? upstream.addresses[0] : undefined
}

/** Where a verdict leads, as text: the address, or what there is to choose from. */
export const placeOf = (verdict: Verdict, destination: Address): string => {
  const fixed = fixedAddress(verdict, destination)
  return fixed === undefined ? JSON.stringify(settled(verdict.upstream)) : formatAddress(fixed)
}

/** Whether such a text is one address. */
export const isFixed = (place: string): boolean => !place.startsWith('{')

/** The endpoints to choose from, or why there are none. */
export const choosingOf = (
  { connection, clock, http, discovery }: Around,
  { verdict, connectMs, fields, name, scheme }: Asked,
): Choosing | Cause => {
  const upstream = settled(verdict.upstream)
  const balancing = balancingOf(verdict)
  const hash = hashFor(balancing, connection.peer, fields)
  const chosen = (service: ReturnType<typeof http.balancers.ofAddresses>) =>
    service === undefined ? 'overloaded' : new Choosing(service, clock, hash, connectMs)
  if (upstream.is === 'addresses') return chosen(http.balancers.ofAddresses(upstream.addresses, balancing))
  const isTls = settled(verdict['upstream.tls']) !== false
  const port = scheme === undefined ? connection.destination.port : portOf(isTls ? 'https' : 'http')
  const to = upstream.is === 'authority' ? { host: upstream.name, port: upstream.port ?? port } : name
  // The policy names something, and nobody knows names here.
  const names = discovery?.()
  if (to === undefined || names === undefined) return 'noRoute'
  return chosen(http.balancers.ofName(to, balancing, names))
}

/**
 * The name that a request asks for by its authority. Only where the workload calls out: what comes in is for the workload,
 * whatever it is called outside. An IP address is no name; it is where the client went anyway.
 */
export const impliedName = ({ connection }: Around, { authority, scheme }: RequestHead): Address | undefined => {
  if (connection.direction !== 'outbound') return undefined
  const found = /^([^:[\]]+)(?::(\d+))?$/.exec(authority)
  if (found === null || isIP(found[1]!) !== 0) return undefined
  return { host: found[1]!, port: found[2] === undefined ? portOf(scheme) : Number(found[2]) }
}

const portOf = (scheme: string): number => (scheme === 'https' ? 443 : 80)

/** A connection to an upstream. */
export interface Reached {
  readonly to: Address
  readonly stream: Duplex
  /** Where it was chosen among several: to be released at the end. */
  readonly use?: Use | undefined
  /** The name that matched. */
  readonly name?: string | undefined
}

/** How to get there. */
interface Reaching {
  readonly verdict: Verdict
  /** The dial, prepared for whom it is: the name that his certificate has to prove, where discovery gives one. */
  readonly dialFor: (identity: string | undefined) => Dial
  readonly signal?: AbortSignal
  /** Told of each address before it is dialled. */
  readonly trying?: (to: Address) => void
}

/** Dials where a verdict leads; of several endpoints one after the other, until one answers. */
export const reachUpstream = async (plan: Around, reaching: Reaching): Promise<Reached> => {
  const { verdict } = reaching
  const { destination } = plan.connection
  const fixed = fixedAddress(verdict, destination)
  if (fixed !== undefined) return reachAddress(plan, reaching, fixed)
  const choosing = choosingOf(plan, { verdict, connectMs: settled(verdict['limits.connect']) })
  if (!(choosing instanceof Choosing))
    throw unavailableError(choosing === 'overloaded' ? 'overloaded' : 'absent', undefined)
  try {
    return await reachOne(plan, reaching, choosing)
  } catch (error) {
    const isAbsent = (error as NodeJS.ErrnoException).code === 'ABSENT'
    if (isAbsent && choosing.leavesOriginal('absent')) return await reachAddress(plan, reaching, destination)
    throw error
  }
}

const reachAddress = async (plan: Around, reaching: Reaching, to: Address): Promise<Reached> => {
  const { verdict, dialFor, signal, trying } = reaching
  trying?.(to)
  return {
    to,
    stream: await dialWithin(dialFor(undefined), to, reachMs(verdict, plan.policy.sections), plan.clock, signal),
  }
}

const reachOne = async (
  { clock, policy }: Around,
  { verdict, dialFor, signal, trying }: Reaching,
  choosing: Choosing,
): Promise<Reached> => {
  const ms = reachMs(verdict, policy.sections)
  while (true) {
    const use = await taken(choosing, signal)
    const { address, identity } = use.member.endpoint
    trying?.(address)
    try {
      const stream = await dialWithin(dialFor(identity), address, ms, clock, signal)
      use.answered()
      use.judged(true)
      return { to: address, stream, use, name: choosing.name }
    } catch (error) {
      connectFailed(use, error as Error, signal?.aborted)
      if (signal?.aborted || !choosing.mayGoOn(error as Error)) throw error
    }
  }
}

const taken = (choosing: Choosing, signal: AbortSignal | undefined): Promise<Use> =>
  new Promise((resolve, reject) => {
    const settle = () => signal?.removeEventListener('abort', giveUp)
    const giveUp = () => {
      stop()
      reject(unavailableError('failfast', undefined))
    }
    let stop = () => {}
    signal?.addEventListener('abort', giveUp, { once: true })
    stop = choosing.choose({
      chosen: (use) => {
        settle()
        resolve(use)
      },
      unavailable: (why, failure) => {
        settle()
        reject(unavailableError(why, failure))
      },
    })
  })
