import type { Duplex } from 'node:stream'
import { type InnerProtocol, MESH_ALPN, writeMeshHeader } from '../codec/meshHeader.ts'
import type { Address } from '../net/address.ts'
import type { Dial } from '../net/connection.ts'
import { dialWithin } from '../net/dial.ts'
import type { Certificate, Trust } from '../net/tls/certificate.ts'
import { failure, HandshakeError, type TlsFailure } from '../net/tls/failure.ts'
import type { ClientTerms } from '../net/tls/originate.ts'
import type { Secured } from '../net/tls/terminate.ts'
import { identityPattern } from '../policy/conditions/identity.ts'
import type { Protocol } from '../policy/facts.ts'
import type { Sections } from '../policy/sections.ts'
import { settled, type Verdict } from '../policy/verdict.ts'
import type { Life } from '../telemetry/life.ts'
import type { Secure } from './plan.ts'
import { type TlsWorld, trustName } from './tlsWorld.ts'

const PREFER_MS = 2_000 // a server that waits for more of what it takes for a request says nothing at all

/** What the policy and the connection say about TLS with the upstream. */
export interface UpstreamTls {
  readonly verdict: Verdict
  readonly sections: Sections
  readonly tls: TlsWorld
  /** The name to ask for where the policy names none: of the request, or of the client's own TLS. */
  readonly name?: string | null | undefined
  /** The name that its certificate has to prove beside what the policy says, where discovery gives one. */
  readonly identity?: string | undefined
  /** What will travel inside, where that is known: the next Sluice is told. */
  readonly protocol?: InnerProtocol | undefined
  /** The application protocols to offer where the policy names none. */
  readonly alpn?: readonly string[] | undefined
  /** Told what was agreed on, for the Outcome. */
  readonly agreed?: ((secured: Secured) => void) | undefined
}

/** Whether it is known by now how the upstream is to be spoken to: not, while a rule waits for a request. */
export const isTlsDecided = (verdict: Verdict): boolean =>
  verdict['upstream.tls'].is === 'decided' &&
  verdict['upstream.mesh'].is === 'decided' &&
  verdict['upstream.identity'].is === 'decided'

/** For the forwarders: `secureDial` with what the process and the connection bring, and the Outcome told. */
export const securing =
  (life: Life, tls: TlsWorld | undefined): Secure =>
  (dial, { verdict, policy, name, protocol, identity }) => {
    if (!wantsTls(verdict)) return dial
    if (!tls) return () => Promise.reject(new HandshakeError(NO_TLS))
    const agreed = (secured: Secured) => {
      life.upstreamTls = agreement(secured)
    }
    const alpn = carriedOver(protocol, life.tls?.alpn)
    return secureDial(dial, { verdict, sections: policy.sections, tls, name, protocol, identity, alpn, agreed })
  }

/** What is forwarded as HTTP is offered as such; of bytes, what was agreed on with the client. */
const carriedOver = (protocol: Protocol | undefined, agreed: string | undefined): readonly string[] => {
  if (protocol === 'http2') return ['h2']
  if (protocol === 'http1') return ['http/1.1']
  return agreed === undefined || agreed === MESH_ALPN ? [] : [agreed]
}

const NO_TLS = failure('TLS_NOT_AVAILABLE', 'the policy wants TLS to the upstream, and there is none here')

const agreement = ({ version, cipher, alpn, identity }: Secured): Life['upstreamTls'] => ({
  version,
  cipher,
  ...(alpn !== null && { alpn }),
  ...(identity !== null && { identity }),
})

/** Whether a verdict wants anything but a bare connection. */
export const wantsTls = (verdict: Verdict): boolean =>
  settled(verdict['upstream.tls']) !== false || settled(verdict['upstream.mesh']) !== 'never'

/**
 * How long all of a dial may take, in milliseconds: the connect; with TLS also the handshake, which has a limit of its own,
 * and another connect where plain is what is left.
 */
export const reachMs = (verdict: Verdict, { tls }: Sections): number => {
  const connectMs = settled(verdict['limits.connect'])
  return wantsTls(verdict) ? 2 * connectMs + tls.handshakeTimeout : connectMs
}

/** The dial as the policy wants it: bare, inside TLS, or inside mutual TLS with the Sluice over there. Rejects with HandshakeError. */
export const secureDial = (dial: Dial, options: UpstreamTls): Dial => {
  const { verdict, tls } = options
  if (!wantsTls(verdict)) return dial
  const mesh = settled(verdict['upstream.mesh'])
  const connectMs = settled(verdict['limits.connect'])
  const connect: Dial = (to, signal) => dialWithin(dial, to, connectMs, tls.clock, signal)
  return mesh === 'never' ? tlsDial(connect, options) : meshDial(connect, options, mesh === 'prefer')
}

const tlsDial =
  (dial: Dial, options: UpstreamTls): Dial =>
  async (to, signal) => {
    const terms = orThrow(upstreamTerms(options, to))
    const secured = orThrow(await handshake(await dial(to, signal), terms, options.tls, signal))
    options.agreed?.(secured)
    return secured.stream
  }

const meshDial =
  (dial: Dial, options: UpstreamTls, orPlain: boolean): Dial =>
  async (to, signal) => {
    const { tls, protocol } = options
    if (orPlain && tls.plainPeers.has(to)) return dial(to, signal)
    const terms = orThrow(meshTerms(options))
    const stream = await dial(to, signal)
    const result = await handshake(stream, terms, tls, signal, orPlain ? PREFER_MS : undefined)
    const refused = result.failed ? result : result.alpn === MESH_ALPN ? undefined : NO_SLUICE
    if (refused !== undefined || result.failed) {
      stream.destroy()
      if (!orPlain || signal?.aborted) throw new HandshakeError(refused ?? NO_SLUICE)
      tls.plainPeers.add(to)
      return dial(to, signal)
    }
    options.agreed?.(result)
    result.stream.write(writeMeshHeader({ port: to.port, ...(protocol && { protocol }) }))
    return result.stream
  }

const NO_SLUICE = failure(
  'MESH_NO_SLUICE',
  `the upstream did not agree on ${MESH_ALPN}: there is no Sluice in front of it`,
)

const handshake = async (
  stream: Duplex,
  terms: ClientTerms,
  { originate }: TlsWorld,
  signal?: AbortSignal,
  ms?: number,
): Promise<Secured | TlsFailure> => {
  const giveUp = () => stream.destroy()
  signal?.addEventListener('abort', giveUp, { once: true })
  try {
    return await originate(stream, terms, ms)
  } finally {
    signal?.removeEventListener('abort', giveUp)
  }
}

const orThrow = <T extends object>(value: T | TlsFailure): T => {
  if ('failed' in value && value.failed === true) throw new HandshakeError(value as TlsFailure)
  return value as T
}

/** The terms of `upstream.tls`, or why they cannot be kept. */
export const upstreamTerms = (
  { verdict, tls, name, alpn, identity }: UpstreamTls,
  to: Address,
): ClientTerms | TlsFailure => {
  const written = settled(verdict['upstream.tls'])
  const wanted = typeof written === 'boolean' ? PLAIN_TLS : written
  const trust = wanted.trust === undefined ? undefined : tls.certificates.trust(trustName(wanted.trust))
  if (wanted.trust !== undefined && !trust) return notLoaded('trust', wanted.trust)
  const certificate = wanted.certificate === undefined ? undefined : tls.certificates.certificate(wanted.certificate)
  if (wanted.certificate !== undefined && !certificate) return notLoaded('certificate', wanted.certificate)
  return {
    serverName: wanted.serverName ?? name ?? to.host,
    verify: wanted.verify,
    minVersion: wanted.minVersion,
    alpn: wanted.alpn ?? alpn ?? [],
    ...(trust && { trust }),
    ...(certificate && { certificate }),
    ...wantedIdentity(verdict, identity),
  }
}

const PLAIN_TLS: Exclude<ReturnType<typeof upstreamTlsOf>, boolean> = {
  serverName: undefined,
  verify: true,
  trust: undefined,
  certificate: undefined,
  alpn: undefined,
  minVersion: 'TLSv1.2',
}
const upstreamTlsOf = (verdict: Verdict) => settled(verdict['upstream.tls'])

const meshTerms = ({ verdict, sections, tls, identity }: UpstreamTls): ClientTerms | TlsFailure => {
  const ours = meshOf(sections, tls)
  if ('failed' in ours) return ours
  return {
    serverName: '', // the name of whoever is there is in the certificate, and nobody else need read it
    verify: true,
    trust: ours.trust,
    certificate: ours.certificate,
    identity: { expected: 'one name', matches: () => true },
    alpn: [MESH_ALPN],
    minVersion: 'TLSv1.3',
    ...wantedIdentity(verdict, identity),
  }
}

/** Who this Sluice is in the mesh and whom it believes, or why it is in none. */
export const meshOf = (
  { mesh }: Sections,
  { certificates }: TlsWorld,
): { readonly certificate: Certificate; readonly trust: Trust } | TlsFailure => {
  if (mesh.certificate === undefined || mesh.trust === undefined)
    return failure('MESH_NOT_CONFIGURED', 'the policy has no section mesh, which says who this proxy is')
  const certificate = certificates.certificate(mesh.certificate)
  const trust = certificates.trust(trustName(mesh.trust))
  if (!certificate) return notLoaded('certificate', mesh.certificate)
  return trust ? { certificate, trust } : notLoaded('trust', mesh.trust)
}

/** A name of the document whose file could not be used, then or ever. */
export const notLoaded = (what: string, name: string): TlsFailure =>
  failure('TLS_NOT_LOADED', `the ${what} "${name}" is not loaded; sluice certs says why`)

/** One of the patterns of the policy, where it has any, and the very name that discovery gives, where it gives one. */
const wantedIdentity = (verdict: Verdict, name: string | undefined): Pick<ClientTerms, 'identity'> => {
  const patterns = settled(verdict['upstream.identity'])
  if (patterns.length === 0 && name === undefined) return {}
  const tests = patterns.map(identityPattern)
  const isWanted = (found: string) => tests.length === 0 || tests.some((test) => test(found))
  const said = patterns.length === 0 ? [] : [patterns.join(' or ')]
  return {
    identity: {
      expected: [...said, ...(name === undefined ? [] : [name])].join(' and '),
      matches: (found) => (name === undefined || found === name) && isWanted(found),
    },
  }
}
