import type { AspectValue } from '../policy/aspects.ts'
import type { Policy, Rule } from '../policy/policy.ts'
import { type Decision, type RuleRef, type Verdict, valueOr } from '../policy/verdict.ts'

export type Upstream = AspectValue<'upstream'>

const LABEL: RuleRef = { name: 'the labels of the exposed port', file: '', line: 0 }
const made = new WeakMap<Policy, Map<string, Policy>>()

/**
 * The policy as it counts for exposed ports: connectors are spoken to as their label says, and told who calls. With an
 * `upstream`, that is meant wherever the policy says `original`: nothing can lead to a destination that is only a name.
 */
export const exposedPolicy = (policy: Policy, protocol: 'http1' | 'http2', upstream?: Upstream): Policy => {
  const key = upstream === undefined ? protocol : `${protocol} ${JSON.stringify(upstream)}`
  const known = made.get(policy) ?? new Map<string, Policy>()
  made.set(policy, known)
  const found = known.get(key) ?? make(policy, protocol, upstream)
  known.set(key, found)
  return found
}

const make = (policy: Policy, protocol: 'http1' | 'http2', upstream: Upstream | undefined): Policy => {
  const base = exposedBase(policy.base, protocol)
  const trial = policy.trial && exposedPolicy(policy.trial, protocol, upstream)
  if (upstream === undefined) return { ...policy, base, trial }
  return {
    ...policy,
    base: { ...base, ...leading(base, upstream) },
    open: policy.open.map(
      (rule): Rule => ({ ...rule, decisions: { ...rule.decisions, ...leading(rule.decisions, upstream) } }),
    ),
    trial,
  }
}

const exposedBase = (base: Verdict, protocol: 'http1' | 'http2'): Verdict => {
  const isForwarded = valueOr(base['http.forwarded'], 'none') !== 'none'
  const allowed = base['http.upgrade.allow']
  const isUpgradeSaid = allowed.is === 'decided' && allowed.by.line > 0
  return {
    ...base,
    'upstream.protocol': { is: 'decided', value: protocol, by: LABEL },
    // Web applications expect websockets where they get HTTP, and here a token is asked for before any byte of them.
    ...(isUpgradeSaid ? {} : { 'http.upgrade.allow': { is: 'decided', value: ['websocket'], by: LABEL } as const }),
    ...(isForwarded ? {} : { 'http.forwarded': { is: 'decided', value: 'x-forwarded', by: LABEL } as const }),
  }
}

/** What of these decisions says `original`, with `upstream` for it. */
const leading = (
  { upstream: where, 'balance.otherwise': otherwise }: { readonly [K in keyof Verdict]?: Decision<unknown> },
  upstream: Upstream,
): Partial<Verdict> => ({
  ...(isOriginal(where) && { upstream: { ...where, value: upstream } }),
  ...(otherwise?.is === 'decided' &&
    otherwise.value === 'original' && { 'balance.otherwise': { ...otherwise, value: 'notFound' } }),
})

const isOriginal = (decision: Decision<unknown> | undefined): decision is Decision<unknown> & { is: 'decided' } =>
  decision?.is === 'decided' && (decision.value as Upstream).is === 'original'
