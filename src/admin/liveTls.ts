import { openTls, type TlsWorld } from '../forward/tlsWorld.ts'
import type { Clock } from '../net/clock.ts'
import type { CertificateEvent } from '../net/tls/store.ts'
import type { Sections } from '../policy/sections.ts'
import type { Log } from '../telemetry/log.ts'
import type { Metrics } from '../telemetry/metrics.ts'

/** TLS for `sluice serve`: what happens to certificates is logged. */
export const keepTls = async (sections: Sections, clock: Clock, log: Log): Promise<TlsWorld> => {
  const { keyLog } = sections.tls
  if (keyLog !== undefined)
    log.warn(`the secrets of every TLS session are written to ${keyLog}: whoever reads that file reads all traffic`)
  return openTls(sections, clock, (event) => report(event, log))
}

const report = (event: CertificateEvent, log: Log): void => {
  const about = `certificate ${event.name}`
  switch (event.is) {
    case 'problem':
      return log.error(
        `${about}: ${event.problem}; ${event.kept ? 'the one before stays in use' : 'there is none to use'}`,
      )
    case 'expiring':
      return log.warn(
        `${about} ${event.days < 0 ? 'has expired' : `expires in ${event.days} days`}, on ${day(event.notAfter)}`,
      )
    default:
      log.info(`${about} is ${event.is}, valid until ${day(event.notAfter)}`)
      for (const warning of event.warnings) log.warn(`${about}: ${warning}`)
  }
}

const day = (time: number): string => new Date(time).toISOString().slice(0, 10)

/** What keeps certificates from being served: those whose files never were good. In words, for /ready. */
export const missingCertificates = ({ certificates }: TlsWorld): string[] =>
  certificates
    .loaded()
    .filter(({ certificate, trust }) => certificate === undefined && trust === undefined)
    .map(({ name, problem }) => `certificate ${name}: ${problem ?? 'not loaded'}`)

/** What a person should know of certificates in use, in words: `soonMs` before their end, and when a new file is bad. */
export const certificateWarnings = ({ certificates }: TlsWorld, time: number, soonMs: number): string[] =>
  certificates.loaded().flatMap(({ name, certificate, trust, problem }) => {
    const ends = (certificate ?? trust)?.notAfter
    const days = ends === undefined ? undefined : Math.floor((ends - time) / 86_400_000)
    return [
      ...(problem === undefined ? [] : [`The newest file of certificate ${name} cannot be used: ${problem}`]),
      ...(ends !== undefined && ends - time < soonMs
        ? [`Certificate ${name} ${days! < 0 ? 'has expired' : `expires in ${days} days`}, on ${day(ends)}.`]
        : []),
    ]
  })

/** Expiry and load, for whoever scrapes: an alert on the first needs no log. */
export const countTls = (
  metrics: Metrics,
  { certificates }: Pick<TlsWorld, 'certificates'>,
  handshakes: () => number,
): void => {
  metrics.gauge('certificate_expiry_timestamp_seconds', {
    help: 'When a certificate in use, or the first of its chain or of a bundle of roots, ends; seconds since 1970.',
    labels: ['name'],
    collect: (gauge) => {
      gauge.reset()
      for (const { name, certificate, trust } of certificates.loaded()) {
        const held = certificate ?? trust
        if (held) gauge.set({ name }, held.notAfter / 1000)
      }
    },
  })
  metrics.gauge('certificate_problem', {
    help: '1 while the newest file of a certificate cannot be used; an older one may be in use still.',
    labels: ['name'],
    collect: (gauge) => {
      gauge.reset()
      for (const { name, problem } of certificates.loaded()) gauge.set({ name }, problem === undefined ? 0 : 1)
    },
  })
  metrics.gauge('tls_handshakes_active', {
    help: 'Handshakes with clients under way.',
    labels: [],
    collect: (gauge) => gauge.set(handshakes()),
  })
}
