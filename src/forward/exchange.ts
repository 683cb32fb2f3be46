import type { ChannelName } from './channels.ts'

/**
 * One HTTP request and its answer, between a client-facing connection (HTTP/1 or HTTP/2) and an upstream one (either).
 * Both sides speak these words and nothing else of each other, so every pair of versions is the same code.
 *
 * Flow control is by acknowledgement: whoever is given bytes calls `consumed(n)` once they have left it. An HTTP/2 side
 * turns that into WINDOW_UPDATE, an HTTP/1 side pauses its socket while too much is unacknowledged.
 * Calls are synchronous, never throw, and are ignored after the end or an abort. The bytes of a chunk may be those of the
 * buffer that the next read fills: whoever keeps them for longer than the call keeps `kept(chunk)`.
 */

/** Header fields flat: name, value, name, value. Names keep their case from HTTP/1 and are lower case from HTTP/2. */
export type Fields = string[]

/** A request line and its fields, in the words of RFC 9110. */
export interface RequestHead {
  readonly method: string
  readonly scheme: string
  /** Lower case host, and the port where the client wrote one; empty only for HTTP/1.0 without Host. */
  readonly authority: string
  /** Origin-form path and query, or `*`; for CONNECT the authority. */
  readonly target: string
  readonly version: '1.0' | '1.1' | '2'
  /** The client wrote the whole URI, as to a proxy it knows of (RFC 9112 section 3.2.2). */
  readonly absolute?: boolean
  /** The protocol an Upgrade (HTTP/1.1) or an extended CONNECT (RFC 8441) asks for. */
  readonly upgrade?: string | undefined
  /**
   * Already without hop-by-hop fields; TE survives only as `trailers`. Host (from HTTP/1) and Content-Length are among
   * them where the client wrote them, in their place: an HTTP/2 upstream leaves Host out, for it has `:authority`.
   */
  readonly fields: Fields
  /** Bytes of body where known: 0 for none, undefined for unknown (chunked, HTTP/2 without content-length). */
  readonly length?: number | undefined
  /** Names that HTTP/2 sent never-indexed: no compression table may hold them (RFC 7541 section 7.1.3). */
  readonly neverIndexed?: readonly string[] | undefined
}

/** A status line and its fields, already without hop-by-hop fields. */
export interface ResponseHead {
  readonly status: number
  /** Empty from HTTP/2. */
  readonly reason: string
  /** With 101: what the connection now speaks. */
  readonly upgrade?: string
  /** Already without hop-by-hop fields. Content-Length is among them where the upstream wrote it. */
  readonly fields: Fields
  /** Bytes of body where known. For a HEAD or 304 it is what the body would have had. */
  readonly length?: number | undefined
  /** As in a request. */
  readonly neverIndexed?: readonly string[] | undefined
}

/**
 * Why an upstream side gave up, where it knows more than a code. `unhandled`: surely never handled, so safe to send
 * again. `closedIdle`: a connection that was used before ended without a byte of answer. `malformed`: the answer broke
 * the protocol. `fault`: a bug of ours.
 */
export type Why = 'unhandled' | 'closedIdle' | 'closed' | 'malformed' | 'fault'

/** The way back: what the client-facing side offers for each request. */
export interface Answer {
  /** 1xx other than 101. */
  information(head: ResponseHead): void
  /** `last`: no body and no trailers follow. A 101, or a 2xx to CONNECT, makes the rest a tunnel of raw bytes. */
  head(head: ResponseHead, last: boolean): void
  data(chunk: Buffer, last: boolean): void
  /** Ends the message. */
  trailers(fields: Fields): void
  /** The answer cannot be completed; `code` is an HTTP/2 error code (RFC 9113 section 7). */
  abort(code: number, why?: Why): void
  /** `bytes` of the request's body have left the upstream side. */
  consumed(bytes: number): void
}

/** Why a request is given up, where it was not the client that left: for its Outcome. */
export interface GivenUp {
  readonly cause: string
  /** What the client was told, if it was told something. */
  readonly status?: number
}

/** Given up by a bug of ours. */
export const OUR_FAULT: GivenUp = { cause: 'internal' }

/** The way there: what the upstream side returns when a request is opened on it. */
export interface Asking {
  data(chunk: Buffer, last: boolean): void
  trailers(fields: Fields): void
  /** The client gave up, or something else ended its request; `code` is an HTTP/2 error code. */
  abort(code: number, why?: GivenUp): void
  /** `bytes` of the response's body have left the client-facing side. */
  consumed(bytes: number): void
}

/**
 * Opens a request on an upstream connection. `last`: it has no body. A CONNECT is never `last`: its body is the tunnel;
 * an HTTP/1.1 Upgrade is, where it has none, and becomes a tunnel in both directions with the 101.
 */
export type Open = (head: RequestHead, last: boolean, answer: Answer) => Asking

/** One connection to an upstream, as the pool sees it: HTTP/1 takes one request at a time, HTTP/2 many. */
export interface Upstream {
  readonly protocol: 'http1' | 'http2'
  /** Present where the app at the other end opened the connection. */
  readonly channel?: ChannelName
  /** How many requests it would take now; 0 once it is closing. */
  room(): number
  readonly open: Open
  /** Takes no more requests, lets those in flight end, then closes. */
  close(): void
}

/** What an upstream connection tells the pool. */
export interface UpstreamEvents {
  /** Room may have grown, and perhaps no request is left on it. */
  freed(upstream: Upstream): void
  /** It is gone, or takes no more requests. May come more than once. */
  ended(upstream: Upstream): void
}
