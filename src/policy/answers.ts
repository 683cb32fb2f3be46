import { ASPECT_TABLE, type AspectName } from './aspects.ts'
import { builtInAt, LEAVES } from './leaves.ts'
import type { Policy } from './policy.ts'
import type { RuleRef, Verdict } from './verdict.ts'

/** One aspect's decision, in the words of the document. */
export interface AspectAnswer {
  readonly aspect: AspectName
  /** The dotted key that says it. */
  readonly key: string
  /** Undefined while it waits. */
  readonly written: unknown
  readonly is: 'decided' | 'waits'
  /** Which rule decides, or is waited for. */
  readonly by: RuleRef
}

/** A verdict in the words that those who decided it wrote. */
export const answersOf = (policy: Policy, verdict: Verdict): AspectAnswer[] =>
  (Object.keys(ASPECT_TABLE) as AspectName[]).map((aspect) => {
    const decision = verdict[aspect]
    if (decision.is === 'waits') return { aspect, key: aspect, written: undefined, is: 'waits', by: decision.for }
    const { by } = decision
    const saying = [...policy.rules.flatMap(({ says }) => says), ...policy.defaults].find(
      (it) => it.aspect === aspect && it.ref === by,
    )
    const leaf = LEAVES.find((it) => it.aspect === aspect && builtInAt(it) !== undefined)
    return {
      aspect,
      key: saying?.key ?? leaf?.key ?? aspect,
      written: saying ? saying.written : leaf && builtInAt(leaf),
      is: 'decided',
      by,
    }
  })
