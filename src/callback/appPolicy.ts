import type { Policy } from '../policy/policy.ts'
import { allOf } from '../policy/ruleIndex.ts'

const API = { name: 'the API of callback channels', file: '', line: 0 }
const APPS_MAX = 1_000
const made = new WeakMap<Policy, Map<string, Policy>>()

/**
 * The policy of a call that names its app: it goes there, by the defaults of the document. Rules decide about traffic,
 * and who may use the API is decided by its token.
 */
export const policyTo = (app: string, policy: Policy): Policy => {
  let byApp = made.get(policy)
  if (byApp === undefined) {
    byApp = new Map()
    made.set(policy, byApp)
  }
  const known = byApp.get(app)
  if (known !== undefined) return known
  const { base } = policy
  const found: Policy = {
    ...policy,
    base: {
      ...base,
      deny: { is: 'decided', value: false, by: API },
      upstream: { is: 'decided', value: { is: 'channel', app }, by: API },
    },
    open: [],
    openAspects: 0,
    candidates: allOf([]),
    indexes: [],
    trial: undefined,
  }
  if (byApp.size >= APPS_MAX) byApp.clear()
  byApp.set(app, found)
  return found
}
