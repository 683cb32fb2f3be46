import type { Target } from './aspects/upstream.ts'
import type { PortRange } from './conditions/port.ts'
import { CONDITION_TABLE } from './conditions.ts'
import type { Diagnostic, MistakeCode, Place } from './diagnostic.ts'
import { piecesOf } from './lintTogether.ts'
import type { Clause, RuleText, Saying } from './policyText.ts'
import type { Sections } from './sections.ts'
import { written } from './written.ts'

/** What is allowed in rules, and surely not meant: rules that others hide, that nothing can match, that lead nowhere. */
export const lint = (rules: readonly RuleText[], { callback }: Pick<Sections, 'callback'>): Diagnostic[] => {
  const live = rules.filter((rule) => !rule.isDry)
  return [
    ...rules.flatMap(neverMatches),
    ...live.flatMap((rule, i) => hidden(rule, live.slice(0, i))),
    ...(callback.enable ? [] : rules.flatMap(withoutChannels)),
  ]
}

const doubt = (code: MistakeCode, place: Place, message: string): Diagnostic => ({
  severity: 'warning',
  code,
  place,
  message,
})

/** Whether `wide` matches whenever `narrow` does, as far as that is easy to see. */
const covers = (wide: RuleText, narrow: RuleText): boolean =>
  wide.when.every(({ condition, value }) => {
    const same = clauseOf(narrow, condition)
    return same !== undefined && CONDITION_TABLE[condition]!.covers(value, same.value)
  })

const clauseOf = (rule: RuleText, condition: string): Clause | undefined =>
  rule.when.find((it) => it.condition === condition)

const hidden = (rule: RuleText, before: readonly RuleText[]): Diagnostic[] => {
  const above = before.filter((other) => covers(other, rule))
  const hiders = rule.says.map((saying) => ({ saying, by: above.find((other) => saidBy(other, saying) !== undefined) }))
  const [first] = hiders
  if (first?.by !== undefined && hiders.every(({ by }) => by !== undefined))
    return [doubt('hidden-rule', rule.place(['name']), `this rule decides nothing: ${firstIs(first.by)}`)]
  const pieces = before.length > 0 ? piecesOf(rule, before) : undefined
  const together = pieces && hiddenTogether(rule, pieces, before)
  if (together !== undefined) return together
  return hiders.flatMap(({ saying, by }) => {
    // Saying the same again is no harm.
    if (by === undefined || written(saidBy(by, saying)?.written) === written(saying.written)) return []
    return [
      doubt(
        'hidden-rule',
        rule.place(['then', ...saying.key.split('.')], 'key'),
        `${saying.key} is not decided here: ${firstIs(by)}`,
      ),
    ]
  })
}

/** What no single rule before it hides of a rule, but several do: all of it, or some of its ports. */
const hiddenTogether = (
  rule: RuleText,
  pieces: readonly RuleText[],
  before: readonly RuleText[],
): Diagnostic[] | undefined => {
  const hiders = pieces.map((piece) =>
    rule.says.map((saying) => before.find((other) => saidBy(other, saying) !== undefined && covers(other, piece))),
  )
  const isHidden = (i: number) => hiders[i]!.every((by) => by !== undefined)
  const names = (of: readonly (readonly (RuleText | undefined)[])[]) =>
    [...new Set(of.flat())].map((by) => `"${by!.ref.name}" (${by!.ref.file}:${by!.ref.line})`).join(' or ')
  if (rule.says.length > 0 && pieces.every((_, i) => isHidden(i)))
    return [
      doubt(
        'hidden-rule',
        rule.place(['name']),
        `this rule decides nothing: wherever it matches, ${names(hiders)} comes first`,
      ),
    ]
  const own = (clauseOf(rule, 'port')?.value ?? []) as readonly PortRange[]
  const shadowed = own.flatMap((range) => {
    const of = hiders.filter((_, i) => within(portOf(pieces[i]!), range))
    return of.every((by) => by.every((it) => it !== undefined)) ? [{ range, of }] : []
  })
  const isOtherwise = shadowed.some(({ of }) =>
    of.flat().some((other) => rule.says.some((saying) => !saysTheSame(other!, saying))),
  )
  if (!isOtherwise) return undefined
  const list = shadowed.map(({ range: { first, last } }) => (first === last ? first : `${first}-${last}`)).join(', ')
  const by = names(shadowed.flatMap(({ of }) => of))
  return [
    doubt(
      'hidden-rule',
      rule.place(['when', 'port'], 'key'),
      `of these ports ${list} never come here: ${by} comes first`,
    ),
  ]
}

const portOf = (piece: RuleText): PortRange => (clauseOf(piece, 'port')!.value as readonly PortRange[])[0]!

const within = (inner: PortRange, outer: PortRange): boolean => outer.first <= inner.first && inner.last <= outer.last

const saysTheSame = (rule: RuleText, saying: Saying): boolean =>
  written(saidBy(rule, saying)?.written) === written(saying.written)

const saidBy = (rule: RuleText, { aspect }: Saying): Saying | undefined => rule.says.find((it) => it.aspect === aspect)

const firstIs = ({ ref }: RuleText): string =>
  `wherever it matches, "${ref.name}" (${ref.file}:${ref.line}) comes first`

const OF_REQUESTS = ['authority', 'method', 'path', 'header']

const neverMatches = (rule: RuleText): Diagnostic[] => {
  const found: Diagnostic[] = []
  const at = (condition: string): Place => rule.place(['when', condition], 'key')
  for (const { condition, value } of rule.when)
    if (Array.isArray(value) && value.length === 0)
      found.push(
        doubt(
          'never-matches',
          at(condition),
          `an empty list matches nothing; leave ${condition} out to match everything`,
        ),
      )
  const protocols = clauseOf(rule, 'protocol')?.value as readonly string[] | undefined
  const asked = OF_REQUESTS.find((condition) => clauseOf(rule, condition) !== undefined)
  if (protocols !== undefined && asked !== undefined && !protocols.includes('http1') && !protocols.includes('http2'))
    found.push(
      doubt('never-matches', at(asked), `only HTTP has ${asked}, and this rule is for ${protocols.join(' and ')}`),
    )
  const ports = clauseOf(rule, 'port')
  const ends = clauseOf(rule, 'destination')?.value as readonly { readonly port?: number }[] | undefined
  if (ports !== undefined && ends !== undefined && ends.length > 0) {
    const isPossible = CONDITION_TABLE.port!.matcher(ports.value)
    if (ends.every(({ port }) => port !== undefined && !isPossible(port)))
      found.push(doubt('never-matches', at('port'), 'no destination of this rule has such a port'))
  }
  return found
}

const withoutChannels = (rule: RuleText): Diagnostic[] =>
  rule.says.flatMap(({ aspect, value }) => {
    if (aspect !== 'upstream' || (value as Target).is !== 'channel') return []
    const place = rule.place(['then', 'upstream', 'channel'], 'key')
    return [doubt('doubtful', place, 'no app can open a channel: callback.enable is false')]
  })
