import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { type LearnedRequest, type Learner, learner } from './admin/learn.ts'
import { type Command, type Io, repeated, UsageError } from './net/commandLine.ts'
import { builtInPolicy } from './policy/parsePolicy.ts'
import { replayFile } from './replayCommand.ts'
import type { Outcome } from './telemetry/outcome.ts'

/** `sluice learn`: a policy from what was observed. */
export const learnCommand: Command = {
  name: 'learn',
  summary: 'write the smallest policy that allows what was observed',
  usage: '[LOG…] [--replay CAPTURE…] [--workload ADDRESS…]',
  options: {
    replay: { value: 'CAPTURE', multiple: true, help: 'a pcap or pcapng file to learn from' },
    workload: {
      value: 'ADDRESS',
      multiple: true,
      help: 'an IP address of the workload in the capture; as for sluice replay',
    },
  },
  examples: [
    'sluice learn /var/log/sluice.json > policy.yaml   # a log of format json',
    'kubectl logs pod -c sluice | sluice learn /dev/stdin',
    'sluice learn --replay day.pcap --workload 10.1.2.3',
  ],
  run: async (args, io) => {
    const captures = repeated(args, 'replay')
    if (args.positionals.length + captures.length === 0)
      throw new UsageError('name a log of format json, or a capture with --replay')
    const learned = learner()
    const workload = new Set(repeated(args, 'workload'))
    let isWhole = true
    for (const file of args.positionals) isWhole = (await hearLog(file, learned, io)) && isWhole
    for (const file of captures) {
      const directionOf = ({ server }: { server: { host: string } }) =>
        workload.has(server.host) ? ('inbound' as const) : ('outbound' as const)
      const problem = await replayFile(file, { policy: builtInPolicy(), directionOf }, ({ outcome }) =>
        learned.hear(outcome),
      )
      if (problem !== undefined) {
        io.err(`sluice learn: ${file}: ${problem}\n`)
        isWhole = false
      }
    }
    io.out(learned.policy())
    return isWhole ? 0 : 1
  },
}

const hearLog = async (file: string, learned: Learner, io: Io): Promise<boolean> => {
  let heard = 0
  try {
    for await (const line of createInterface({ input: createReadStream(file), crlfDelay: Number.POSITIVE_INFINITY })) {
      const found = lineOf(line)
      if (found === undefined) continue
      if (isRequest(found)) {
        learned.hearRequest(found)
        continue
      }
      if (!isOutcome(found)) continue
      learned.hear(found)
      heard++
    }
  } catch (error) {
    io.err(`sluice learn: ${(error as Error).message}\n`)
    return false
  }
  if (heard === 0) io.err(`sluice learn: ${file}: no connection in it; the log must be of format json\n`)
  return heard > 0
}

type Line = Partial<Outcome & LearnedRequest>

/** What a line of the log holds about a connection or a request; other lines are none of ours. */
const lineOf = (line: string): Line | undefined => {
  if (!line.startsWith('{')) return undefined
  try {
    const found = JSON.parse(line) as Line
    return found.direction !== undefined && found.destination !== undefined && found.peer !== undefined
      ? found
      : undefined
  } catch {
    return undefined
  }
}

const isRequest = (line: Line): line is LearnedRequest =>
  typeof line.method === 'string' && typeof line.authority === 'string' && typeof line.target === 'string'

const isOutcome = (line: Line): line is Outcome => Array.isArray(line.protocols)
