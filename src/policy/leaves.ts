import * as v from 'valibot'
import { ASPECT_TABLE, type AspectName } from './aspects.ts'
import { object, type Shape } from './shape.ts'

/** One key of `then` and `defaults` that holds a value: an aspect, or one of the ways to decide it. */
export interface Leaf {
  readonly aspect: AspectName
  /** Dotted, as it stands in the document. */
  readonly key: string
  readonly path: readonly string[]
  readonly shape: Shape
  readonly says: string
}

/** Every such key, in the order of the aspects. */
export const LEAVES: readonly Leaf[] = Object.entries(ASPECT_TABLE).flatMap(([name, it]): Leaf[] => {
  const aspect = name as AspectName
  if (!('choices' in it)) return [{ aspect, key: name, path: name.split('.'), shape: it.shape, says: it.says }]
  return Object.entries(it.choices).map(([way, shape]) => {
    const key = `${name}.${way}`
    return { aspect, key, path: key.split('.'), shape, says: v.getDescription(shape as never) ?? it.says }
  })
})

/** The built-in value of every aspect, read from the words it would be written in. */
export const builtInOf = (aspect: AspectName): unknown => {
  const it = ASPECT_TABLE[aspect]!
  if (!('choices' in it)) return v.parse(it.shape, it.builtIn)
  const [way, written] = Object.entries(it.builtIn)[0]!
  return v.parse(it.choices[way]!, written)
}

/** The built-in value at one key, as it would be written; undefined for the ways that are not built in. */
export const builtInAt = (leaf: Leaf): unknown => {
  const it = ASPECT_TABLE[leaf.aspect]!
  return 'choices' in it ? it.builtIn[leaf.path.at(-1)!] : it.builtIn
}

/** The value at a dotted key of a mapping of mappings. */
export const valueAt = (tree: unknown, path: readonly string[]): unknown => {
  let value = tree
  for (const step of path) {
    if (typeof value !== 'object' || value === null || Array.isArray(value) || !Object.hasOwn(value, step))
      return undefined
    value = (value as Record<string, unknown>)[step]
  }
  return value
}

interface Branch {
  [key: string]: Branch | Leaf
}

const isLeaf = (it: Branch | Leaf): it is Leaf => typeof (it as Leaf).key === 'string'

const tree = (): Branch => {
  const root: Branch = {}
  for (const leaf of LEAVES) {
    let branch = root
    for (const step of leaf.path.slice(0, -1)) branch = (branch[step] ??= {}) as Branch
    branch[leaf.path.at(-1)!] = leaf
  }
  return root
}

const shapeOf = (branch: Branch): Shape =>
  object(
    Object.fromEntries(
      Object.entries(branch).map(([key, it]) => [
        key,
        isLeaf(it)
          ? v.pipe(v.optional(it.shape), v.description(it.says), v.metadata({ builtIn: builtInAt(it) }))
          : v.optional(shapeOf(it)),
      ]),
    ),
  )

/** The mapping under `then` and under `defaults`. */
export const aspectsShape = (): Shape => shapeOf(tree())
