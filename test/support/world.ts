import { createHttpState } from '../../src/forward/httpState.ts'
import { systemClock } from '../../src/net/clock.ts'
import type { Policy } from '../../src/policy/policy.ts'
import type { World } from '../../src/proxy.ts'
import { createLedger } from '../../src/telemetry/ledger.ts'
import type { Outcome } from '../../src/telemetry/outcome.ts'
import { testDialer } from './direct.ts'
import { policyFrom } from './policy.ts'

/** The policy of a document, which must be without mistakes. */
export const policyOf = (text: string): Policy => policyFrom(`apiVersion: sluice/v1\n${text}`)

/** A world with real sockets, a policy from text, and every Outcome kept. */
export const worldOf = (text: string, changes: Partial<World> = {}): World & { readonly outcomes: Outcome[] } => {
  const policy = policyOf(text)
  const clock = changes.clock ?? systemClock
  const ledger = createLedger(clock)
  const outcomes: Outcome[] = []
  ledger.subscribe((outcome) => outcomes.push(outcome))
  const dial = changes.dial ?? testDialer()
  const http = createHttpState(clock, Math.random)
  http.balancers.askBy(dial)
  return {
    policy: () => policy,
    dial,
    clock,
    random: () => 0.5,
    ledger,
    isOwn: () => false,
    http,
    ...changes,
    outcomes,
  }
}
