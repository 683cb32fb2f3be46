/**
 * The words document schemas are made of: valibot schemas that read what operators write (`5s`, `16KiB`, one or a
 * list) and whose messages say what was expected. Each also has a JSON Schema, for editors.
 */
import * as v from 'valibot'
import { nearest } from './nearest.ts'

/** Any schema here. */
export type Shape = v.GenericSchema<unknown, unknown>

/** What a reader of text returns when the text is wrong. */
export interface Mistake {
  readonly mistake: string
}

/** The text is wrong, and why. */
export const mistake = (text: string): Mistake => ({ mistake: text })

const SHOWN_LETTERS_MAX = 60 // enough to find it again in the document
const cut = (text: string): string => (text.length <= SHOWN_LETTERS_MAX ? text : `${text.slice(0, SHOWN_LETTERS_MAX)}…`)

/** A value as it would be written in the document; of a long text, its beginning. */
export const shown = (value: unknown): string => {
  if (value === null || value === undefined) return 'nothing'
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object') return 'a mapping'
  return typeof value === 'string' ? JSON.stringify(cut(value)) : String(value)
}

/** The message of a value of the wrong kind. */
export const expected = (what: string) => (issue: { readonly input: unknown }) =>
  `expected ${what}, not ${shown(issue.input)}`

/** A mapping with these keys and no others; every unknown key is reported, with the nearest known one. */
export const object = <E extends v.ObjectEntries>(entries: E): v.StrictObjectSchema<E, undefined> => {
  const base = v.strictObject(entries)
  const known = Object.keys(entries)
  const run: Run = (dataset, config) => {
    const input = dataset.value
    if (typeof input !== 'object' || input === null || Array.isArray(input)) {
      const message = `expected a mapping (${keysIn(known)}), not ${shown(input)}`
      v._addIssue(base, 'type', dataset, config, { message })
      return dataset
    }
    const given = input as Record<string, unknown>
    const kept = Object.fromEntries(Object.entries(given).filter(([key]) => Object.hasOwn(entries, key)))
    const result = base['~run']({ value: kept }, config)
    for (const key of Object.keys(given).filter((it) => !Object.hasOwn(entries, it))) {
      const path: [v.ObjectPathItem] = [{ type: 'object', origin: 'key', input: given, key, value: given[key] }]
      v._addIssue(base, 'key', result, config, { input: key, expected: 'never', message: unknownKey(key, known), path })
    }
    return result
  }
  return { ...base, '~run': run } as typeof base
}

// What valibot's schemas run: the types of what goes in and comes out are those of the schema around it.
// biome-ignore lint/suspicious/noExplicitAny: the issues of a schema are typed by the schema, which is any here.
type Run = (dataset: any, config: v.Config<any>) => any

/** The message for a key, or a name, that is none of these. */
export const unknownKey = (key: string, known: readonly string[]): string => {
  const meant = nearest(key, known)
  return `unknown key "${key}"; ${meant === undefined ? `known here: ${keysIn(known)}` : `did you mean "${meant}"?`}`
}

const keysIn = (known: readonly string[]): string => (known.length === 0 ? 'no keys' : known.join(', '))

/** A mapping from names that the operator chooses. */
export const named = <T extends Shape>(value: T) => {
  const base = v.record(v.string(), value, expected('a mapping from names'))
  // To valibot a list is a record, too.
  const run: Run = (dataset, config) =>
    Array.isArray(dataset.value)
      ? v.custom(() => false, base.message)['~run'](dataset, config)
      : base['~run'](dataset, config)
  return { ...base, '~run': run } as typeof base
}

/** One of several shapes, of which `pick` finds the one that was meant, so that the message is that shape's. */
export const either = <const T extends readonly Shape[]>(shapes: T, pick: (input: unknown) => T[number]) => {
  const union = v.union(shapes)
  const run: Run = (dataset, config) => pick(dataset.value)['~run'](dataset, config)
  return { ...union, '~run': run } as typeof union
}

/** One of the item, or a list of them; read as a list. */
export const oneOrMany = <T extends Shape>(item: T) => {
  const many = v.array(item)
  return v.pipe(
    either([item, many], (input) => (Array.isArray(input) ? many : item)),
    v.transform((value): v.InferOutput<T>[] => (Array.isArray(value) ? value : [value])),
  )
}

/** A list, even of one. */
export const listOf = <T extends Shape>(item: T) => v.array(item, expected('a list'))

/** One of these words. */
export const oneOf = <const T extends readonly string[]>(words: T) =>
  v.picklist(words, (issue) => {
    const meant = typeof issue.input === 'string' ? nearest(issue.input, words) : undefined
    const hint = meant === undefined ? '' : `; did you mean "${meant}"?`
    return `expected ${orList(words)}, not ${shown(issue.input)}${hint}`
  })

const orList = (words: readonly string[]): string =>
  words.length < 2 ? words.join() : `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`

export const flag = v.boolean(expected('true or false'))

/** A text that is not empty. */
export const text = (what: string) =>
  v.pipe(v.string(expected(what)), v.nonEmpty(`expected ${what}, not an empty text`), v.metadata({ accepts: what }))

/** A text read by `read`, which returns the value or says what is wrong with it. `pattern` is for editors. */
export const readText = <T>(what: string, read: (text: string) => T | Mistake, pattern?: string) =>
  v.pipe(
    v.string(expected(what)),
    v.metadata({ accepts: what, ...(pattern && { pattern }) }),
    v.rawTransform<string, T>(({ dataset, addIssue, NEVER }) => {
      const value = read(dataset.value)
      if (!isMistake(value)) return value
      addIssue({ message: value.mistake })
      return NEVER
    }),
  )

const isMistake = (value: unknown): value is Mistake =>
  typeof value === 'object' && value !== null && 'mistake' in value

/** A whole number between two bounds. */
export const count = (min: number, max: number) =>
  v.pipe(
    v.number(expected(`a whole number from ${min} to ${max}`)),
    v.check(
      (n) => Number.isInteger(n) && n >= min && n <= max,
      (issue) => `expected a whole number from ${min} to ${max}, not ${issue.input}`,
    ),
    v.metadata({ range: `${min} to ${max}`, min, max }),
  )

const MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const BYTES = { B: 1, kB: 1e3, MB: 1e6, GB: 1e9, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 }

/** A time with its unit, as `500ms`, `5s`, `1.5h`; read as milliseconds. Timers hold no more than 24 days. */
export const duration = (min = '1ms', max = '24d') =>
  quantity('a time with its unit, such as 500ms, 5s, 2m or 1h', MS, min, max)

/** A number of bytes with its unit, as `16KiB`; read as bytes. */
export const size = (min: string, max: string) =>
  quantity('a size with its unit, such as 512B, 16KiB or 1MiB', BYTES, min, max)

const quantity = (what: string, units: Record<string, number>, min: string, max: string) => {
  const amount = (written: string): number => {
    const found = /^(\d+(?:\.\d+)?) ?([A-Za-z]+)$/.exec(written)
    return Number(found?.[1] ?? Number.NaN) * (units[found?.[2] ?? ''] ?? Number.NaN)
  }
  const read = (written: string): number | Mistake => {
    const found = amount(written)
    if (Number.isNaN(found)) return mistake(`expected ${what}, not ${shown(written)}`)
    if (found < amount(min) || found > amount(max)) return mistake(`${written} is not between ${min} and ${max}`)
    return Math.round(found)
  }
  return v.pipe(
    readText(what, read, `^\\d+(\\.\\d+)? ?(${Object.keys(units).join('|')})$`),
    v.metadata({ range: `${min} to ${max}` }),
  )
}

/** A setting of a section: what it does, its default as written in the document, and why that default. */
export const setting = <T extends Shape>(
  shape: T,
  about: { readonly builtIn: v.InferInput<T>; readonly says: string; readonly because: string },
) =>
  v.pipe(
    v.optional(shape, about.builtIn as never),
    v.description(about.says),
    v.metadata(about),
  ) as unknown as v.OptionalSchema<T, never>
