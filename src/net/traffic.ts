/** How the bytes of a connection ended; the first cause wins. */
export type Ending =
  | 'closed' // both sides said goodbye
  | 'clientReset'
  | 'upstreamReset'
  | 'clientGone' // the client left before anything was decided
  | 'idleTimeout'
  | 'halfClosedTimeout'
  | 'drained' // still open when the drain time was over
  | 'policyChanged' // a reload denied it
  | 'denied'
  | 'refused' // looped, over a limit, without an original destination
  | 'connectFailed'
  | 'connectTimeout'
  | 'protocolError'
  | 'tlsFailed'
  | 'internalError'

/**
 * What passed on the client's connection, and how it ended: `sent` is every byte that came from the client, `received`
 * every byte that went to it, heads, frames and chunk sizes among them. Where TLS ends here, the bytes inside it.
 */
export interface Traffic {
  readonly sent: number
  readonly received: number
  readonly ended: Ending
  /** The error's code and message, for a person; absent when nothing went wrong. */
  readonly error?: { readonly code: string; readonly message: string }
}
