import type * as v from 'valibot'
import type { Shape } from '../shape.ts'
import type { Stage } from '../stage.ts'

/** A name used in one place of the document and defined in another: `{ to: 'certificates', name: 'shop' }`. */
export interface Reference {
  readonly to: string
  readonly name: string
}

/** What every aspect has. */
interface About<Out> {
  /** The last moment at which deciding it is of use; a rule may not tie it to a fact known only later. */
  readonly until: Stage
  readonly says: string
  /** Why the built-in default is what it is. */
  readonly because: string
  /** The names this value uses that a section must define. */
  readonly references?: (value: Out) => readonly Reference[]
}

/** One thing that rules decide, written at one key: its dotted name in the table is its place in `then` and `defaults`. */
export interface Aspect<S extends Shape> extends About<v.InferOutput<S>> {
  readonly shape: S
  /** As it would be written in the document. */
  readonly builtIn: v.InferInput<S>
}

/** One thing that rules decide in alternative ways, each with a key of its own under the aspect's name. */
export interface Choice<C extends Record<string, Shape>> extends About<v.InferOutput<C[keyof C]>> {
  readonly choices: C
  /** As it would be written in the document: one of the keys, with its value. */
  readonly builtIn: { readonly [K in keyof C]?: v.InferInput<C[K]> }
}

export type AnyAspect = Aspect<Shape> | Choice<Record<string, Shape>>

/** Infers the types of an aspect from its shape. */
export const aspect = <S extends Shape>(it: Aspect<S>): Aspect<S> => it

/** Infers the types of a choice from its shapes. */
export const choice = <C extends Record<string, Shape>>(it: Choice<C>): Choice<C> => it

/** What the decision of an aspect carries. */
export type ValueOf<A> =
  A extends Choice<infer C> ? v.InferOutput<C[keyof C]> : A extends Aspect<infer S> ? v.InferOutput<S> : never
