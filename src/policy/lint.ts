import { CONDITION_TABLE } from './conditions.ts'
import type { Diagnostic, MistakeCode, Place } from './diagnostic.ts'
import type { Clause, RuleText, Saying } from './policyText.ts'
import { written } from './written.ts'

/** What is allowed in rules, and surely not meant: rules that others hide, and rules that nothing can match. */
export const lint = (rules: readonly RuleText[]): Diagnostic[] => {
  const live = rules.filter((rule) => !rule.isDry)
  return [...rules.flatMap(neverMatches), ...live.flatMap((rule, i) => hidden(rule, live.slice(0, i)))]
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
