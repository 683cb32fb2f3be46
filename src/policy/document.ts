import { posix } from 'node:path'
import * as v from 'valibot'
import type { Reference } from './aspects/aspect.ts'
import { ASPECT_TABLE, type AspectName } from './aspects.ts'
import { checkShape } from './checkShape.ts'
import { CONDITION_TABLE, type ConditionName } from './conditions.ts'
import type { Diagnostic, MistakeCode, Place } from './diagnostic.ts'
import { apiVersion, OWN_KEYS, ruleShape, testShape, thenShape } from './documentShape.ts'
import { LEAVES, valueAt } from './leaves.ts'
import { nearest } from './nearest.ts'
import type { Clause, PlacedSaying, PolicyText, RuleText, TestText } from './policyText.ts'
import type { Need } from './sections/section.ts'
import { SECTION_TABLE, type Sections } from './sections.ts'
import { listOf, type Shape, shown, unknownKey } from './shape.ts'
import { type Path, readSource, type Source, type SourceFile } from './source.ts'
import { isLater, STAGE_SAYS } from './stage.ts'
import type { RuleRef } from './verdict.ts'

/** Reads documents as one; the text counts only when no diagnostic is an error. */
export const readDocuments = (
  files: readonly SourceFile[],
): { readonly text: PolicyText; readonly diagnostics: Diagnostic[] } => {
  const read = files.map(readSource)
  const sources = read.flatMap((it) => it.sources)
  const found: Found = {
    diagnostics: read.flatMap((it) => it.diagnostics),
    rules: [],
    defaults: new Map(),
    sections: {},
    tests: [],
    uses: [],
    needs: [],
    owners: new Map(),
  }
  const names = definedNames(sources)
  const isWhole = read.every(
    (it) => !it.diagnostics.some((diagnostic) => diagnostic.severity === 'error' && diagnostic.code === 'syntax'),
  )
  for (const source of sources) readOne(source, found)
  if (isWhole) for (const use of found.uses) checkUse(use, names, found)
  if (isWhole) for (const need of found.needs) checkNeed(need, sources, found)
  for (const rule of found.rules) checkRule(rule, found)
  if (isWhole) for (const saying of allSayings(found)) checkReferences(saying, names, found)
  const sections = Object.fromEntries(
    Object.entries(SECTION_TABLE).map(([name, section]) => [
      name,
      found.sections[name] ?? builtInSection(section.shape),
    ]),
  ) as unknown as Sections
  return {
    text: {
      rules: found.rules,
      defaults: [...found.defaults.values()].map(({ saying }) => saying),
      sections,
      tests: found.tests,
    },
    diagnostics: found.diagnostics,
  }
}

interface Found {
  readonly diagnostics: Diagnostic[]
  readonly rules: (RuleText & { readonly placed: readonly PlacedSaying[] })[]
  readonly defaults: Map<string, PlacedSaying>
  readonly sections: Record<string, unknown>
  readonly tests: TestText[]
  /** The names that sections use. */
  readonly uses: { readonly reference: Reference; readonly place: Place }[]
  /** What sections need of others. */
  readonly needs: (Pick<Need, 'list' | 'says'> & { readonly place: Place })[]
  /** Who has written a section, a name in one, or a rule's name: for saying where the first one is. */
  readonly owners: Map<string, Place>
}

const report = (found: Found, code: MistakeCode, place: Place, message: string): void => {
  found.diagnostics.push({ severity: 'error', code, place, message })
}

const builtInSection = (shape: Shape): unknown => v.parse(shape, {})

const readOne = (source: Source, found: Found): void => {
  const { value } = source
  if (!isMapping(value)) {
    if (value !== undefined) report(found, 'bad-value', source.place([]), `expected a mapping, not ${shown(value)}`)
    return
  }
  const known = [...Object.keys(OWN_KEYS), ...Object.keys(SECTION_TABLE)]
  for (const key of Object.keys(value))
    if (!known.includes(key)) report(found, 'unknown-key', source.place([key], 'key'), unknownKey(key, known))
  if (value.apiVersion === undefined)
    report(
      found,
      'missing-key',
      source.place([]),
      'apiVersion is missing; begin the document with "apiVersion: sluice/v1"',
    )
  else check(apiVersion, value.apiVersion, source, ['apiVersion'], found)
  if (value.defaults !== undefined) readDefaults(value.defaults, source, found)
  if (value.rules !== undefined) readRules(value.rules, source, found)
  if (value.tests !== undefined) readTests(value.tests, source, found)
  for (const name of Object.keys(SECTION_TABLE))
    if (value[name] !== undefined) readSection(name, value[name], source, found)
}

/** Reports what a shape finds wrong, each at its own place; returns the value when nothing is. */
const check = (
  shape: Shape,
  value: unknown,
  source: Source,
  at: Path,
  found: Found,
): { readonly value: unknown } | undefined => {
  const { diagnostics, ...checked } = checkShape(shape, value, source, at)
  found.diagnostics.push(...diagnostics)
  return diagnostics.length === 0 ? checked : undefined
}

const readDefaults = (defaults: unknown, source: Source, found: Found): void => {
  check(thenShape, defaults, source, ['defaults'], found)
  const placed = sayings(defaults, source, ['defaults'], (place) => ({
    name: 'defaults',
    file: place.file,
    line: place.line,
  }))
  for (const it of placed) {
    const first = found.defaults.get(it.saying.aspect)
    if (first === undefined) found.defaults.set(it.saying.aspect, it)
    else
      report(
        found,
        'duplicate',
        it.place,
        `the default of ${it.saying.key} is already set at ${first.place.file}:${first.place.line}`,
      )
  }
}

const readRules = (rules: unknown, source: Source, found: Found): void => {
  if (!Array.isArray(rules)) {
    check(listOf(ruleShape), rules, source, ['rules'], found)
    return
  }
  rules.forEach((rule: unknown, index) => {
    const at = ['rules', index]
    check(ruleShape, rule, source, at, found)
    const { line } = source.place(at)
    const name = valueAt(rule, ['name'])
    const ref = { name: typeof name === 'string' ? name : `rule ${index + 1}`, file: source.file, line }
    const then = valueAt(rule, ['then'])
    if (isMapping(then) && Object.keys(then).length === 0)
      report(
        found,
        'bad-value',
        source.place([...at, 'then'], 'key'),
        'this rule decides nothing; say something under "then"',
      )
    const placed = sayings(then, source, [...at, 'then'], () => ref)
    checkChoices(placed, found)
    if (typeof name === 'string') checkUnique(`rule "${name}"`, source.place([...at, 'name']), found)
    found.rules.push({
      ref,
      when: clauses(valueAt(rule, ['when'])),
      says: placed.map(({ saying }) => saying),
      placed,
      isDry: valueAt(rule, ['dryRun']) === true,
      place: (path, part) => source.place([...at, ...path], part),
    })
  })
}

const readTests = (tests: unknown, source: Source, found: Found): void => {
  if (!Array.isArray(tests)) {
    check(listOf(testShape), tests, source, ['tests'], found)
    return
  }
  tests.forEach((test: unknown, index) => {
    const at = ['tests', index]
    const checked = check(testShape, test, source, at, found)
    if (checked === undefined) return
    const { name = `test ${index + 1}`, given, by } = checked.value as v.InferOutput<typeof testShape>
    const place = source.place(at)
    const expect = sayings(valueAt(test, ['expect']), source, [...at, 'expect'], ({ file, line }) => ({
      name,
      file,
      line,
    }))
    if (expect.length === 0)
      report(found, 'bad-value', source.place([...at, 'expect'], 'key'), 'this test expects nothing')
    found.tests.push({ name, given, expect, by, place })
  })
}

/** What is said about aspects, of what is written rightly: one wrong value does not hide what is wrong with others. */
const sayings = (written: unknown, source: Source, at: Path, refAt: (place: Place) => RuleRef): PlacedSaying[] =>
  LEAVES.flatMap((leaf): PlacedSaying[] => {
    const value = read(leaf.shape, valueAt(written, leaf.path))
    if (value === undefined) return []
    const place = source.place([...at, ...leaf.path])
    const ref = refAt(source.place([...at, ...leaf.path], 'key'))
    return [{ place, saying: { aspect: leaf.aspect, key: leaf.key, written: valueAt(written, leaf.path), value, ref } }]
  })

const clauses = (when: unknown): Clause[] =>
  Object.entries(CONDITION_TABLE).flatMap(([name, { shape }]): Clause[] => {
    const written = valueAt(when, [name])
    const value = read(shape, written)
    return value === undefined ? [] : [{ condition: name as ConditionName, written, value }]
  })

const read = (shape: Shape, written: unknown): unknown => {
  if (written === undefined) return undefined
  const result = v.safeParse(shape, written)
  return result.success ? result.output : undefined
}

const checkChoices = (placed: readonly PlacedSaying[], found: Found): void => {
  const chosen = new Map<AspectName, PlacedSaying>()
  for (const it of placed) {
    const first = chosen.get(it.saying.aspect)
    if (first === undefined) chosen.set(it.saying.aspect, it)
    else report(found, 'bad-value', it.place, `${first.saying.key} already says where; keep one of the two`)
  }
}

const checkUnique = (what: string, place: Place, found: Found): void => {
  const first = found.owners.get(what)
  if (first === undefined) found.owners.set(what, place)
  else report(found, 'duplicate', place, `${what} is already defined at ${first.file}:${first.line}`)
}

const readSection = (name: string, written: unknown, source: Source, found: Found): void => {
  const section = SECTION_TABLE[name]!
  const result = check(section.shape, written, source, [name], found)
  if (!section.byName) checkUnique(`section "${name}"`, source.place([name], 'key'), found)
  else for (const key of keysOf(written)) checkUnique(`"${key}" in ${name}`, source.place([name, key], 'key'), found)
  if (result === undefined) return
  for (const reference of section.references?.(result.value) ?? [])
    found.uses.push({ reference, place: source.place([name, ...reference.at]) })
  for (const { at, ...need } of section.needs?.(result.value) ?? [])
    found.needs.push({ ...need, place: source.place([name, ...at]) })
  const folder = posix.dirname(source.file)
  const value =
    section.resolve?.(result.value, (path) => (posix.isAbsolute(path) ? path : posix.join(folder, path))) ??
    result.value
  found.sections[name] = section.byName ? { ...(found.sections[name] as object), ...(value as object) } : value
}

const isMapping = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const keysOf = (value: unknown): string[] => (isMapping(value) ? Object.keys(value) : [])

/** The names that each section by name defines, also where their values are wrong. */
const definedNames = (sources: readonly Source[]): Map<string, string[]> => {
  const names = new Map<string, string[]>()
  for (const [section, { byName }] of Object.entries(SECTION_TABLE))
    if (byName)
      names.set(
        section,
        sources.flatMap(({ value }) => keysOf(valueAt(value, [section]))),
      )
  return names
}

const checkRule = (rule: Found['rules'][number], found: Found): void => {
  for (const { condition } of rule.when) {
    const { from } = CONDITION_TABLE[condition]!
    for (const { aspect } of rule.says) {
      const { until } = ASPECT_TABLE[aspect]!
      if (isLater(from, until))
        report(found, 'too-late', rule.place(['when', condition], 'key'), tooLate(condition, from, aspect, until))
    }
  }
}

const tooLate = (
  condition: string,
  from: keyof typeof STAGE_SAYS,
  aspect: string,
  until: keyof typeof STAGE_SAYS,
): string =>
  `${condition} is known only ${STAGE_SAYS[from]}, too late for ${aspect}, which is decided ${STAGE_SAYS[until]}`

const allSayings = (found: Found): PlacedSaying[] => [
  ...found.defaults.values(),
  ...found.rules.flatMap(({ placed }) => placed),
]

const checkReferences = (
  { saying, place }: PlacedSaying,
  names: ReadonlyMap<string, readonly string[]>,
  found: Found,
): void => {
  const references: readonly Reference[] = ASPECT_TABLE[saying.aspect]!.references?.(saying.value) ?? []
  for (const reference of references) checkUse({ reference, place }, names, found)
}

const checkUse = (
  { reference: { to, name }, place }: Found['uses'][number],
  names: ReadonlyMap<string, readonly string[]>,
  found: Found,
): void => {
  const defined = names.get(to) ?? []
  if (!defined.includes(name)) report(found, 'dangling-reference', place, dangling(to, name, defined))
}

/** Whatever is written there counts: what is wrong with it is told where it is. */
const checkNeed = ({ list, says, place }: Found['needs'][number], sources: readonly Source[], found: Found): void => {
  const isThere = sources.some(({ value }) => {
    const written = valueAt(value, list)
    return written !== undefined && !(Array.isArray(written) && written.length === 0)
  })
  if (!isThere) report(found, 'dangling-reference', place, says)
}

const dangling = (to: string, name: string, defined: readonly string[]): string => {
  const meant = nearest(name, defined)
  const known = defined.length === 0 ? `no ${to} are defined` : `defined are ${defined.join(', ')}`
  return `there is no "${name}" in ${to}; ${meant === undefined ? known : `did you mean "${meant}"?`}`
}
