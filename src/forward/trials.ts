import { type Difference, differences } from '../policy/differences.ts'
import type { Facts } from '../policy/facts.ts'
import type { Policy } from '../policy/policy.ts'
import { written } from '../policy/written.ts'
import type { Life } from '../telemetry/life.ts'
import type { Change, RequestOutcome } from '../telemetry/outcome.ts'
import { redactedValue } from '../telemetry/redact.ts'

/** What is watched before it counts: rules in dry run, and a policy beside the one in force. */
export interface Trials {
  readonly policy: Policy
  readonly candidate: Policy | undefined
}

/** Whether there is anything to watch; where not, nothing more is asked. */
export const areWatched = ({ policy, candidate }: Trials): boolean =>
  policy.trial !== undefined || candidate !== undefined

const NONE: readonly Change[] = []

/** What the other policy decides otherwise. What it leaves open is no change yet. */
const changesTo = (policy: Policy, other: Policy | undefined, facts: Facts): readonly Change[] => {
  if (other === undefined) return NONE
  const found = differences(policy, other, facts).filter(({ after }) => after.is === 'decided')
  return found.length === 0 ? NONE : found.map(changeOf)
}

/** In words, once for each: the policy gives the same difference again, and words cost more than the rest. */
const inWords = new WeakMap<Difference, Change>()

const changeOf = (difference: Difference): Change => {
  const found = inWords.get(difference)
  if (found !== undefined) return found
  const { before, after } = difference
  const change: Change = {
    key: after.key,
    value: written(redactedValue(after.written)),
    ...(before.is === 'decided' && { was: written(redactedValue(before.written)) }),
    rule: after.by,
  }
  inWords.set(difference, change)
  return change
}

/** Whether nothing that is watched would treat these facts otherwise. */
export const changesNothing = ({ policy, candidate }: Trials, facts: Facts): boolean =>
  changesTo(policy, policy.trial, facts).length + changesTo(policy, candidate, facts).length === 0

/** Writes down what would be decided otherwise of a connection, by all that is known now: more is known each time. */
export const noteTrials = (life: Life, { policy, candidate }: Trials, facts: Facts): void => {
  const dryRun = changesTo(policy, policy.trial, facts)
  life.dryRun = dryRun.length > 0 ? dryRun : undefined
  if (candidate !== undefined) life.candidate = changesTo(policy, candidate, facts)
}

/** The same of a request: what its connection has told of already is not told again. */
export const trialsOf = (
  life: Life,
  { policy, candidate }: Trials,
  facts: Facts,
): Pick<RequestOutcome, 'dryRun' | 'candidate'> => {
  const dryRun = news(life.dryRun, changesTo(policy, policy.trial, facts))
  return {
    ...(dryRun.length > 0 && { dryRun }),
    ...(candidate !== undefined && { candidate: news(life.candidate, changesTo(policy, candidate, facts)) }),
  }
}

const news = (told: readonly Change[] = NONE, now: readonly Change[]): readonly Change[] =>
  now.filter(({ key, rule }) => !told.some((it) => it.key === key && it.rule.name === rule.name))
