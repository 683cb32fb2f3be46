import { X509Certificate } from 'node:crypto'
import { isIP } from 'node:net'
import type { Duplex } from 'node:stream'
import {
  checkServerIdentity,
  connect,
  createSecureContext,
  getCACertificates,
  type PeerCertificate,
  type SecureContext,
  type TLSSocket,
} from 'node:tls'
import type { Clock } from '../clock.ts'
import { codedError } from '../codedError.ts'
import type { Certificate, Trust } from './certificate.ts'
import { explainError, failure, type TlsFailure } from './failure.ts'
import type { KeyLog } from './keyLog.ts'
import { identityOf } from './names.ts'
import { CIPHERS, GROUPS, OPTIONS, SIGNATURES, type TlsVersion } from './parameters.ts'
import { recentlyUsed } from './recentlyUsed.ts'
import { resettable } from './resettable.ts'
import type { Secured } from './terminate.ts'

const CONTEXTS_MAX = 64 // one for each trust, client certificate and minimum version in use

/** How the upstream is spoken to. */
export interface ClientTerms {
  /** The name that is asked for (SNI) and that the certificate must be for: a host name, or an IP address. */
  readonly serverName: string
  /** False accepts any certificate: encryption, and no idea with whom. */
  readonly verify: boolean
  /** Roots; without them, those of the system. */
  readonly trust?: Trust
  /** In place of the server name, the identity that the certificate must carry. */
  readonly identity?: { readonly expected: string; readonly matches: (identity: string) => boolean }
  /** What we show when asked. */
  readonly certificate?: Certificate
  readonly alpn: readonly string[]
  readonly minVersion: TlsVersion
}

/** Begins TLS on a dialled stream, within `ms` where the caller is more impatient. After a failure the stream is destroyed. */
export type Originator = (stream: Duplex, terms: ClientTerms, ms?: number) => Promise<Secured | TlsFailure>

export interface OriginatorOptions {
  readonly clock: Clock
  readonly keyLog?: KeyLog
  readonly handshakeMs: number
}

/** A TLS client over streams that somebody else dialled. */
export const createOriginator = ({ clock, keyLog, handshakeMs }: OriginatorOptions): Originator => {
  const contexts = recentlyUsed<SecureContext>(CONTEXTS_MAX)
  return (stream, terms, ms = handshakeMs) =>
    new Promise((resolve) => {
      const socket = connect({
        socket: stream,
        secureContext: contexts.get(keyOf(terms), () => contextOf(terms)),
        servername: isIP(terms.serverName) ? '' : terms.serverName, // RFC 6066 section 3: no addresses
        ALPNProtocols: [...terms.alpn],
        rejectUnauthorized: terms.verify,
        checkServerIdentity: (_name, shown) => mismatch(terms, shown),
      })
      const settle = (result: Secured | TlsFailure) => {
        stopWaiting()
        socket.off('error', failed).on('error', () => {}) // the forwarder attaches its own
        if (result.failed) socket.destroy()
        resolve(result)
      }
      const failed = (error: Error) => settle(explainError(error, 'upstream'))
      const stopWaiting = clock.after(ms, () => settle(tooSlow(ms)))
      socket.once('error', failed)
      socket.once('secureConnect', () => settle(secured(resettable(socket, stream), terms)))
      if (keyLog) socket.on('keylog', keyLog.write)
    })
}

/** Undefined when the certificate, already verified up to a root, is the expected one's. */
const mismatch = (terms: ClientTerms, shown: PeerCertificate): Error | undefined => {
  if (!terms.identity) return checkServerIdentity(terms.serverName, shown)
  const identity = identityOf(new X509Certificate(shown.raw))
  if (identity !== null && terms.identity.matches(identity)) return undefined
  const found = identity === null ? 'has no single name' : `is for ${identity}`
  return codedError('TLS_IDENTITY_MISMATCH', `the upstream's certificate ${found}, expected ${terms.identity.expected}`)
}

const contextOf = ({ trust, certificate, minVersion }: ClientTerms): SecureContext =>
  createSecureContext({
    ca: trust ? [...trust.roots] : systemRoots(),
    minVersion,
    ciphers: CIPHERS,
    ecdhCurve: GROUPS,
    sigalgs: SIGNATURES,
    secureOptions: OPTIONS,
    ...(certificate ? { cert: certificate.cert, key: certificate.key } : {}),
  })

/** The machine's own roots; Node's, where it has none, as in a bare container. */
const systemRoots = (): string[] => {
  const system = getCACertificates('system')
  return system.length > 0 ? system : getCACertificates('default')
}

const keyOf = ({ trust, certificate, minVersion }: ClientTerms): string =>
  JSON.stringify([trust?.fingerprint, certificate?.fingerprint, minVersion])

const secured = (socket: TLSSocket, terms: ClientTerms): Secured => {
  const shown = socket.getPeerX509Certificate()
  return {
    failed: false,
    stream: socket,
    sni: isIP(terms.serverName) ? null : terms.serverName,
    alpn: socket.alpnProtocol || null,
    version: socket.getProtocol() ?? 'unknown',
    cipher: socket.getCipher().standardName,
    identity: shown && socket.authorized ? identityOf(shown) : null,
    resumed: socket.isSessionReused(),
    ...(socket.authorized ? {} : { unverified: String(socket.authorizationError) }),
  }
}

const tooSlow = (ms: number): TlsFailure =>
  failure('TLS_HANDSHAKE_TIMEOUT', `the upstream did not finish the handshake in ${ms} ms`)
