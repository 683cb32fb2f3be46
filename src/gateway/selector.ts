/** What a token says about the tasks it is for: gazette's label selector, or the list of prefixes that came before it. */
export interface Selection {
  readonly sel?: unknown
  readonly prefixes?: unknown
}

/** A task as selectors see it. */
export interface SelectedTask {
  readonly name: string
  /** Its shard id up to and with the publication, such as `capture/acmeCo/in/0011223344556677/`, where that is known. */
  readonly id?: string | undefined
}

interface LabelMatch {
  readonly name: string
  readonly value: string
  readonly prefix: boolean
}

const ID = 'id'
const TASK = 'estuary.dev/task-name'

/**
 * Whether a token is for this task. Prefixes count on the borders of path segments only, so that `acmeCo/in` never
 * opens `acmeCo/internal`. An empty selector, or one for everything, opens nothing: who wants that has the keys.
 */
export const covers = ({ sel, prefixes }: Selection, task: SelectedTask): boolean => {
  if (sel === undefined && prefixes === undefined) return false
  if (prefixes !== undefined && !prefixesCover(prefixes, task.name)) return false
  return sel === undefined || selectorCovers(sel, task)
}

const prefixesCover = (prefixes: unknown, task: string): boolean =>
  Array.isArray(prefixes) && prefixes.some((one) => typeof one === 'string' && covered(task, one, true))

const selectorCovers = (sel: unknown, task: SelectedTask): boolean => {
  const include = labelsIn(sel, 'include')
  const exclude = labelsIn(sel, 'exclude')
  if (include === undefined || exclude === undefined || include.length === 0) return false
  // Of each name that is asked for one value must match, as in gazette; names that a port does not have never do.
  for (const { name } of include) if (!include.some((one) => one.name === name && includes(one, task))) return false
  return !exclude.some((one) => excludes(one, task))
}

/** The labels of one half of a selector; nothing where it is not a selector. */
const labelsIn = (sel: unknown, half: 'include' | 'exclude'): LabelMatch[] | undefined => {
  if (!isMapping(sel)) return undefined
  const set = sel[half] ?? {}
  if (!isMapping(set)) return undefined
  const labels = set.labels ?? []
  if (!Array.isArray(labels)) return undefined
  const found: LabelMatch[] = []
  for (const one of labels as unknown[]) {
    if (!isMapping(one) || typeof one.name !== 'string') return undefined
    const { name, value = '', prefix = false } = one
    if (typeof value !== 'string' || typeof prefix !== 'boolean') return undefined
    found.push({ name, value, prefix })
  }
  return found
}

const isMapping = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const includes = ({ name, value, prefix }: LabelMatch, task: SelectedTask): boolean => {
  if (name === TASK) return covered(task.name, value, prefix)
  return name === ID && idCovers(value, prefix, task)
}

/** `capture/acmeCo/in/` and the like. A publication at its end may be an older one: tokens survive a task's re-creation. */
const idCovers = (value: string, prefix: boolean, { name, id }: SelectedTask): boolean => {
  const [, type, rest = ''] = /^(capture|derivation|materialize)\/(.*)$/s.exec(value) ?? []
  if (type === undefined || (id !== undefined && !id.startsWith(`${type}/`))) return false
  const [, task = rest] = /^(.*)\/[0-9a-f]{16}\/(?:[0-9a-f]{8}-[0-9a-f]{8})?$/s.exec(rest) ?? []
  return task === name || task === `${name}/` || (prefix && covered(name, task, true))
}

/** Whether a name is this value, or lies below it where it is a prefix that ends at a segment. */
const covered = (name: string, value: string, prefix: boolean): boolean =>
  value !== '' && value !== '/' && (name === value || (prefix && value.endsWith('/') && name.startsWith(value)))

/** What is excluded is excluded generously: a doubt keeps the port closed. */
const excludes = ({ name, value, prefix }: LabelMatch, task: SelectedTask): boolean => {
  if (name === TASK) return value === '' || value === task.name || (prefix && task.name.startsWith(value))
  if (name !== ID) return false
  const [, rest = value] = /^\w+\/(.*)$/s.exec(value) ?? []
  return value === '' || `${task.name}/`.startsWith(rest) || rest.startsWith(`${task.name}/`)
}
