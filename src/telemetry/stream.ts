import type { Ledger } from './ledger.ts'
import type { Life } from './life.ts'
import type { Outcome, RequestOutcome } from './outcome.ts'

/** What tap and the page hear, one at a time. */
export type Event =
  | { readonly is: 'connection'; readonly outcome: Outcome }
  | { readonly is: 'request'; readonly life: Life; readonly request: RequestOutcome }

/** Where events go. Returns false when it cannot take more for now. */
export interface Listener {
  readonly wants: (event: Event) => boolean
  readonly write: (event: Event) => boolean
  /** Events that were not written because the listener was slow; told when it can take more. */
  dropped: number
}

/**
 * Feeds a listener from the ledger as long as it keeps up. One that does not loses events, which are counted: what
 * somebody watches may never slow what is watched. `resumed` is called by the owner once it can take more.
 */
export const feed = (
  ledger: Ledger,
  listener: Listener,
): { readonly resumed: () => void; readonly stop: () => void } => {
  let isFull = false
  const offer = (event: Event) => {
    if (!listener.wants(event)) return
    if (isFull) listener.dropped += 1
    else isFull = !listener.write(event)
  }
  const stops = [
    ledger.subscribe((outcome) => offer({ is: 'connection', outcome })),
    ledger.subscribeRequests((request, life) => offer({ is: 'request', life, request })),
  ]
  return {
    resumed: () => {
      isFull = false
    },
    stop: () => {
      for (const stop of stops) stop()
    },
  }
}
