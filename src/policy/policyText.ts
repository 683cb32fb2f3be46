import type { AspectName } from './aspects.ts'
import type { ConditionName } from './conditions.ts'
import type { Place } from './diagnostic.ts'
import type { GivenFacts } from './givenFacts.ts'
import type { Sections } from './sections.ts'
import type { Path } from './source.ts'
import type { RuleRef } from './verdict.ts'

/** A condition of a rule as written, and as read. */
export interface Clause {
  readonly condition: ConditionName
  readonly written: unknown
  readonly value: unknown
}

/** What a rule, or `defaults`, says about one aspect. */
export interface Saying {
  readonly aspect: AspectName
  readonly key: string
  readonly written: unknown
  readonly value: unknown
  readonly ref: RuleRef
}

/** A rule, read but not yet prepared for use. */
export interface RuleText {
  readonly ref: RuleRef
  readonly when: readonly Clause[]
  readonly says: readonly Saying[]
  readonly isDry: boolean
  /** The place of a part of it. */
  readonly place: (path: Path, part?: 'key' | 'value') => Place
}

/** A test that the policy makes of itself: what is given, and what is expected to be decided. */
export interface TestText {
  readonly name: string
  readonly given: GivenFacts
  readonly expect: readonly PlacedSaying[]
  /** The rule that is expected to decide all of it. */
  readonly by: string | undefined
  readonly place: Place
}

/** What is said about an aspect, and where. */
export interface PlacedSaying {
  readonly saying: Saying
  readonly place: Place
}

/** All documents together. */
export interface PolicyText {
  readonly rules: readonly RuleText[]
  readonly defaults: readonly Saying[]
  readonly sections: Sections
  readonly tests: readonly TestText[]
}
