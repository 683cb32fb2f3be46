import { isDeepStrictEqual } from 'node:util'
import { answersOf } from './answers.ts'
import { decide } from './decide.ts'
import type { Diagnostic } from './diagnostic.ts'
import { factsFrom } from './givenFacts.ts'
import type { Policy } from './policy.ts'
import type { TestText } from './policyText.ts'
import { written } from './written.ts'

/** What the policy's own tests find: an error where something else is decided than is expected, or by another rule. */
export const runTests = (policy: Policy, tests: readonly TestText[]): Diagnostic[] =>
  tests.flatMap((test) => runTest(policy, test))

const runTest = (policy: Policy, { name, given, expect, by }: TestText): Diagnostic[] => {
  const verdict = decide(policy, factsFrom(given))
  const answers = answersOf(policy, verdict)
  return expect.flatMap(({ saying, place }): Diagnostic[] => {
    const decision = verdict[saying.aspect]
    const answer = answers.find(({ aspect }) => aspect === saying.aspect)
    const fails = (message: string): Diagnostic[] => [
      { severity: 'error', code: 'failed-test', place, message: `test "${name}": ${message}` },
    ]
    if (decision.is === 'waits')
      return fails(`${saying.key} still waits for the rule "${decision.for.name}"; say more under "given"`)
    const rule =
      decision.by.file === '' ? decision.by.name : `"${decision.by.name}" (${decision.by.file}:${decision.by.line})`
    if (!isDeepStrictEqual(decision.value, saying.value))
      return fails(
        `${saying.key} is not ${written(saying.written)}: ${rule} says ${answer?.key}: ${written(answer?.written)}`,
      )
    return by === undefined || decision.by.name === by
      ? []
      : fails(`${saying.key} is decided by ${rule}, not by "${by}"`)
  })
}
