import { AsyncLocalStorage } from 'node:async_hooks'
import { constants, createHash } from 'node:crypto'
import type { Duplex } from 'node:stream'
import { createServer, type Server, type TLSSocket } from 'node:tls'
import type { Clock } from '../clock.ts'
import type { Certificate, Trust } from './certificate.ts'
import { type ALERTS, alertRecord, explainError, failure, gone, type TlsFailure } from './failure.ts'
import type { KeyLog } from './keyLog.ts'
import { identityOf } from './names.ts'
import { CIPHERS, GROUPS, OPTIONS, SIGNATURES, type TlsVersion } from './parameters.ts'
import { recentlyUsed } from './recentlyUsed.ts'
import { resettable } from './resettable.ts'
import type { TicketKeys } from './tickets.ts'

const SERVERS_MAX = 256 // one for each certificate, minimum version, protocol and trust in use; each holds an SSL_CTX

/** How one client is answered. All of it is decided from its ClientHello, before OpenSSL sees a byte. */
export interface ServerTerms {
  /** For the same names, at most one per kind of key: the client's signature list decides between them. */
  readonly certificates: readonly Certificate[]
  readonly minVersion: TlsVersion
  /** The application protocol to agree on, out of those the client offered; null agrees on none. */
  readonly alpn: string | null
  /** Ask the client for a certificate, and whether it may have none. */
  readonly clients?: { readonly trust: Trust; readonly required: boolean }
}

/** A stream inside TLS, and who is at the other end. */
export interface Secured {
  readonly failed: false
  readonly stream: Duplex
  readonly sni: string | null
  readonly alpn: string | null
  readonly version: string
  readonly cipher: string
  /** The name in the peer's certificate, only where that was verified. */
  readonly identity: string | null
  readonly resumed: boolean
  /** Why a certificate that the peer did show gives it no identity. */
  readonly unverified?: string
}

/** Ends TLS on a stream whose ClientHello was read and put back. A failure is a value; the stream is the caller's to destroy. */
export interface Terminator {
  readonly terminate: (stream: Duplex, terms: ServerTerms) => Promise<Secured | TlsFailure>
  /** Handshakes under way. */
  readonly active: () => number
}

export interface TerminatorOptions {
  readonly clock: Clock
  readonly tickets: TicketKeys
  readonly keyLog?: KeyLog
  /** From the first byte given to OpenSSL to the client's Finished. Whoever is slower holds a place others need. */
  readonly handshakeMs: number
  readonly handshakesMax: number
}

/** One handshake: the only thing that a tls.Server's events can be told apart by. */
interface Handshake {
  settle: (result: TLSSocket | TlsFailure) => void
}

/**
 * Node ends TLS on a given stream through a tls.Server that never listens (`emit('connection', stream)`), whose events
 * do not say which stream they are about. The async context of the emit does: it is the one the events arrive in.
 */
export const createTerminator = (options: TerminatorOptions): Terminator => {
  const handshakes = new AsyncLocalStorage<Handshake>()
  const servers = recentlyUsed<{ server: Server; serial: number }>(SERVERS_MAX)
  let active = 0

  const serverFor = (terms: ServerTerms): Server => {
    const { serial, key } = options.tickets.current()
    const held = servers.get(keyOf(terms), () => ({
      server: openServer(terms, key, handshakes, options.keyLog),
      serial,
    }))
    if (held.serial !== serial) {
      held.server.setTicketKeys(key)
      held.serial = serial
    }
    return held.server
  }

  const terminate = (stream: Duplex, terms: ServerTerms): Promise<Secured | TlsFailure> => {
    if (active >= options.handshakesMax)
      return Promise.resolve(
        failure('TLS_HANDSHAKE_LIMIT', `${options.handshakesMax} handshakes are under way already`),
      )
    active++
    return new Promise((resolve) => {
      const halfOpen = stream.allowHalfOpen
      // Later in the same turn: the server's own event may know a better reason than that the stream has closed.
      const lost = (error?: Error) => {
        // A socket tells of its end in its own async context; the server's event, which follows from it, needs ours.
        handshakes.enterWith(handshake)
        setImmediate(() => handshake.settle(error ? explainError(error, 'client') : gone('client')))
      }
      const stopWaiting = options.clock.after(options.handshakeMs, () => handshake.settle(tooSlow(options.handshakeMs)))
      const handshake: Handshake = {
        settle: (result) => {
          handshake.settle = () => {}
          active--
          stopWaiting()
          stream.off('close', lost).off('end', lost).off('error', lost)
          if ('failed' in result) return resolve(result)
          result.allowHalfOpen = halfOpen
          resolve(secured(resettable(result, stream), terms))
        },
      }
      stream.once('close', lost).once('end', lost).once('error', lost)
      // Without half-open, a socket whose client hangs up in the handshake ends it at once, not at the deadline.
      stream.allowHalfOpen = false
      handshakes.run(handshake, () => serverFor(terms).emit('connection', stream))
      stream.allowHalfOpen = halfOpen
    })
  }

  return { terminate, active: () => active }
}

/** Refuses a client whose hello alone says that nothing can come of it: the alert, in clear, and goodbye. */
export const refuseHello = (stream: Duplex, code: string, alert: keyof typeof ALERTS, message: string): TlsFailure => {
  stream.end(alertRecord(alert))
  return failure(code, message, alert)
}

const openServer = (
  terms: ServerTerms,
  ticketKeys: Buffer,
  handshakes: AsyncLocalStorage<Handshake>,
  keyLog?: KeyLog,
): Server => {
  const { clients } = terms
  const server = createServer({
    cert: terms.certificates.map((one) => one.cert),
    key: terms.certificates.map((one) => one.key),
    minVersion: terms.minVersion,
    ciphers: CIPHERS,
    ecdhCurve: GROUPS,
    sigalgs: SIGNATURES,
    honorCipherOrder: true,
    ticketKeys,
    // What was proved to one set of terms is not proved to another, though all share the ticket keys.
    sessionIdContext: sessionContext(terms),
    // A resumed session skips the certificate, and with it a trust root that was withdrawn since.
    secureOptions: clients ? OPTIONS | constants.SSL_OP_NO_TICKET : OPTIONS,
    requestCert: clients !== undefined,
    rejectUnauthorized: clients?.required ?? false,
    ...(clients ? { ca: [...clients.trust.roots] } : {}),
    ...(terms.alpn === null ? {} : { ALPNProtocols: [terms.alpn] }),
  })
  server.on('secureConnection', (socket) => {
    socket.on('error', () => {}) // whoever forwards the stream attaches its own; this one is for the time until then
    const handshake = handshakes.getStore()
    handshake ? handshake.settle(socket) : socket.destroy()
  })
  server.on('tlsClientError', (error, socket) => {
    handshakes.getStore()?.settle(explainRefusal(error, socket))
    socket.destroy()
  })
  if (keyLog) server.on('keylog', keyLog.write)
  return server
}

/** A certificate that did not verify is destroyed by Node with a bare hang-up; the reason stands on the socket. */
const explainRefusal = (error: Error, { authorizationError }: TLSSocket): TlsFailure => {
  const code = authorizationError as unknown as string | null
  return explainError(code ? Object.assign(new Error(code), { code }) : error, 'client')
}

const keyOf = (terms: ServerTerms): string =>
  JSON.stringify([terms.certificates.map((one) => one.fingerprint), terms.alpn, contextOf(terms)])

/** Not the certificate itself: its successor goes on with the sessions of its predecessor. */
const contextOf = ({ certificates, minVersion, clients }: ServerTerms) => [
  certificates.map((one) => one.name),
  minVersion,
  clients?.trust.fingerprint,
  clients?.required,
]

const sessionContext = (terms: ServerTerms): string =>
  createHash('sha256')
    .update(JSON.stringify(contextOf(terms)))
    .digest('hex')
    .slice(0, 32)

const secured = (socket: TLSSocket, terms: ServerTerms): Secured => {
  const shown = terms.clients ? socket.getPeerX509Certificate() : undefined
  const unverified = shown && !socket.authorized ? String(socket.authorizationError) : undefined
  return {
    failed: false,
    stream: socket,
    sni: typeof socket.servername === 'string' ? socket.servername : null,
    alpn: socket.alpnProtocol || null,
    version: socket.getProtocol() ?? 'unknown',
    cipher: socket.getCipher().standardName,
    identity: shown && socket.authorized ? identityOf(shown) : null,
    resumed: socket.isSessionReused(),
    ...(unverified === undefined ? {} : { unverified }),
  }
}

const tooSlow = (ms: number): TlsFailure =>
  failure('TLS_HANDSHAKE_TIMEOUT', `the client did not finish the handshake in ${ms} ms`)
