import { sourceOf } from '../forward/tlsWorld.ts'
import { systemClock } from '../net/clock.ts'
import { type Command, type Io, repeated } from '../net/commandLine.ts'
import type { ChainLink } from '../net/tls/certificate.ts'
import { type Loaded, openCertificates } from '../net/tls/store.ts'
import { ASPECT_TABLE } from '../policy/aspects.ts'
import type { Policy } from '../policy/policy.ts'
import type { RuleRef } from '../policy/verdict.ts'
import { loadPolicy, problemsOf } from './livePolicy.ts'

const DAY_MS = 86_400_000

/** `sluice certs`: what the certificates of a policy are, until when they are good, and which rule uses them. */
export const certsCommand: Command = {
  name: 'certs',
  summary: 'show the certificates and roots of a policy: names, chain, expiry, and the rules that use them',
  usage: 'PATH… [--json]',
  options: { json: { help: 'one JSON object a certificate' } },
  examples: ['sluice certs policy/', 'sluice certs policy/ --json | jq "select(.days < 30)"'],
  run: async (args, io) => {
    const paths = args.positionals.length > 0 ? args.positionals : repeated(args, 'config')
    const loaded = await loadPolicy(paths)
    if (loaded.is === 'mistaken') {
      io.err(`${problemsOf(loaded).join('\n')}\n`)
      return 1
    }
    return show(loaded.policy, args.values.json === true, io)
  },
}

const show = async (policy: Policy, json: boolean, io: Io): Promise<number> => {
  const clock = systemClock
  const options = { clock, warnMs: policy.sections.tls.warnBeforeExpiry, report: () => {} }
  const store = await openCertificates(sourceOf(policy.sections, clock), options)
  store.close()
  const used = usesOf(policy)
  const now = clock.time()
  let findings = 0
  for (const one of store.loaded()) {
    const held = one.certificate ?? one.trust
    const doubts = doubtsOf(one, now, options.warnMs)
    if (doubts.length > 0) findings++
    const uses = used.get(one.name) ?? []
    if (json) io.out(`${JSON.stringify(jsonOf(one, uses, doubts, now))}\n`)
    else io.out(`${textOf(one, uses, doubts, held?.chain ?? [], now)}\n`)
  }
  if (store.loaded().length === 0 && !json) io.out('the policy has no certificates\n')
  return findings === 0 ? 0 : 1
}

/** What is wrong, or soon will be. */
const doubtsOf = ({ certificate, trust, problem }: Loaded, now: number, warnMs: number): string[] => {
  const held = certificate ?? trust
  const left = (held?.notAfter ?? Number.POSITIVE_INFINITY) - now
  return [
    ...(problem === undefined ? [] : [problem]),
    ...(left <= 0 ? ['has expired'] : left <= warnMs ? [`expires in ${Math.floor(left / DAY_MS)} days`] : []),
    ...(certificate && certificate.notBefore > now ? ['is not valid yet'] : []),
    ...(certificate?.warnings ?? []),
  ]
}

/** Which rules, the defaults, or the section mesh, use each name. */
const usesOf = (policy: Policy): Map<string, RuleRef[]> => {
  const uses = new Map<string, RuleRef[]>()
  const add = (to: string, name: string, ref: RuleRef) => {
    const key = to === 'trust' ? `trust ${name}` : name
    uses.set(key, [...(uses.get(key) ?? []), ref])
  }
  const { mesh } = policy.sections
  const ref = { name: 'section mesh', file: '', line: 0 }
  if (mesh.certificate !== undefined) add('certificates', mesh.certificate, ref)
  if (mesh.trust !== undefined) add('trust', mesh.trust, ref)
  for (const rule of policy.rules)
    for (const { aspect, value } of rule.says)
      for (const { to, name } of ASPECT_TABLE[aspect]!.references?.(value) ?? []) add(to, name, rule.ref)
  for (const [aspect, decision] of Object.entries(policy.base)) {
    // What a rule without conditions decided stands in the base as well, and was named above.
    if (decision.is !== 'decided' || policy.rules.some(({ ref: known }) => known === decision.by)) continue
    for (const { to, name } of ASPECT_TABLE[aspect]!.references?.(decision.value as never) ?? [])
      add(to, name, decision.by)
  }
  return uses
}

const jsonOf = (
  { name, certificate, trust, problem }: Loaded,
  uses: readonly RuleRef[],
  doubts: readonly string[],
  now: number,
) => {
  const held = certificate ?? trust
  return {
    name,
    kind: trust ? 'trust' : 'certificate',
    ...(certificate && {
      keyType: certificate.keyType,
      names: certificate.names,
      identity: certificate.identity,
      fingerprint: certificate.fingerprint,
      serial: certificate.serial,
    }),
    ...(held && {
      notAfter: new Date(held.notAfter).toISOString(),
      days: Math.floor((held.notAfter - now) / DAY_MS),
      chain: held.chain.map(({ subject, issuer, notAfter }) => ({
        subject,
        issuer,
        notAfter: new Date(notAfter).toISOString(),
      })),
    }),
    ...(problem !== undefined && { problem }),
    doubts,
    uses: uses.map(({ name: rule, file, line }) => ({ rule, ...(line > 0 && { file, line }) })),
  }
}

const textOf = (
  { name, certificate, trust }: Loaded,
  uses: readonly RuleRef[],
  doubts: readonly string[],
  chain: readonly ChainLink[],
  now: number,
): string => {
  const names = certificate ? [...certificate.names.dns, ...certificate.names.uri, ...certificate.names.ip] : []
  const kind = certificate ? `${certificate.keyType} certificate` : trust ? `${chain.length} roots` : 'not loaded'
  return [
    `${name}: ${kind}`,
    ...(names.length > 0 ? [`names ${names.join(', ')}`] : []),
    ...chain.map((one, depth) => `${depth === 0 || trust ? '' : 'issued by '}${linkText(one, now)}`),
    uses.length === 0 ? 'used by no rule' : `used by ${uses.map(useText).join(', ')}`,
    ...doubts.map((doubt) => `! ${doubt}`),
  ].join('\n  ')
}

const linkText = ({ subject, notAfter }: ChainLink, now: number): string =>
  `${subject || '(no subject)'}, until ${new Date(notAfter).toISOString().slice(0, 10)} (${Math.floor((notAfter - now) / DAY_MS)} days)`

const useText = ({ name, file, line }: RuleRef): string => (line > 0 ? `"${name}" ${file}:${line}` : name)
