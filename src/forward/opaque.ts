import type { Duplex } from 'node:stream'
import { type Address, sameAddress } from '../net/address.ts'
import { codedError } from '../net/codedError.ts'
import type { Dial } from '../net/connection.ts'
import { dialWithin } from '../net/dial.ts'
import { described, reset } from '../net/relay.ts'
import { HandshakeError } from '../net/tls/failure.ts'
import type { Ending } from '../net/traffic.ts'
import { settled } from '../policy/verdict.ts'
import { announcing } from './announce.ts'
import { discard } from './earlyDial.ts'
import type { Forwarder, Plan } from './plan.ts'

/** Bytes both ways, untouched, to the address that the policy names: the original destination unless it says otherwise. */
export const opaque: Forwarder = async (stream, plan, dial) => {
  const { clock, life, verdict } = plan
  const clientGone = new AbortController()
  const giveUp = () => clientGone.abort()
  life.closer = giveUp
  stream.once('close', giveUp)
  let upstream: Duplex
  try {
    upstream = await connect(plan, dial, settled(verdict['limits.connect']), clientGone.signal)
  } catch (error) {
    // The client learns what it would have learned from the server itself: the connection is refused.
    reset(stream)
    return { sent: 0, received: 0, ended: endingOf(plan, error as Error), error: described(error as Error) }
  } finally {
    stream.off('close', giveUp)
  }
  return plan.relay(stream, upstream, {
    clock,
    idleMs: settled(verdict['limits.idle']),
    halfClosedMs: settled(verdict['limits.halfClosed']),
    count: life.count,
    onCloser: (close, recount) => {
      life.closer = close
      life.recount = recount
    },
  })
}

/** The upstream that was dialled early if it leads to the right place, or else each address in turn until one answers. */
const connect = async (
  { connection, facts, verdict, policy, early, life, clock, secure, channels }: Plan,
  dial: Dial,
  ms: number,
  signal: AbortSignal,
) => {
  const target = settled(verdict.upstream)
  if (target.is === 'channel') {
    if (channels === undefined) throw codedError('NO_CHANNEL', 'callback channels are not enabled')
    const { stream, channel } = await channels.tunnel(target.app, connection.destination, signal)
    life.upstream = channel.peer
    life.channel = channel.name
    return stream
  }
  const addresses = upstreamAddresses(verdict, connection.destination)
  if (early && addresses.some((to) => sameAddress(to, early.to))) {
    life.upstream = early.to
    return await early.upstream
  }
  discard(early)
  const tellingDial = announcing(dial, settled(verdict['upstream.proxyProtocol']), connection)
  const { sni: name, protocol } = facts
  const secured = secure(tellingDial, { verdict, policy, name, ...(protocol && { protocol }) })
  let failure: unknown = new Error('the policy left no address to dial')
  for (const to of addresses) {
    life.upstream = to
    try {
      return await dialWithin(secured, to, ms, clock, signal)
    } catch (error) {
      failure = error
      if (signal.aborted) break
    }
  }
  throw failure
}

/** Where a verdict sends a connection, in the order to try. Nowhere: there is no address, as of an app with channels. */
export const upstreamAddresses = (verdict: Plan['verdict'], destination: Address): readonly Address[] => {
  const upstream = settled(verdict.upstream)
  if (upstream.is === 'channel') return []
  return upstream.is === 'addresses' ? upstream.addresses : [destination]
}

const endingOf = ({ life }: Plan, error: Error): Ending => {
  const { code } = described(error)
  if (life.closing) return life.closing
  if (error instanceof HandshakeError) return 'tlsFailed'
  return code === 'ABORT_ERR' ? 'clientGone' : code === 'CONNECT_TIMEOUT' ? 'connectTimeout' : 'connectFailed'
}
