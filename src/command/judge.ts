import { decide } from '../policy/decide.ts'
import type { Policy } from '../policy/policy.ts'
import type { Judge } from './egress.ts'

/**
 * Asks the policy of the moment. A rule that allows opens a closed range only when it speaks of commands: one that
 * allows the workload everything, as many do, was not written with strangers' URLs in mind.
 */
export const createJudge =
  (policy: () => Policy): Judge =>
  (facts) => {
    const now = policy()
    const { deny } = decide(now, facts)
    // Every fact is known here, so nothing waits; if something did, it would be closed.
    if (deny.is === 'waits') return { is: 'denied', rule: deny.for }
    if (deny.value) return { is: 'denied', rule: deny.by }
    if (deny.by.line === 0) return { is: 'undecided' }
    const rule = now.rules.find(({ ref }) => ref === deny.by)
    const speaksOfCommands = rule?.tests.some(({ condition }) => condition === 'source') === true
    return { is: speaksOfCommands ? 'opened' : 'undecided', rule: deny.by }
  }
