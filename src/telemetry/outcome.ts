import type { Address } from '../net/address.ts'
import type { Direction } from '../net/connection.ts'
import type { Ending } from '../net/traffic.ts'

/** A rule of the policy, as an Outcome names it. `defaults` and built-in ones have line 0. */
export interface RuleName {
  readonly name: string
  readonly file: string
  readonly line: number
}

/** What rules that do not count would have decided otherwise, in the words of the document. */
export interface Change {
  readonly key: string
  readonly value: string
  /** What was decided; undefined where that still waited for something. */
  readonly was?: string
  /** The rule that would have. */
  readonly rule: RuleName
}

/** What two sides of TLS agreed on. */
export interface TlsAgreement {
  readonly version: string
  readonly cipher: string
  readonly alpn?: string
}

/** What became of a connection, in one word. */
export type Result = 'forwarded' | 'denied' | 'refused' | 'failed'

/** The one record of a connection: log line, metrics, tap event and row on the page are views of it. */
export interface Outcome {
  readonly id: string
  /** Milliseconds since 1970. */
  readonly startedAt: number
  readonly direction: Direction
  readonly listener: string
  readonly peer: Address
  readonly destination: Address
  readonly result: Result
  /** What was spoken, outermost first: `['tls', 'http2']` for a terminated connection. Empty: never detected. */
  readonly protocols: readonly string[]
  /** Why it is opaque, where it is. */
  readonly reason?: string
  /** The bytes that decided the protocol: how many were read, how long it took, and the first of them as text. */
  readonly detected?: { readonly bytes: number; readonly ms: number; readonly head: string }
  readonly sni?: string
  readonly alpn?: readonly string[]
  readonly identity?: string
  /** What was agreed on with the client, where its TLS ended here. */
  readonly tls?: TlsAgreement & { readonly resumed: boolean }
  /** What was agreed on with the upstream, where it was spoken to by TLS, and who it proved to be. */
  readonly upstreamTls?: TlsAgreement & { readonly identity?: string }
  /** The request line that detection saw. */
  readonly http?: { readonly method: string; readonly target: string; readonly version: string }
  /** The task and the port of it that was called, where the gateway took the connection. */
  readonly exposed?: { readonly task: string; readonly port: number }
  /** Which rule decided each aspect. */
  readonly rules: Readonly<Record<string, RuleName>>
  /** What rules in dry run would have changed. */
  readonly dryRun?: readonly Change[]
  /** What a candidate policy would have changed: empty where it was asked and would have changed nothing. */
  readonly candidate?: readonly Change[]
  readonly upstream?: Address
  /** The name, absolute, that discovery found the upstream under. */
  readonly name?: string
  /** The callback channel that it went through, such as `orders/3`. */
  readonly channel?: string
  readonly bytes: { readonly sent: number; readonly received: number }
  readonly ms: number
  readonly ended: Ending
  readonly error?: { readonly code: string; readonly message: string }
}

/** The one record of an HTTP request, within the connection it came on. */
export interface RequestOutcome {
  readonly method: string
  readonly authority: string
  /** Path and query. */
  readonly target: string
  readonly version: '1.0' | '1.1' | '2'
  /** What the client was told; 0 when it was told nothing. */
  readonly status: number
  readonly grpcStatus?: string
  readonly upstream?: Address
  /** The name, absolute, that discovery found the upstream under. */
  readonly name?: string
  /** The callback channel that it was sent through last. */
  readonly channel?: string
  /** How often it was sent, the first time included; 0 when no upstream was asked. */
  readonly attempts: number
  /** The protocol it asked to change to. */
  readonly upgrade?: string
  /** Bytes of body: of the request, and of the response. */
  readonly bytes: { readonly sent: number; readonly received: number }
  readonly ms: number
  /** Until the head of the response. */
  readonly headMs?: number
  readonly rules: Readonly<Record<string, RuleName>>
  readonly userAgent?: string
  readonly referer?: string
  /** `x-request-id`, as the client or a proxy before us gave it. */
  readonly requestId?: string
  /** The trace that `traceparent` (W3C) or `x-b3-traceid` names. */
  readonly traceId?: string
  /** What rules in dry run, and a candidate policy, would have changed beside what they would for the connection. */
  readonly dryRun?: readonly Change[]
  readonly candidate?: readonly Change[]
  /** Why Sluice answered itself, or why the answer broke off: the value of `sluice-error`. */
  readonly error?: string
}
