import { balance } from './aspects/balance.ts'
import { decide, ruleMatches } from './decide.ts'
import type { Facts } from './facts.ts'
import type { Policy } from './policy.ts'
import { visitPossible } from './ruleIndex.ts'
import { settled, type Verdict } from './verdict.ts'

/**
 * Whether the upstream may be dialled while the client is still silent (`detect.serverFirst`), so that a server that
 * speaks first is heard. Never where the destination may still change; and with `auto`, never where a rule that waits
 * could deny: what is denied is not dialled.
 */
export const dialsEarly = (policy: Policy, facts: Facts): boolean => {
  const verdict = decide(policy, facts)
  const way = settled(verdict['detect.serverFirst'])
  if (way === 'never' || verdict.upstream.is === 'waits') return false
  const upstream = verdict.upstream.value
  if (upstream.is === 'channel') return false
  const isChoice = upstream.is !== 'original' && (upstream.is !== 'addresses' || upstream.addresses.length > 1)
  if (isChoice && BALANCE.some((aspect) => verdict[aspect].is === 'waits')) return false
  // A greeting in the clear is no answer to a client whose TLS is to end here, and whose hello is late.
  if (way !== 'always' && facts.extensions === undefined && couldEndTls(verdict)) return false
  if (verdict['upstream.proxyProtocol'].is === 'waits' || verdict['limits.connect'].is === 'waits') return false
  if (verdict.deny.is === 'decided') return !verdict.deny.value
  return way === 'always' || !couldDeny(policy, facts)
}

const BALANCE = Object.keys(balance) as (keyof typeof balance)[]

const couldEndTls = ({ 'tls.terminate': terminate }: Verdict): boolean =>
  terminate.is === 'waits' || terminate.value.is !== 'never'

const couldDeny = (policy: Policy, facts: Facts): boolean => {
  let answer = policy.base.deny.is === 'decided' && policy.base.deny.value
  visitPossible(policy.open, policy.candidates, policy.indexes, facts, (rule) => {
    const says = rule.aspects.includes('deny') ? rule.decisions.deny : undefined
    if (says?.is !== 'decided') return false
    const matches = ruleMatches(rule, facts)
    if (matches === false || (matches === undefined && says.value === false)) return false
    answer = says.value === true
    return true
  })
  return answer
}
