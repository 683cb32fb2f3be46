import type { Duplex } from 'node:stream'
import type { Http1Limits } from '../codec/http1Head.ts'
import type { Clock } from '../net/clock.ts'
import type { ProtocolError } from '../net/protocolError.ts'
import type { Ending } from '../net/traffic.ts'
import type { Open, RequestHead } from './exchange.ts'

/** What a client-facing HTTP/1 connection may cost. */
export interface Http1ClientLimits extends Http1Limits {
  /** From the first byte of a head to its last. */
  readonly headMs: number
  /** Between a response and the next request. */
  readonly idleMs: number
}

/** What becomes of an Upgrade: none, HTTP/2 on this connection, or a protocol that the upstream is to be asked for. */
export type Upgrading =
  | { readonly is: 'none' }
  | { readonly is: 'http2' }
  | { readonly is: 'other'; readonly protocol: string }

/** What the connection is told by whoever runs it, and what it tells. */
export interface Http1ClientOptions {
  readonly limits: Http1ClientLimits
  readonly clock: Clock
  readonly open: Open
  /** Of requests that do not name one: https where TLS was ended here. */
  readonly scheme: 'http' | 'https'
  chooseUpgrade(asked: readonly string[], head: RequestHead): Upgrading
  /** Hands the connection over to HTTP/2 (RFC 7540 section 3.2). */
  toHttp2(stream: Duplex, head: RequestHead, settings: Buffer, rest: Buffer): void
  /** A request that was refused before it could be opened. */
  refused(error: ProtocolError, status: number): void
  /** Goes on from what it says: the connection may have had another client before. */
  readonly count: { sent: number; received: number }
  /** Whether `rest` may be asked. */
  readonly mayRest: boolean
  /** The client is silent and the stream holds nothing: whether somebody else waits for it from now on. */
  rest(stream: Duplex, forMs: number): boolean
  ended(ended: Ending, error?: Error): void
}
