import { relative } from 'node:path'
import type { Outcome } from '../../src/telemetry/outcome.ts'

/** One connection of the demo: who opens it, and with which program. */
export interface Scene {
  readonly title: string
  readonly from: 'workload' | 'outside'
  readonly command: readonly string[]
  readonly input?: string
}

/** Flags of curl that say nothing about the connection, and are not shown. */
export const QUIET = ['-sS', '--noproxy', '*', '--max-time', '5']

/** The connection and what Sluice knows about it, for someone who has never seen either. */
export const tell = ({ title, from, command }: Scene, answer: string, outcome: Outcome, root: string): string =>
  [
    `${from === 'workload' ? 'The workload calls out' : 'Someone outside calls in'}: ${title}`,
    `     $ ${command.filter((word) => !QUIET.includes(word)).join(' ')}`,
    `     the program got     ${answer === '' ? 'what it wanted, and says nothing' : answer.split('\n').at(-1)}`,
    `     Sluice saw          ${seen(outcome)}`,
    `     the policy said     ${decided(outcome, root)}`,
    `     and so it was       ${ended(outcome)}`,
    '',
  ].join('\n')

const SPOKEN: Readonly<Record<string, string>> = { http1: 'HTTP/1', http2: 'HTTP/2', tls: 'TLS', opaque: 'just bytes' }
const REASONS: Readonly<Record<string, string>> = {
  serverFirst: 'the server spoke first',
  unknown: 'the first bytes are no protocol that it knows',
  timeout: 'the client said too little in time',
  closed: 'the client left before it said enough',
  policy: 'the policy says so',
}

const ENDINGS: Readonly<Record<string, string>> = {
  closed: 'closed by both sides',
  clientReset: 'the client hung up',
  upstreamReset: 'the server hung up',
}

const seen = ({ protocols, reason, sni, alpn, http, destination }: Outcome): string => {
  if (protocols.length === 0)
    return `a connection to ${destination.host} port ${destination.port}; not a byte of it was read`
  const words = [protocols.map((each) => SPOKEN[each] ?? each).join(' inside ')]
  if (http !== undefined) words.push(`${http.method} ${http.target}`)
  if (sni !== undefined) words.push(`for ${sni}`)
  if (alpn !== undefined) words.push(`offering ${alpn.join(' and ')}`)
  if (reason !== undefined) words.push(`because ${REASONS[reason] ?? reason}`)
  return words.join(', ')
}

const decided = ({ rules, result }: Outcome, root: string): string => {
  const rule = Object.values(rules).find(({ line }) => line > 0)
  if (rule === undefined) return 'nothing about it, so it is passed on'
  const place = `${relative(root, rule.file)}:${rule.line}`
  return `${result === 'denied' ? 'no' : 'yes'}: "${rule.name}" (${place})`
}

const ended = ({ result, ended: how, error, bytes, ms }: Outcome): string => {
  if (result === 'denied') return 'denied, and nothing was dialled'
  const trouble = error === undefined ? '' : `: ${error.message}`
  if (result !== 'forwarded') return `${result}${trouble}`
  const end = ENDINGS[how] ?? `${how}${trouble}`
  return `forwarded: ${bytes.sent} bytes there, ${bytes.received} back, ${end} after ${Math.round(ms)} ms`
}
