import { sourceOf } from '../forward/tlsWorld.ts'
import { systemClock } from '../net/clock.ts'
import type { Certificate } from '../net/tls/certificate.ts'
import { openCertificates } from '../net/tls/store.ts'
import type { AspectValue } from '../policy/aspects.ts'
import { ASPECT_TABLE } from '../policy/aspects.ts'
import type { Diagnostic } from '../policy/diagnostic.ts'
import { nameCovers } from '../policy/glob.ts'
import type { Policy } from '../policy/policy.ts'

/**
 * Doubts that only the certificates themselves can raise: one that nothing uses, and names with a `*` for which no rule
 * ends TLS, so that connections to them pass through sealed. Files that cannot be read here raise none: `sluice certs`
 * speaks of those.
 */
export const lintCertificates = async (policy: Policy): Promise<Diagnostic[]> => {
  const { certificates } = policy.sections
  if (Object.keys(certificates).length === 0) return []
  const store = await openCertificates(sourceOf(policy.sections, systemClock), {
    clock: systemClock,
    warnMs: 0,
    report: () => {},
  })
  store.close()
  return store.loaded().flatMap(({ name, certificate }) => {
    if (certificate === undefined) return []
    const doubt = (message: string): Diagnostic => ({
      severity: 'warning',
      code: 'doubtful',
      place: { file: certificates[name]!.cert, line: 1, column: 1, length: 1, text: '' },
      message,
    })
    if (!isUsed(name, policy)) return [doubt(`certificate ${name} is used by no rule`)]
    const idle = certificate.names.dns.filter((it) => it.startsWith('*.') && !isEnded(it, certificate, policy))
    return idle.map((it) => doubt(`certificate ${name} is for ${it}, but no rule ends TLS with it for all such names`))
  })
}

type Terminate = AspectValue<'tls.terminate'>

/** Each decision of whether to end TLS, with the names that its rule asks for; undefined asks for none. */
const endings = ({
  rules,
  base,
}: Policy): { readonly value: Terminate; readonly names: readonly string[] | undefined }[] => {
  const decision = base['tls.terminate']
  return [
    ...rules.flatMap(({ says, tests }) => {
      const said = says.find(({ aspect }) => aspect === 'tls.terminate')
      const names = tests.find(({ condition }) => condition === 'sni')?.value as readonly string[] | undefined
      return said === undefined ? [] : [{ value: said.value as Terminate, names }]
    }),
    ...(decision.is === 'decided' ? [{ value: decision.value, names: undefined }] : []),
  ]
}

const isEndedWith = (name: string, value: Terminate): boolean =>
  value.is === 'any' || (value.is === 'named' && value.names.includes(name))

const isEnded = (wildcard: string, { name }: Certificate, policy: Policy): boolean =>
  policy.sections.mesh.certificate === name ||
  policy.sections.gateway.certificate.includes(name) ||
  endings(policy).some(
    ({ value, names }) => isEndedWith(name, value) && (names?.some((it) => nameCovers(it, wildcard)) ?? true),
  )

const isUsed = (name: string, policy: Policy): boolean => {
  const names = (aspect: string, value: unknown): boolean =>
    (ASPECT_TABLE[aspect]!.references?.(value as never) ?? []).some(
      (it) => it.to === 'certificates' && it.name === name,
    )
  return (
    JSON.stringify([policy.sections.mesh, policy.sections.gateway]).includes(JSON.stringify(name)) ||
    endings(policy).some(({ value }) => isEndedWith(name, value)) ||
    policy.rules.some(({ says }) => says.some(({ aspect, value }) => names(aspect, value))) ||
    policy.defaults.some(({ aspect, value }) => names(aspect, value))
  )
}
