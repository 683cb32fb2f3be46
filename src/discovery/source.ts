import type { Found } from '../net/endpoint.ts'

/** What is asked of a source. */
export interface Question {
  /** As it was asked for: in lower case, with a dot at its end where it is absolute. */
  readonly host: string
  readonly port: number
  /** The absolute names that it may mean, in order. */
  readonly names: readonly string[]
  /** Those of them that a source before this one does not want looked up by DNS. */
  readonly forbidden: ReadonlySet<string>
}

/** What a source knows. A source that cannot be reached and has never said anything says nothing. */
export type Answer =
  | Found
  | {
      readonly is: 'absent'
      readonly source: string
      readonly tried: readonly string[]
      /** The names that DNS must not be asked for. */
      readonly forbidden: readonly string[]
    }

/** How a source stands with a question, for people. Times are those of the clock. */
export interface Standing {
  readonly refreshAt?: number | undefined
  readonly staleSince?: number | undefined
  readonly error?: string | undefined
}

/** A question that is being kept up to date. */
export interface Asking {
  readonly stop: () => void
  readonly standing: () => Standing
}

/** Who can be asked. `changed` may be called before `ask` returns. */
export interface Source {
  readonly kind: 'static' | 'file' | 'dns' | 'destination'
  readonly ask: (question: Question, changed: (answer: Answer) => void) => Asking
  /** The same for an IP address, which needs no endpoints: what else is known of it. Absent where that is nothing. */
  readonly askAddress?: (question: Question, changed: (answer: Answer) => void) => Asking
  readonly close: () => void
}

/** What is counted, by source and what came of it. */
export interface Counts {
  readonly looked: (source: Source['kind'], result: LookupResult) => void
  readonly reconnected: () => void
}

export type LookupResult = 'endpoints' | 'empty' | 'absent' | 'failed'

/** The sooner of two times, either of which may not be set. */
export const sooner = (a: number | undefined, b: number | undefined): number | undefined =>
  a === undefined ? b : b === undefined ? a : Math.min(a, b)
