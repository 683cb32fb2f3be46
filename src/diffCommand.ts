import { isDeepStrictEqual } from 'node:util'
import { factsText } from './admin/explainFacts.ts'
import { loadPolicy, problemsOf } from './admin/livePolicy.ts'
import { formatAddress } from './net/address.ts'
import { type Arguments, type Command, type Io, repeated, UsageError } from './net/commandLine.ts'
import { type Difference, differences, type Told } from './policy/differences.ts'
import type { Facts } from './policy/facts.ts'
import type { Policy } from './policy/policy.ts'
import { SECTION_TABLE } from './policy/sections.ts'
import type { RuleRef } from './policy/verdict.ts'
import { witnesses } from './policy/witnesses.ts'
import { written } from './policy/written.ts'
import { replayFile } from './replayCommand.ts'
import type { Outcome } from './telemetry/outcome.ts'

/** `sluice diff`: what changes, in meaning, when one policy takes the place of another. */
export const diffCommand: Command = {
  name: 'diff',
  summary: 'say which connections and requests two policies treat differently',
  usage: 'OLD NEW [--replay CAPTURE…] [--json]',
  options: {
    replay: {
      value: 'CAPTURE',
      multiple: true,
      help: 'a pcap or pcapng file: which of its connections would end differently',
    },
    workload: {
      value: 'ADDRESS',
      multiple: true,
      help: 'an IP address of the workload in the capture; as for sluice replay',
    },
    json: { help: 'print JSON' },
  },
  examples: [
    'sluice diff policy.yaml policy.new.yaml',
    'sluice diff old/ new/ --replay yesterday.pcap --workload 10.1.2.3',
  ],
  run: async (args, io) => {
    const [old, now, ...more] = args.positionals
    if (old === undefined || now === undefined || more.length > 0)
      throw new UsageError('name two policies, the old one and the new one')
    const policies = [await policyAt(old, io), await policyAt(now, io)]
    const [before, after] = policies
    if (before === undefined || after === undefined) return 2
    const cases = witnesses([...before.rules, ...after.rules])
    const changes = grouped(before, after, cases)
    const sections = changedSections(before, after)
    const replayed = (
      await Promise.all(repeated(args, 'replay').map((file) => replayedBy(file, before, after, args, io)))
    ).flat()
    const found = { cases: cases.length, changes, sections, replayed }
    io.out(args.values.json === true ? `${JSON.stringify(asJson(found))}\n` : asText(found))
    return changes.length + sections.length + replayed.length === 0 ? 0 : 1
  },
}

const policyAt = async (path: string, io: Io): Promise<Policy | undefined> => {
  const loaded = await loadPolicy([path])
  if (loaded.is === 'policy') return loaded.policy
  io.err(`${problemsOf(loaded).join('\n')}\n`)
  return undefined
}

/** One change of meaning, an example of what it changes, and how many of the cases tried it changes. */
interface Change extends Difference {
  readonly example: Facts
  count: number
}

interface Found {
  readonly cases: number
  readonly changes: readonly Change[]
  readonly sections: readonly string[]
  readonly replayed: readonly ReplayedDifferently[]
}

const grouped = (before: Policy, after: Policy, cases: readonly Facts[]): Change[] => {
  const changes = new Map<string, Change>()
  for (const facts of cases) {
    for (const it of differences(before, after, facts)) {
      const key = JSON.stringify([it.aspect, told(it.before), told(it.after)])
      const known = changes.get(key)
      if (known === undefined) changes.set(key, { ...it, example: facts, count: 1 })
      else known.count++
    }
  }
  return [...changes.values()]
}

const changedSections = (before: Policy, after: Policy): string[] =>
  Object.keys(SECTION_TABLE).filter(
    (name) =>
      !isDeepStrictEqual(
        before.sections[name as keyof typeof before.sections],
        after.sections[name as keyof typeof after.sections],
      ),
  )

/** A conversation of a capture that ends differently. */
interface ReplayedDifferently {
  readonly file: string
  readonly flow: string
  readonly before: string
  readonly after: string
}

const replayedBy = async (
  file: string,
  before: Policy,
  after: Policy,
  args: Arguments,
  io: Io,
): Promise<ReplayedDifferently[]> => {
  const workload = new Set(repeated(args, 'workload'))
  const outcomes = async (policy: Policy): Promise<Map<string, string>> => {
    const found = new Map<string, string>()
    const options = {
      policy,
      directionOf: ({ server }: { server: { host: string } }) =>
        workload.has(server.host) ? ('inbound' as const) : ('outbound' as const),
    }
    const problem = await replayFile(file, options, ({ flow, outcome }) => {
      // The same two addresses may talk more than once.
      const name = `${formatAddress(flow.client)} to ${formatAddress(flow.server)} at ${flow.startedAt}`
      found.set(name, outcomeOf(outcome))
    })
    if (problem !== undefined && policy === before) io.err(`sluice diff: ${file}: ${problem}\n`)
    return found
  }
  const [was, is] = [await outcomes(before), await outcomes(after)]
  return [...was].flatMap(([flow, old]) => {
    const now = is.get(flow) ?? 'nothing'
    return old === now ? [] : [{ file, flow: flow.replace(/ at \d.*$/, ''), before: old, after: now }]
  })
}

const outcomeOf = ({ result, protocols, reason, upstream }: Outcome): string => {
  const spoken =
    protocols.length === 0 ? '' : ` as ${protocols.join(', ')}${reason === undefined ? '' : ` (${reason})`}`
  return `${result}${spoken}${upstream === undefined ? '' : ` to ${formatAddress(upstream)}`}`
}

const where = ({ name, file, line }: RuleRef): string => (file === '' ? name : `"${name}", ${file}:${line}`)

const told = ({ is, key, written: value, by }: Told): string =>
  is === 'waits' ? `waits (${where(by)})` : `${key}: ${written(value)} (${where(by)})`

const asText = ({ cases, changes, sections, replayed }: Found): string => {
  const lines = changes.flatMap(({ before, after, example, count }) => [
    `- ${told(before)}`,
    `+ ${told(after)}`,
    `  for example ${factsText(example)}; ${count} of ${cases} cases tried`,
    '',
  ])
  for (const name of sections)
    lines.push(
      `section ${name} changes; ${SECTION_TABLE[name]!.onReload ? 'it counts on reload' : 'it needs a restart'}`,
    )
  for (const { file, flow, before, after } of replayed) lines.push(`${file}: ${flow}: ${before}; then ${after}`)
  if (lines.length === 0) lines.push(`nothing changes in any of ${cases} cases tried`)
  return `${lines.join('\n').trimEnd()}\n`
}

const asJson = ({ cases, changes, sections, replayed }: Found) => ({
  cases,
  changes: changes.map(({ aspect, before, after, example, count }) => ({
    aspect,
    before,
    after,
    example: factsText(example),
    count,
  })),
  sections,
  replayed,
})
