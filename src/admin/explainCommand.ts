import { type Arguments, type Command, type Io, single, UsageError } from '../net/commandLine.ts'
import { hiddenValues } from '../net/secretNames.ts'
import { type AspectAnswer, answersOf } from '../policy/answers.ts'
import { type Explanation, explain, type RuleExplained } from '../policy/explain.ts'
import type { Facts } from '../policy/facts.ts'
import type { Policy } from '../policy/policy.ts'
import type { RuleRef } from '../policy/verdict.ts'
import { written } from '../policy/written.ts'
import { redactedValue } from '../telemetry/redact.ts'
import { askAdmin } from './askAdmin.ts'
import { channelRules } from './channels.ts'
import { configPaths } from './configPaths.ts'
import { FACT_OPTIONS, factsFromFlags, factsText } from './explainFacts.ts'
import { loadPolicy, problemsOf } from './livePolicy.ts'

/** `sluice explain`: what the policy says of a connection or request, and which rule says it. */
export const explainCommand: Command = {
  name: 'explain',
  summary: 'say what a policy decides for a connection or request, and why',
  usage: '--destination IP:PORT [--config PATH]… [facts] | --name NAME [--admin ADDRESS]',
  options: {
    config: {
      value: 'PATH',
      short: 'c',
      help: 'a policy file or directory; may be repeated; without it, the policy that `sluice serve` would take',
      multiple: true,
    },
    ...FACT_OPTIONS,
    name: {
      value: 'NAME',
      help: 'ask a running proxy instead: which source knows this name, and each endpoint with its weight, latency and state',
    },
    admin: { value: 'ADDRESS', help: 'with --name: the admin server (127.0.0.1:4191)' },
    expect: { value: 'allow|deny', help: 'exit with 1 when the answer is another' },
    json: { help: 'print JSON' },
  },
  examples: [
    'sluice explain -c policy/default.yaml --direction outbound --destination 10.0.0.5:3306',
    'sluice explain -c /etc/sluice --direction inbound --destination 10.0.0.9:443 --sni a.shop.example --alpn h2',
    'sluice explain --name orders',
    'sluice explain -c /etc/sluice --destination 10.0.0.7:80 --authority orders --path /orders/7 --expect allow',
  ],
  run: async (args, io) => {
    const name = single(args, 'name')
    if (name !== undefined) return explainName(name, args, io)
    const expected = single(args, 'expect')
    if (expected !== undefined && expected !== 'allow' && expected !== 'deny')
      throw new UsageError(`--expect is allow or deny, not '${expected}'`)
    const facts = factsFromFlags(args)
    const policy = await policyFrom(args.positionals.length > 0 ? args.positionals : configPaths(args, io), io)
    if (policy === undefined) return 1
    const explanation = explain(policy, facts)
    const answers = answersOf(policy, explanation.verdict)
    io.out(
      args.values.json === true
        ? `${JSON.stringify(redactedValue(asJson(facts, explanation, answers)))}\n`
        : asText(policy, facts, explanation, answers),
    )
    return expected === undefined || expected === outcomeOf(answers) ? 0 : 1
  },
}

/** What a running proxy has learned of a name. */
const explainName = async (name: string, args: Arguments, io: Io): Promise<number> => {
  const as = args.values.json === true ? '' : '&as=text'
  const { status, body } = await askAdmin(args, io, `/endpoints?name=${encodeURIComponent(name)}${as}`)
  if (status !== 200) {
    io.err(`sluice explain: ${body.trim()}\n`)
    return 1
  }
  io.out(body)
  return 0
}

/** The answer to `explain` in words. */
export const explanation = (policy: Policy, facts: Facts): string => {
  const explained = explain(policy, facts)
  return asText(policy, facts, explained, answersOf(policy, explained.verdict))
}

const policyFrom = async (paths: readonly string[], io: Io): Promise<Policy | undefined> => {
  const loaded = await loadPolicy(paths)
  if (loaded.is === 'policy') return loaded.policy
  for (const problem of problemsOf(loaded)) io.err(`${problem}\n`)
  return undefined
}

const outcomeOf = (answers: readonly AspectAnswer[]): 'allow' | 'deny' | 'waits' => {
  const deny = answers.find(({ aspect }) => aspect === 'deny')
  return deny?.is === 'waits' ? 'waits' : deny?.written === true ? 'deny' : 'allow'
}

const where = ({ name, file, line }: RuleRef): string => (file === '' ? name : `${name} (${file}:${line})`)

const MATCHES = { yes: 'matches', no: 'does not match', unknown: 'may match' }
const IS = {
  decides: 'decides',
  waits: 'waits',
  outranked: 'outranked',
  unused: '',
  dryRun: 'dry run: decides nothing',
}

/** What HTTP is by itself fills a page: of it only what the document decides is told. */
const isWorthTelling = ({ key, by }: AspectAnswer): boolean => !key.startsWith('http.') || by.file !== ''

const asText = (policy: Policy, facts: Facts, { rules, dryRun }: Explanation, all: readonly AspectAnswer[]): string => {
  const answers = all.filter(isWorthTelling)
  const untold = all.length - answers.length
  const width = Math.max(...answers.map(({ key }) => key.length))
  const values = answers.map(({ is, written: value }) => (is === 'waits' ? 'waits' : written(value)))
  const valueWidth = Math.max(...values.map((value) => value.length))
  const lines = answers.map(({ key, is, by }, i) =>
    `  ${key.padEnd(width)}  ${values[i]?.padEnd(valueWidth)}  ${is === 'waits' ? 'for ' : ''}${where(by)}`.trimEnd(),
  )
  const note = `  and ${untold} settings for HTTP as built in: sluice check --defaults`
  const trial = dryRun.map(({ after }) => `dry run: ${after.key}: ${written(after.written)} by ${where(after.by)}`)
  const outcome = { allow: 'allowed', deny: 'denied', waits: 'not decided yet' }[outcomeOf(answers)]
  const channel = channelRules(policy, facts)
  const told = [`verdict: ${outcome}`, ...lines, note, ...trial, ...(channel === undefined ? [] : [channel])]
  return hiddenValues([factsText(facts), '', ...rules.flatMap(ruleText), ...told, ''].join('\n'))
}

const ruleText = ({ rule, matches, conditions, says }: RuleExplained): string[] => [
  `${rule.file}:${rule.line}: ${rule.name}: ${MATCHES[matches]}`,
  ...conditions
    .filter(({ holds }) => matches !== 'no' || holds === 'no')
    .map(({ condition, written: value, holds, fact }) => {
      const seen = fact === undefined ? 'not known yet' : fact === null ? 'there is none' : `it is ${fact}`
      return `  ${{ yes: '+', no: '-', unknown: '?' }[holds]} ${condition}: ${written(value)}   ${seen}`
    }),
  ...says
    .filter(({ is }) => is !== 'unused')
    .map(
      ({ key, written: value, is, by }) => `  = ${key}: ${written(value)}   ${IS[is]}${by ? ` by ${where(by)}` : ''}`,
    ),
  '',
]

const asJson = (facts: Facts, { rules, dryRun }: Explanation, answers: readonly AspectAnswer[]) => ({
  facts: {
    ...facts,
    ...(facts.request && {
      request: { method: facts.request.method, authority: facts.request.authority, path: facts.request.path },
    }),
  },
  rules: rules.map(({ rule, isDry, matches, conditions, says }) => ({
    ...rule,
    ...(isDry && { dryRun: true }),
    matches,
    conditions,
    // biome-ignore lint/suspicious/noThenProperty: the document's word, in data that nobody awaits.
    then: says.map(({ key, written: value, is, by }) => ({ key, value, is, ...(by && { by }) })),
  })),
  outcome: outcomeOf(answers),
  ...(dryRun.length > 0 && { dryRun: dryRun.map(({ after }) => after) }),
  verdict: Object.fromEntries(
    answers.map(({ aspect, key, written: value, is, by }) => [
      aspect,
      { is, ...(is === 'decided' && { key, value }), rule: by },
    ]),
  ),
})
