import type * as v from 'valibot'
import type { Reference } from '../aspects/aspect.ts'
import type { Shape } from '../shape.ts'

/** A list of another section that something is in vain without. */
export interface Need {
  /** Its path in the document. */
  readonly list: readonly [section: string, key: string]
  readonly at: readonly string[]
  readonly says: string
}

/** One top-level key of the document, beside `rules` and `defaults`. */
export interface Section<S extends Shape> {
  readonly shape: S
  readonly says: string
  /** Whether several files may each bring some of it, a name only once. Otherwise one file alone has the section. */
  readonly byName: boolean
  /** Whether a change counts at once, or needs a restart. */
  readonly onReload: boolean
  /** The names it uses that other sections must define, and at which of its keys. */
  readonly references?: (value: v.InferOutput<S>) => readonly (Reference & { readonly at: readonly string[] })[]
  /** The keys of other sections that must be written, and what is in vain without them at which of its keys. */
  readonly needs?: (value: v.InferOutput<S>) => readonly Need[]
  /** Makes paths that are written relative to the document's file ones that can be opened. */
  readonly resolve?: (value: v.InferOutput<S>, open: (path: string) => string) => v.InferOutput<S>
}

/** Infers the types of a section from its shape. */
export const section = <S extends Shape>(it: Section<S>): Section<S> => it
