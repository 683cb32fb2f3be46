import type { Duplex } from 'node:stream'
import type { ClientHello } from '../codec/clientHello.ts'
import { MESH_ALPN } from '../codec/meshHeader.ts'
import { chooseAlpn } from '../net/tls/alpn.ts'
import type { Certificate } from '../net/tls/certificate.ts'
import type { ALERTS, TlsFailure } from '../net/tls/failure.ts'
import { mostSpecific, onePerKeyType } from '../net/tls/names.ts'
import { refuseHello, type Secured, type ServerTerms } from '../net/tls/terminate.ts'
import type { Sections } from '../policy/sections.ts'
import { settled, type Verdict } from '../policy/verdict.ts'
import { type TlsWorld, trustName } from './tlsWorld.ts'
import { meshOf, notLoaded } from './upstreamTls.ts'

/** What becomes of a client's TLS: passed on as it is, ended here, or ended badly. */
export type ClientTls = { readonly is: 'passed' } | { readonly is: 'ended'; readonly secured: Secured } | Refused

type Refused = { readonly is: 'failed'; readonly failure: TlsFailure }

/** What decides it. */
export interface ClientTlsOptions {
  readonly hello: ClientHello
  readonly verdict: Verdict
  readonly sections: Sections
  readonly tls: TlsWorld
  /** Asks the upstream which of the client's protocols it takes; for `tls.alpn: upstream`. */
  readonly bridge: (offered: readonly string[]) => Promise<string | null | TlsFailure>
}

type Terms = { readonly is: 'terms'; readonly terms: ServerTerms } | { readonly is: 'passed' } | Refusal

type Refusal = {
  readonly is: 'refused'
  readonly code: string
  readonly alert: keyof typeof ALERTS
  readonly message: string
}

/** Ends a client's TLS where the policy wants that. The stream is the caller's to destroy in any case. */
export const endClientTls = async (stream: Duplex, options: ClientTlsOptions): Promise<ClientTls> => {
  const found = isFromMesh(options) ? meshTerms(options) : await policyTerms(options)
  if (found.is === 'passed') return found
  if (found.is === 'refused')
    return { is: 'failed', failure: refuseHello(stream, found.code, found.alert, found.message) }
  const tooOld = olderThanTls(options.hello)
  if (tooOld) return { is: 'failed', failure: refuseHello(stream, tooOld.code, 'protocol_version', tooOld.message) }
  const result = await options.tls.terminator.terminate(stream, found.terms)
  return result.failed ? { is: 'failed', failure: result } : { is: 'ended', secured: result }
}

/**
 * What is refused whatever else the hello says (RFC 8446 appendix D.5). OpenSSL answers SSL 3.0 with handshake_failure,
 * because SSL 3.0 had no better alert, where the RFC wants protocol_version.
 */
const olderThanTls = ({ recordVersion, legacyVersion }: ClientHello): { code: string; message: string } | undefined => {
  if (recordVersion === 0x0002) return { code: 'TLS_SSL2_HELLO', message: 'a hello in SSL 2.0 form' }
  if (legacyVersion <= 0x0300) return { code: 'TLS_SSL3_HELLO', message: 'the client offers SSL 3.0 and nothing newer' }
  return undefined
}

/** The marker of another Sluice: its protocol first in the list, or the extension that the policy names. */
const isFromMesh = ({ hello, verdict, sections: { mesh } }: ClientTlsOptions): boolean =>
  mesh.certificate !== undefined &&
  settled(verdict['tls.mesh']) === 'accept' &&
  (hello.alpn?.[0] === MESH_ALPN || (mesh.marker !== undefined && hello.extensions.includes(mesh.marker)))

const meshTerms = (options: ClientTlsOptions): Terms => {
  const { verdict, sections, tls } = options
  const ours = meshOf(sections, tls)
  if ('failed' in ours) return refusal(ours)
  const wanted = settled(verdict['tls.alpn'])
  const alpn = chosen(options, [MESH_ALPN, ...(wanted === 'upstream' ? [] : wanted)])
  if (alpn !== null && typeof alpn === 'object') return alpn
  return {
    is: 'terms',
    terms: {
      certificates: [ours.certificate],
      minVersion: 'TLSv1.3',
      alpn,
      clients: { trust: ours.trust, required: true },
    },
  }
}

const policyTerms = async (options: ClientTlsOptions): Promise<Terms> => {
  const { hello, verdict, tls } = options
  const certificates = certificatesFor(hello.sni, verdict, tls)
  if (certificates === 'pass') return { is: 'passed' }
  if ('failed' in certificates) return refusal(certificates)
  const asked = settled(verdict['tls.clientCertificates'])
  const trust = asked === false ? undefined : tls.certificates.trust(trustName(asked.trust))
  if (asked !== false && !trust) return refusal(notLoaded('trust', asked.trust))
  const alpn = await agree(options)
  if (alpn !== null && typeof alpn === 'object') return alpn
  return {
    is: 'terms',
    terms: {
      certificates,
      minVersion: settled(verdict['tls.minVersion']),
      alpn,
      ...(asked !== false && trust && { clients: { trust, required: asked.required } }),
    },
  }
}

/** The application protocol to agree on, or why there is none to go on with. */
const agree = async (options: ClientTlsOptions): Promise<string | null | Refusal> => {
  const wanted = settled(options.verdict['tls.alpn'])
  if (wanted !== 'upstream') return chosen(options, wanted)
  const answer = await options.bridge(options.hello.alpn ?? [])
  if (answer !== null) return typeof answer === 'object' ? refusal(answer) : answer
  return settled(options.verdict['tls.alpnRequired'])
    ? nothingInCommon('the upstream agrees to no application protocol')
    : null
}

const chosen = ({ hello, verdict }: ClientTlsOptions, wanted: readonly string[]): string | null | Refusal => {
  const choice = chooseAlpn(hello.alpn, wanted, settled(verdict['tls.alpnRequired']))
  if (choice.is === 'agreed') return choice.protocol
  return choice.is === 'none' ? null : nothingInCommon(choice.message)
}

const nothingInCommon = (message: string): Refusal => ({
  is: 'refused',
  code: 'TLS_NO_APPLICATION_PROTOCOL',
  alert: 'no_application_protocol',
  message,
})

/** What is wrong with us, or behind us, is no fault of the client's. RFC 8446 section 6.2: internal_error. */
const refusal = ({ code, message, alert }: TlsFailure): Refusal => ({
  is: 'refused',
  code,
  message,
  alert: alert === 'no_application_protocol' ? alert : 'internal_error',
})

/** The certificates to answer a server name with, by the policy; or to pass the connection on. */
const certificatesFor = (
  sni: string | null,
  verdict: Verdict,
  { certificates }: TlsWorld,
): readonly Certificate[] | 'pass' | TlsFailure => {
  const terminate = settled(verdict['tls.terminate'])
  if (terminate.is === 'never') return 'pass'
  if (terminate.is === 'any') {
    const found = sni === null ? [] : certificates.forServer(sni)
    return found.length > 0 ? found : 'pass'
  }
  const loaded = terminate.names.flatMap((one) => certificates.certificate(one) ?? [])
  if (loaded.length === 0) return notLoaded('certificate', terminate.names.join(', '))
  const covering = sni === null ? [] : mostSpecific(loaded, sni)
  return covering.length > 0 ? covering : onePerKeyType(loaded)
}
