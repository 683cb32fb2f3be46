import type { Unavailable } from '../balance/balancer.ts'
import { hashOf } from '../balance/hashRing.ts'
import type { Member } from '../balance/member.ts'
import type { Use } from '../balance/use.ts'
import type { Address } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import { codedError } from '../net/codedError.ts'
import { HandshakeError } from '../net/tls/failure.ts'
import type { Service } from './balancers.ts'
import type { Balancing } from './balancing.ts'
import type { Fields } from './exchange.ts'
import { fieldOf } from './fields.ts'
import type { Cause } from './reply.ts'

/** However many refuse, a request asks no more of them than this. */
const FAILOVERS_MAX = 10
/** Times the limit for a connect: so long may one request, or connection, look for an endpoint that can be reached. */
const FAILOVER_TIME = 3

/** Told once: the endpoint, or why there is none. */
export interface Chooser {
  chosen(use: Use): void
  /** `failfast` and `overloaded` come without an error, failed connects with that of the last. */
  unavailable(why: Unavailable, failure: Error | undefined): void
}

/** The endpoints of one request or connection: which it tried, and for how long it may go on looking. */
export class Choosing {
  readonly service: Service
  readonly #clock: Clock
  readonly #hash: number | undefined
  readonly #connectMs: number
  readonly #tried: Member[] = []
  readonly #since: number
  #failure: Error | undefined
  #failures = 0

  constructor(service: Service, clock: Clock, hash: number | undefined, connectMs: number) {
    this.service = service
    this.#clock = clock
    this.#hash = hash
    this.#connectMs = connectMs
    this.#since = clock.now()
  }

  /** Whether the policy sends who finds none for this reason where the client went. */
  leavesOriginal(why: Unavailable): boolean {
    return why === 'absent' && this.service.balancing.otherwise === 'original'
  }

  /** The name that matched, where discovery knows it. */
  get name(): string | undefined {
    const { resolution } = this.service
    return resolution?.is === 'endpoints' ? resolution.name : undefined
  }

  /**
   * Finds an endpoint, or waits for one. Who could not connect waits for no other longer than a connect may take: by
   * then it is better told. Returns how to wait no longer.
   */
  choose(chooser: Chooser): () => void {
    const failure = this.#failure
    let isSettled = false
    let cancelTimer = () => {}
    const settle = () => {
      isSettled = true
      cancelTimer()
    }
    const stop = this.service.take(
      { hash: this.#hash, tried: this.#tried },
      {
        taken: (use) => {
          settle()
          this.#tried.push(use.member)
          chooser.chosen(use)
        },
        refused: (why) => {
          settle()
          chooser.unavailable(why, failure)
        },
      },
    )
    if (isSettled || failure === undefined) return stop
    const left = this.#since + this.#connectMs - this.#clock.now()
    cancelTimer = this.#clock.after(Math.max(0, left), () => {
      stop()
      chooser.unavailable('failfast', failure)
    })
    return () => {
      cancelTimer()
      stop()
    }
  }

  /** A connect failed. Whether to ask another endpoint. */
  mayGoOn(failure: Error): boolean {
    this.#failure = failure
    this.#failures += 1
    const isTime = this.#clock.now() - this.#since < this.#connectMs * FAILOVER_TIME
    return isTime && this.#failures <= FAILOVERS_MAX
  }
}

/** Of what makes requests go to the same endpoint; undefined where it is not there, or of no matter. */
export const hashFor = (
  { settings, hash }: Balancing,
  peer: Address,
  fields: Fields | undefined,
): number | undefined => {
  if (settings.algorithm !== 'hash') return undefined
  if (hash === 'source') return hashOf(peer.host)
  if (fields === undefined) return undefined
  const value = 'header' in hash ? fieldOf(fields, hash.header.toLowerCase()) : cookieOf(fields, hash.cookie)
  return value === undefined ? undefined : hashOf(value)
}

/** RFC 6265 section 4.2; HTTP/2 may send several fields (RFC 9113 section 8.2.3). */
const cookieOf = (fields: Fields, name: string): string | undefined => {
  for (let i = 0; i < fields.length; i += 2) {
    if (fields[i]!.toLowerCase() !== 'cookie') continue
    for (const pair of fields[i + 1]!.split(';')) {
      const at = pair.indexOf('=')
      if (at !== -1 && pair.slice(0, at).trim() === name) return pair.slice(at + 1).trim()
    }
  }
  return undefined
}

/** What a dial that found no endpoint rejects with. */
export const unavailableError = (why: Unavailable, failure: Error | undefined): Error =>
  failure ?? codedError(why.toUpperCase(), UNAVAILABLE[why])

const UNAVAILABLE: Readonly<Record<Unavailable, string>> = {
  failfast: 'no endpoint was ready for too long',
  overloaded: 'too many wait for an endpoint, or for too long',
  absent: 'there is no such name',
}

/** A connect came to nothing: what that says of the endpoint. */
export const connectFailed = (use: Use, error: Error, isAborted = false): void => {
  const { code } = error as NodeJS.ErrnoException
  if (error instanceof HandshakeError) use.judged(false)
  // Our own limits, and a client that has gone, are not its fault.
  else if (code !== 'POOL_PENDING' && !isAborted) use.unreachable()
  use.released()
}

/** What a client of HTTP is told: why there is no endpoint for it, or what became of the connect. */
export const causeOf = (why: Unavailable | Error): Cause => {
  if (why === 'absent') return 'noRoute'
  if (typeof why === 'string') return why
  if (why instanceof HandshakeError) return 'tlsFailed'
  return (why as NodeJS.ErrnoException).code === 'CONNECT_TIMEOUT' ? 'connectTimeout' : 'connectFailed'
}
