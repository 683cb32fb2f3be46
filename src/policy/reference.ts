import * as v from 'valibot'
import { ASPECT_TABLE } from './aspects.ts'
import { CONDITION_TABLE } from './conditions.ts'
import { builtInAt, LEAVES } from './leaves.ts'
import { SECTION_TABLE } from './sections.ts'
import type { Shape } from './shape.ts'
import type { Stage } from './stage.ts'

/** One key of the document, for whoever reads about it: the reference, `check --defaults`, an editor. */
export interface KeyReference {
  /** Dotted. */
  readonly key: string
  readonly accepts: string
  readonly says: string
  /** As it would be written; undefined when there is none. */
  readonly builtIn?: unknown
  readonly because?: string | undefined
}

/** A key of `then` and `defaults`. */
export interface AspectReference extends KeyReference {
  readonly until: Stage
}

/** A key of `when`. */
export interface ConditionReference extends KeyReference {
  readonly from: Stage
  readonly example: string
}

export const aspectReference = (): AspectReference[] =>
  LEAVES.map((leaf) => {
    const { because, until } = ASPECT_TABLE[leaf.aspect]!
    return { key: leaf.key, accepts: acceptsOf(leaf.shape), says: leaf.says, builtIn: builtInAt(leaf), because, until }
  })

export const conditionReference = (): ConditionReference[] =>
  Object.entries(CONDITION_TABLE).map(([key, { shape, says, from, example }]) => ({
    key,
    accepts: acceptsOf(shape),
    says,
    from,
    example,
  }))

/** A section and its keys. */
export interface SectionReference {
  readonly name: string
  readonly says: string
  readonly byName: boolean
  readonly onReload: boolean
  readonly keys: readonly KeyReference[]
}

export const sectionReference = (): SectionReference[] =>
  Object.entries(SECTION_TABLE).map(([name, { shape, says, byName, onReload }]) => ({
    name,
    says,
    byName,
    onReload,
    keys: keysOf(name, shape),
  }))

// The parts of a schema that its description needs; each kind has some of them.
interface Parts {
  readonly type: string
  readonly entries?: Readonly<Record<string, Shape>>
  readonly wrapped?: Shape
  readonly value?: Shape
  readonly item?: Shape
  readonly options?: readonly unknown[]
}

const parts = (shape: Shape): Parts => shape as unknown as Parts

const about = (
  shape: Shape,
): { readonly range?: string; readonly accepts?: string; readonly builtIn?: unknown; readonly because?: string } =>
  v.getMetadata(shape as never)

const unwrapped = (shape: Shape): Shape => {
  const { wrapped } = parts(shape)
  return wrapped === undefined ? shape : unwrapped(wrapped)
}

const keysOf = (at: string, shape: Shape): KeyReference[] => {
  const { entries, value, type } = parts(unwrapped(shape))
  if (type === 'record' && value !== undefined) return keysOf(`${at}.NAME`, value)
  return Object.entries(entries ?? {}).flatMap(([name, inner]): KeyReference[] => {
    const key = `${at}.${name}`
    const deeper = keysOf(key, inner)
    if (deeper.length > 0) return deeper
    const { builtIn, because } = about(inner)
    const says = v.getDescription(inner as never) ?? ''
    return [{ key, accepts: acceptsOf(inner), says, because, ...(builtIn !== undefined && { builtIn }) }]
  })
}

/** What may be written, in words. */
const acceptsOf = (shape: Shape): string => {
  const { type, options = [], item, entries, value } = parts(unwrapped(shape))
  const { accepts, range } = about(unwrapped(shape))
  if (accepts !== undefined) return range === undefined ? accepts : `${accepts.replace(/, such as.*$/, '')}, ${range}`
  if (type === 'number') return range ?? 'a number'
  if (type === 'boolean') return 'true, false'
  if (type === 'picklist') return options.join(', ')
  if (type === 'array') return `a list of ${acceptsOf(item!)}`
  if (type === 'record') return `a mapping from names to ${acceptsOf(value!)}`
  if (type === 'strict_object') return `a mapping: ${Object.keys(entries!).join(', ')}`
  const [first, second] = options as Shape[]
  if (type !== 'union') return type
  return parts(second!).type === 'array'
    ? `${acceptsOf(first!)}; or a list`
    : (options as Shape[]).map(acceptsOf).join('; or ')
}
