import { formatAddress } from '../net/address.ts'
import { labelBudget } from './labelBudget.ts'
import { type Ledger, merely } from './ledger.ts'
import type { Metrics } from './metrics.ts'
import type { Change, Outcome, RequestOutcome } from './outcome.ts'

const CHANGES_MAX = 200 // kinds of change that are told one by one; a candidate with more is another policy altogether
const RULES_MAX = 200

/** One kind of change that a candidate policy would bring, and how often it would. */
export interface CountedChange extends Change {
  readonly connections: number
  readonly requests: number
  /** The latest connection or request that it would change. */
  readonly example: string
}

/** How many there were, and how many of them would have been treated otherwise. */
export interface Asked {
  readonly asked: number
  readonly changed: number
}

/** What a candidate policy would have changed since it was loaded. */
export interface TrialCounts {
  readonly connections: () => Asked
  readonly requests: () => Asked
  /** The most frequent first. */
  readonly changes: () => readonly CountedChange[]
  /** Changes of kinds beyond those that are told. */
  readonly more: () => number
  /** Begins anew, for another candidate. */
  readonly reset: () => void
}

/** Counts what Outcomes say of a candidate. */
export const countTrials = (ledger: Ledger): TrialCounts => {
  const changes = new Map<string, { -readonly [K in keyof CountedChange]: CountedChange[K] }>()
  const connections = { asked: 0, changed: 0 }
  const requests = { asked: 0, changed: 0 }
  let more = 0
  const count = (kind: 'connections' | 'requests', list: readonly Change[], example: () => string) => {
    const total = kind === 'connections' ? connections : requests
    total.asked++
    if (list.length > 0) total.changed++
    for (const change of list) {
      const { key, was, value, rule } = change
      const id = `${key} ${was} ${value} ${rule.file}:${rule.line}`
      let found = changes.get(id)
      if (found === undefined) {
        if (changes.size >= CHANGES_MAX) {
          more++
          continue
        }
        found = { ...change, connections: 0, requests: 0, example: '' }
        changes.set(id, found)
      }
      found[kind]++
      found.example = example()
    }
  }
  ledger.subscribe((outcome) => {
    if (outcome.candidate) count('connections', outcome.candidate, () => connectionName(outcome))
  }, merely)
  ledger.subscribeRequests((request, life) => {
    if (request.candidate) count('requests', request.candidate, () => requestName(request, life))
  })
  return {
    connections: () => ({ ...connections }),
    requests: () => ({ ...requests }),
    changes: () => [...changes.values()].sort((a, b) => b.connections + b.requests - a.connections - a.requests),
    more: () => more,
    reset: () => {
      changes.clear()
      Object.assign(connections, { asked: 0, changed: 0 })
      Object.assign(requests, { asked: 0, changed: 0 })
      more = 0
    },
  }
}

const connectionName = ({
  direction,
  peer,
  destination,
}: Pick<Outcome, 'direction' | 'peer' | 'destination'>): string =>
  `${direction} ${formatAddress(peer)} -> ${formatAddress(destination)}`

const requestName = ({ method, authority, target }: RequestOutcome, on: Parameters<typeof connectionName>[0]): string =>
  `${method} ${authority}${target}, ${connectionName(on)}`

/** The same as metrics, and what rules in dry run would have changed. */
export const countTrialMetrics = (metrics: Metrics, ledger: Ledger): void => {
  const rule = labelBudget(RULES_MAX)
  const asked = metrics.counter('candidate_asked_total', {
    help: 'Connections and requests that the candidate policy was asked about; changed says whether it would treat them otherwise.',
    labels: ['kind', 'changed'],
  })
  const candidate = metrics.counter('candidate_changes_total', {
    help: 'What the candidate policy would have decided otherwise, by the rule that would have.',
    labels: ['rule', 'aspect'],
  })
  const dry = metrics.counter('dry_run_changes_total', {
    help: 'What rules with dryRun would have decided otherwise.',
    labels: ['rule', 'aspect'],
  })
  const count = (kind: string, it: Pick<RequestOutcome, 'dryRun' | 'candidate'>) => {
    for (const { key, rule: by } of it.dryRun ?? []) dry.inc({ rule: rule(by.name), aspect: key })
    if (it.candidate === undefined) return
    asked.inc({ kind, changed: it.candidate.length > 0 ? 'yes' : 'no' })
    for (const { key, rule: by } of it.candidate) candidate.inc({ rule: rule(by.name), aspect: key })
  }
  ledger.subscribe((outcome) => count('connection', outcome), merely)
  ledger.subscribeRequests((request) => count('request', request))
}
