import type { Address } from '../net/address.ts'
import { codedError } from '../net/codedError.ts'
import type { Dial } from '../net/connection.ts'
import { described, reset } from '../net/relay.ts'
import { HandshakeError } from '../net/tls/failure.ts'
import type { Ending } from '../net/traffic.ts'
import { settled } from '../policy/verdict.ts'
import { announcing } from './announce.ts'
import { placeOf, type Reached, reachUpstream } from './chooseUpstream.ts'
import { discard } from './earlyDial.ts'
import type { Forwarder, Plan } from './plan.ts'

/** Bytes both ways, untouched, to the address that the policy names: the original destination unless it says otherwise. */
export const opaque: Forwarder = async (stream, plan, dial) => {
  const { clock, life, verdict } = plan
  const clientGone = new AbortController()
  const giveUp = () => clientGone.abort()
  life.closer = giveUp
  stream.once('close', giveUp)
  let reached: Connected
  try {
    reached = await connect(plan, dial, clientGone.signal)
  } catch (error) {
    // The client learns what it would have learned from the server itself: the connection is refused.
    reset(stream)
    return { sent: 0, received: 0, ended: endingOf(plan, error as Error), error: described(error as Error) }
  } finally {
    stream.off('close', giveUp)
  }
  const traffic = await plan.relay(stream, reached.stream, {
    clock,
    idleMs: settled(verdict['limits.idle']),
    halfClosedMs: settled(verdict['limits.halfClosed']),
    count: life.count,
    onCloser: (close, recount) => {
      life.closer = close
      life.recount = recount
    },
  })
  reached.use?.released()
  return traffic
}

type Connected = Pick<Reached, 'stream' | 'use'>

/** The upstream that was dialled early if it leads to the right place, or else one that is dialled now. */
const connect = async (plan: Plan, dial: Dial, signal: AbortSignal): Promise<Connected> => {
  const { connection, facts, verdict, policy, early, life, secure, channels } = plan
  const target = settled(verdict.upstream)
  if (target.is === 'channel') {
    if (channels === undefined) throw codedError('NO_CHANNEL', 'callback channels are not enabled')
    const { stream, channel } = await channels.tunnel(target.app, connection.destination, signal)
    life.upstream = channel.peer
    life.channel = channel.name
    return { stream, use: undefined }
  }
  const trying = (to: Address) => {
    life.upstream = to
  }
  if (early?.place === placeOf(verdict, connection.destination)) {
    early.tell(trying)
    const reached = await early.upstream
    life.name = reached.name
    return reached
  }
  discard(early)
  const tellingDial = announcing(dial, settled(verdict['upstream.proxyProtocol']), connection)
  const { sni: name, protocol } = facts
  const dialFor = (identity: string | undefined) =>
    secure(tellingDial, { verdict, policy, name, identity, ...(protocol && { protocol }) })
  const reached = await reachUpstream(plan, { verdict, dialFor, signal, trying })
  life.name = reached.name
  return reached
}

const endingOf = ({ life }: Plan, error: Error): Ending => {
  const { code } = described(error)
  if (life.closing) return life.closing
  if (error instanceof HandshakeError) return 'tlsFailed'
  return code === 'ABORT_ERR' ? 'clientGone' : code === 'CONNECT_TIMEOUT' ? 'connectTimeout' : 'connectFailed'
}
