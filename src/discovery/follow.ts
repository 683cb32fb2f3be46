import { formatAddress } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import type { Endpoint } from '../net/endpoint.ts'
import { ProtocolError } from '../net/protocolError.ts'
import { backoffMs } from './backoff.ts'
import { decodeUpdate, type Update } from './destinationMessages.ts'
import { GRPC, type GrpcChannel, type GrpcStatus } from './grpcChannel.ts'
import type { Counts, Standing } from './source.ts'

/** What a control plane says of one name. */
export type Said =
  | { readonly is: 'endpoints'; readonly endpoints: readonly Endpoint[]; readonly isStale: boolean }
  | { readonly is: 'absent'; readonly dnsAllowed: boolean }

/** What following a name needs. */
export interface FollowWorld {
  readonly channel: GrpcChannel
  readonly clock: Clock
  readonly random: () => number
  readonly counts: Counts
}

/** One name, or address, followed until it is stopped. */
export interface Following {
  readonly stop: () => void
  readonly standing: () => Standing
}

const ENDPOINTS_MAX = 20_000 // of one name: twice the largest service we know of
const TOLD_MS = 50 // a service that flaps is told of no more often
const PAUSE = { minMs: 100, maxMs: 10_000 } // after a call that failed
const ABSENT_PAUSE = { minMs: 5_000, maxMs: 30_000 } // after an answer that there is no such name

/** Follows a stream of updates, again and again. What is known stays, as stale, until the first new message replaces it. */
export const followName = (
  path: string,
  request: Uint8Array,
  world: FollowWorld,
  changed: (said: Said) => void,
): Following => {
  const { clock, counts } = world
  const endpoints = new Map<string, Endpoint>()
  let said: Said | undefined
  let isFresh = false
  let isFull = false
  let cancelTelling: (() => void) | undefined
  let toldAt = Number.NEGATIVE_INFINITY

  const tell = (): void => {
    cancelTelling?.()
    cancelTelling = undefined
    toldAt = clock.now()
    if (said?.is === 'endpoints') said = { ...said, endpoints: [...endpoints.values()] }
    if (said !== undefined) changed(said)
  }
  const tellSoon = (): void => {
    const wait = toldAt + TOLD_MS - clock.now()
    if (wait <= 0) tell()
    else cancelTelling ??= clock.after(wait, tell)
  }

  const take = (update: Update): void => {
    // A set that begins with what is not in it has nothing to take away from.
    if (update.is === 'other' || (update.is === 'remove' && !isFresh)) return
    if (!isFresh || update.is === 'none') endpoints.clear()
    const isFirst = !isFresh
    isFresh = true
    if (update.is === 'add')
      for (const endpoint of update.endpoints) {
        const key = formatAddress(endpoint.address)
        isFull = endpoints.size >= ENDPOINTS_MAX && !endpoints.has(key)
        if (!isFull) endpoints.set(key, endpoint)
      }
    if (update.is === 'remove') for (const address of update.addresses) endpoints.delete(formatAddress(address))
    const isAbsent = update.is === 'none' && !update.exists
    said = isAbsent ? { is: 'absent', dnsAllowed: true } : { is: 'endpoints', endpoints: [], isStale: false }
    if (isFirst) counts.looked('destination', isAbsent ? 'absent' : endpoints.size === 0 ? 'empty' : 'endpoints')
    tellSoon()
  }

  const following = repeated(path, request, world, {
    message: (bytes) => take(decodeUpdate(bytes)),
    began: () => {
      isFresh = false
    },
    ended: (status) => {
      const isUnknown = status.code === GRPC.notFound || status.code === GRPC.invalidArgument
      if (isUnknown) {
        endpoints.clear()
        counts.looked('destination', 'absent')
        // A name that is not the control plane's to know may be anybody's; one that it should know, and does not, is not.
        said = { is: 'absent', dnsAllowed: status.code === GRPC.invalidArgument }
        tell()
        return 'answered'
      }
      counts.looked('destination', 'failed')
      if (said?.is === 'endpoints' && !said.isStale) {
        said = { ...said, isStale: true }
        tell()
      }
      return 'failed'
    },
  })
  return {
    stop: () => {
      cancelTelling?.()
      following.stop()
    },
    standing: () => {
      const standing = following.standing()
      const error = isFull ? `more than ${ENDPOINTS_MAX} endpoints; the rest is left out` : undefined
      return { error, ...standing, ...(said === undefined && { staleSince: undefined }) }
    },
  }
}

/** What a call that is made again and again is heard by. */
interface Repeated {
  readonly began: () => void
  /** May throw ProtocolError: then the server sent what it should not have. */
  readonly message: (bytes: Uint8Array) => void
  /** Whether that was an answer, or whether it is to be tried again soon. `over` ends it for good. */
  readonly ended: (status: GrpcStatus) => 'answered' | 'failed' | 'over'
}

/** Makes a call, and makes it again when it ends: at once with a new connection, otherwise after a pause. */
export const repeated = (
  path: string,
  request: Uint8Array,
  { channel, clock, random }: Pick<FollowWorld, 'channel' | 'clock' | 'random'>,
  hears: Repeated,
): Following => {
  let failures = 0
  let cancel = (): void => {}
  let standing: Standing = {}
  let isStopped = false

  const call = (): void => {
    if (isStopped) return
    let isOver = false
    hears.began()
    const ended = (status: GrpcStatus): void => {
      if (isOver || isStopped) return
      isOver = true
      const result = hears.ended(status)
      if (isStopped || result === 'over') return
      failures++
      const error = result === 'answered' ? undefined : `${NAMES[status.code] ?? status.code}: ${status.message}`
      const staleSince = error === undefined ? undefined : (standing.staleSince ?? clock.now())
      standing = { error, staleSince }
      if (status.isConnection) {
        call()
        return
      }
      const ms = backoffMs(failures, result === 'answered' ? ABSENT_PAUSE : PAUSE, random)
      standing = { ...standing, refreshAt: clock.now() + ms }
      cancel = clock.after(ms, call)
    }
    cancel = channel.call(path, request, {
      message: (bytes) => {
        try {
          hears.message(bytes)
        } catch (error) {
          if (!(error instanceof ProtocolError)) throw error
          end()
          ended({ code: GRPC.internal, message: (error as Error).message, isConnection: false })
          return
        }
        failures = 0
        if (!isOver) standing = {}
      },
      ended,
    })
    const end = cancel
  }
  call()
  return {
    stop: () => {
      isStopped = true
      cancel()
    },
    standing: () => standing,
  }
}

const NAMES: Readonly<Record<number, string>> = {
  0: 'the server ended the stream',
  1: 'CANCELLED',
  2: 'UNKNOWN',
  3: 'INVALID_ARGUMENT',
  4: 'DEADLINE_EXCEEDED',
  5: 'NOT_FOUND',
  7: 'PERMISSION_DENIED',
  8: 'RESOURCE_EXHAUSTED',
  9: 'FAILED_PRECONDITION',
  10: 'ABORTED',
  12: 'UNIMPLEMENTED',
  13: 'INTERNAL',
  14: 'UNAVAILABLE',
  16: 'UNAUTHENTICATED',
}
