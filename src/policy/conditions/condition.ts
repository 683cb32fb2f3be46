import type * as v from 'valibot'
import type { Facts } from '../facts.ts'
import type { Shape } from '../shape.ts'
import type { Stage } from '../stage.ts'

/**
 * One key of `when`. `fact` gives what it looks at: undefined while unknown, null when known to be absent. `matcher`
 * prepares a written value once and then answers for each fact.
 */
export interface Condition<S extends Shape, F> {
  readonly shape: S
  /** From when on the fact is known. */
  readonly from: Stage
  readonly says: string
  readonly example: string
  readonly fact: (facts: Facts) => F | null | undefined
  readonly matcher: (value: v.InferOutput<S>) => (fact: F) => boolean
  /** Whether absence itself is what the value asks for; without it an absent fact never matches. */
  readonly absent?: (value: v.InferOutput<S>) => (facts: Facts) => boolean
  /** Whether `wide` surely takes all that `narrow` takes: for finding rules that others hide. */
  readonly covers: (wide: v.InferOutput<S>, narrow: v.InferOutput<S>) => boolean
  readonly index?: Index<v.InferOutput<S>, F>
  /** The fact for a reader. */
  readonly show: (fact: F) => string
}

/**
 * Finds, for a fact, the rules whose condition may hold, without asking each. A value has keys (undefined: any fact may
 * match it); a fact is looked up by one or two. A value must have one of the keys by which a fact it accepts is found.
 */
export interface Index<V, F> {
  readonly keys: (value: V) => readonly (string | number)[] | undefined
  readonly first: (fact: F) => string | number
  readonly second?: (fact: F) => string | number
  /** Whether the same few facts come again and again, so that what was found for them is worth keeping. */
  readonly recurs?: boolean
}

/** Infers the types of a condition from its shape and its fact. */
export const condition = <S extends Shape, F>(it: Condition<S, F>): Condition<S, F> => it

/** Whether each of `narrow` is covered by one of `wide`. */
export const eachCovered = <T>(
  wide: readonly T[],
  narrow: readonly T[],
  covers: (wide: T, narrow: T) => boolean,
): boolean => narrow.every((item) => wide.some((candidate) => covers(candidate, item)))

export const same = <T>(a: T, b: T): boolean => a === b
