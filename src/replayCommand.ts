import { createReadStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { isIP, SocketAddress } from 'node:net'
import { type Replayed, type ReplayOptions, replay } from './accept/replay.ts'
import { configPaths } from './admin/configPaths.ts'
import { loadPolicy, problemsOf } from './admin/livePolicy.ts'
import { captureReader } from './codec/capture.ts'
import type { Flow } from './codec/conversation.ts'
import { firstRequest } from './codec/firstRequest.ts'
import { isKnownLinkType } from './codec/linkLayer.ts'
import { type Decrypted, readKeyLog, type Secrets } from './codec/tlsDecrypt.ts'
import type { Address } from './net/address.ts'
import { type Arguments, type Command, type Io, repeated, single, UsageError } from './net/commandLine.ts'
import { ProtocolError } from './net/protocolError.ts'
import { formatDiagnostic } from './policy/diagnostic.ts'
import { outcomeText } from './telemetry/outcomeText.ts'

const READ_BYTES = 65_536 // the most of a file that is in memory, besides what a conversation holds back

/** `sluice replay`. */
export const replayCommand: Command = {
  name: 'replay',
  summary: 'say what Sluice would have made of the connections in a capture',
  usage: 'FILE… [--config PATH…] [--workload ADDRESS…] [--keylog FILE] [--json]',
  options: {
    config: { value: 'PATH', multiple: true, help: 'a policy file, or a directory of them; as for sluice serve' },
    workload: {
      value: 'ADDRESS',
      multiple: true,
      help: 'an IP address of the workload: connections to it are inbound, all others outbound',
    },
    keylog: { value: 'FILE', help: 'a TLS key log: shows the first request inside TLS, or why it cannot be shown' },
    json: { help: 'one JSON object a connection' },
  },
  examples: [
    'tcpdump -i any -w trouble.pcap tcp && sluice replay trouble.pcap',
    'sluice replay --config policy/ --workload 10.1.2.3 --json trouble.pcap | jq .protocol',
  ],
  run: (args, io) => run(args, io),
}

const run = async (args: Arguments, io: Io): Promise<number> => {
  if (args.positionals.length === 0) throw new UsageError('which capture? Name a pcap or pcapng file')
  const workload = workloadOf(repeated(args, 'workload'))
  const loaded = await loadPolicy(configPaths(args, io))
  if (loaded.is === 'mistaken') {
    io.err(`${problemsOf(loaded).join('\n')}\n`)
    return 1
  }
  for (const warning of loaded.warnings) io.err(`${formatDiagnostic(warning)}\n`)
  const options: ReplayOptions = {
    policy: loaded.policy,
    directionOf: ({ server }) => (workload.has(server.host) ? 'inbound' : 'outbound'),
    secrets: await secretsOf(single(args, 'keylog')),
  }
  const textOf = args.values.json === true ? jsonOf : lineOf
  let problems = 0
  for (const file of args.positionals) {
    const problem = await replayFile(file, options, (replayed) => io.out(`${textOf(file, replayed)}\n`))
    if (problem === undefined) continue
    io.err(`sluice replay: ${file}: ${problem}\n`)
    problems++
  }
  return problems === 0 ? 0 : 1
}

/** The addresses in the form a capture is read into; `FD00:0::1` is fd00::1. */
const workloadOf = (written: readonly string[]): ReadonlySet<string> => {
  const wrong = written.find((text) => isIP(text) === 0)
  if (wrong !== undefined) throw new UsageError(`--workload is an IP address, not '${wrong}'`)
  return new Set(
    written.map((text) => new SocketAddress({ address: text, family: isIP(text) === 6 ? 'ipv6' : 'ipv4' }).address),
  )
}

const secretsOf = async (path: string | undefined): Promise<Secrets | undefined> => {
  if (path === undefined) return undefined
  try {
    return readKeyLog(await readFile(path, 'utf8'))
  } catch (error) {
    throw new UsageError(`--keylog ${path}: ${(error as Error).message}`)
  }
}

/** Replays one file as far as it can be read; says what stopped it before its end. */
export const replayFile = async (
  file: string,
  options: ReplayOptions,
  hear: (replayed: Replayed) => void,
): Promise<string | undefined> => {
  const capture = captureReader()
  const conversations = replay(options)
  const unknown = new Map<number, number>()
  let problem: string | undefined
  try {
    for await (const chunk of createReadStream(file, { highWaterMark: READ_BYTES })) {
      for (const packet of capture.push(chunk as Buffer)) {
        if (!isKnownLinkType(packet.linkType)) unknown.set(packet.linkType, (unknown.get(packet.linkType) ?? 0) + 1)
        for (const replayed of await conversations.packet(packet)) hear(replayed)
      }
    }
    capture.end()
  } catch (error) {
    // A file that cannot be read, or not to its end. Anything else is a bug.
    if (!(error instanceof ProtocolError) && (error as NodeJS.ErrnoException).syscall === undefined) throw error
    problem = (error as Error).message
  }
  for (const replayed of await conversations.end()) hear(replayed)
  const skipped = [...unknown].map(([linkType, packets]) => `${packets} packets of link type ${linkType} were skipped`)
  return [...(problem === undefined ? [] : [problem]), ...skipped].join('; ') || undefined
}

const MISSING = { start: 'its beginning', bytes: 'some bytes', side: 'one side', end: 'its end' }

const lineOf = (file: string, { outcome, missing, decrypted }: Replayed): string => {
  const incomplete =
    missing.length === 0 ? '' : `  not in the capture: ${missing.map((what) => MISSING[what]).join(', ')}`
  const inside = decrypted === undefined ? '' : `  inside TLS: ${Object.values(insideOf(decrypted)).join('')}`
  return `${file}: ${outcomeText(outcome)}${inside}${incomplete}`
}

const HEAD_BYTES = 32 // enough to recognise a protocol by

/** What a key log shows: the first request, the first bytes of something else, or why neither. */
const insideOf = (decrypted: Decrypted): { request: string } | { head: string } | { why: string } => {
  if (decrypted.is === 'no') return { why: decrypted.why }
  const request = firstRequest(decrypted.bytes)
  return request === undefined
    ? { head: JSON.stringify(decrypted.bytes.toString('latin1', 0, HEAD_BYTES)) }
    : { request }
}

/** Keys in the order of the documentation; what is unknown is absent. */
const jsonOf = (file: string, { flow, outcome, missing, decrypted }: Replayed): string => {
  const { direction, protocols, reason, sni, alpn, http, result, rules, bytes, ended } = outcome
  const named = Object.entries(rules).filter(([, rule]) => rule.line > 0)
  return JSON.stringify({
    file,
    flow: flowText(flow),
    direction,
    protocol: protocols[0],
    reason,
    sni,
    alpn,
    http: http && { ...http, version: `HTTP/${http.version}` },
    insideTls: decrypted && insideOf(decrypted),
    verdict: result,
    rules: Object.fromEntries(named),
    bytes,
    ended,
    complete: missing.length === 0,
    missing: missing.length === 0 ? undefined : missing,
  })
}

/** `client>server`, as other tools write flows: no brackets around IPv6. */
const flowText = ({ client, server }: Flow): string => `${plain(client)}>${plain(server)}`
const plain = ({ host, port }: Address): string => `${host}:${port}`
