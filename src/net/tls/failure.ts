/** Why a handshake did not succeed, as a value. */
export interface TlsFailure {
  readonly failed: true
  /** Stable: may be matched on and counted. */
  readonly code: string
  /** In words, for the operator. */
  readonly message: string
  /** The TLS alert that one side sent, by its name in RFC 8446 section 6. */
  readonly alert?: string
}

/** The alerts that are sent without asking OpenSSL, because the ClientHello alone decides. RFC 8446 section 6.2. */
export const ALERTS = {
  handshake_failure: 40,
  protocol_version: 70,
  internal_error: 80,
  unrecognized_name: 112,
  no_application_protocol: 120,
} as const

/** A fatal alert as a plain record: right as long as no key is agreed. RFC 8446 section 5.1: type 21, version 3.3. */
export const alertRecord = (alert: keyof typeof ALERTS): Buffer => Buffer.from([21, 3, 3, 0, 2, 2, ALERTS[alert]])

/** A failure that we decided. */
export const failure = (code: string, message: string, alert?: string): TlsFailure => ({
  failed: true,
  code,
  message,
  ...(alert === undefined ? {} : { alert }),
})

/** A failure of a dial, which can only reject. */
export class HandshakeError extends Error {
  readonly code: string
  readonly failure: TlsFailure

  constructor(failure: TlsFailure) {
    super(failure.message)
    this.name = 'HandshakeError'
    this.code = failure.code
    this.failure = failure
  }
}

/** What OpenSSL or the socket reported, in words. `peer` is who is at the other end: "client" or "upstream". */
export const explainError = (error: NodeJS.ErrnoException & { reason?: string }, peer: string): TlsFailure => {
  const code = error.code ?? 'TLS_FAILED'
  const alert = alertOf(code)
  if (alert) return failure('TLS_ALERT', `the ${peer} sent the alert ${alert}${meaning(ALERT_MEANS[alert])}`, alert)
  if (code === 'ECONNRESET' || code === 'EPIPE') return gone(peer)
  const verification = VERIFICATION_MEANS[code]
  if (verification) return failure(code, `the ${peer}'s certificate ${verification}`)
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return failure(code, error.message)
  const reason = code.startsWith('ERR_SSL_') ? code.slice(8) : ''
  const means = REASON_MEANS[reason]
  if (means) return failure(code, means.replace('PEER', `the ${peer}`), ALERT_SENT[reason])
  return failure(code, error.reason ?? firstLine(error.message), ALERT_SENT[reason])
}

/** The peer left in the middle of it. */
export const gone = (peer: string): TlsFailure =>
  failure('TLS_PEER_CLOSED', `the ${peer} closed the connection during the handshake`)

/** `ERR_SSL_TLSV1_ALERT_UNKNOWN_CA`, `ERR_SSL_SSL/TLS_ALERT_…`: whatever the version in it, the tail names the alert. */
const alertOf = (code: string): string | undefined =>
  /^ERR_SSL_(?:SSLV3|TLSV1|TLSV13|SSL\/TLS)_ALERT_(\w+)$/.exec(code)?.[1]?.toLowerCase()

const meaning = (text: string | undefined): string => (text ? `: ${text}` : '')
const firstLine = (text: string): string => text.split('\n', 1)[0]!

const ALERT_MEANS: Readonly<Record<string, string>> = {
  unknown_ca: 'it does not know who issued the certificate it was shown',
  bad_certificate: 'it does not accept the certificate it was shown',
  certificate_unknown: 'it does not accept the certificate it was shown',
  certificate_expired: 'the certificate it was shown has expired',
  certificate_revoked: 'the certificate it was shown is revoked',
  certificate_required: 'it wants a certificate and was shown none',
  handshake_failure: 'it found nothing both sides can use, or wants a certificate',
  protocol_version: 'it does not speak a TLS version that is allowed here',
  no_application_protocol: 'it speaks none of the application protocols it was offered',
  unrecognized_name: 'it does not serve the name it was asked for',
  access_denied: 'it does not let this client in',
}

const REASON_MEANS: Readonly<Record<string, string>> = {
  WRONG_VERSION_NUMBER: 'PEER does not speak TLS here',
  PACKET_LENGTH_TOO_LONG: 'PEER does not speak TLS here',
  HTTP_REQUEST: 'PEER speaks plain HTTP here',
  UNSUPPORTED_PROTOCOL: 'PEER offers no TLS version that is allowed here',
  VERSION_TOO_LOW: 'PEER offers no TLS version that is allowed here',
  NO_SHARED_CIPHER: 'PEER offers no cipher that is allowed here and goes with its groups and with our certificate',
  NO_SUITABLE_KEY_SHARE: 'PEER offers no key exchange group that is allowed here',
  NO_SHARED_GROUPS: 'PEER offers no key exchange group that is allowed here',
  NO_SUITABLE_SIGNATURE_ALGORITHM: 'PEER accepts no signature that the certificate can make',
  NO_APPLICATION_PROTOCOL: 'no application protocol in common',
  MISSING_SIGALGS_EXTENSION: 'PEER does not say which signatures it accepts',
  PEER_DID_NOT_RETURN_A_CERTIFICATE: 'PEER showed no certificate, and one is required',
  NO_RENEGOTIATION: 'PEER asked to renegotiate, which is off',
}

/** The alerts OpenSSL answers these with, where that is one alert and not several. */
const ALERT_SENT: Readonly<Record<string, string>> = {
  UNSUPPORTED_PROTOCOL: 'protocol_version',
  VERSION_TOO_LOW: 'protocol_version',
  NO_SHARED_CIPHER: 'handshake_failure',
  NO_SUITABLE_KEY_SHARE: 'handshake_failure',
  MISSING_SIGALGS_EXTENSION: 'missing_extension',
  NO_APPLICATION_PROTOCOL: 'no_application_protocol',
  PEER_DID_NOT_RETURN_A_CERTIFICATE: 'certificate_required',
  LENGTH_MISMATCH: 'decode_error',
  LENGTH_TOO_SHORT: 'decode_error',
  BAD_EXTENSION: 'decode_error',
}

const VERIFICATION_MEANS: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'has expired',
  CERT_NOT_YET_VALID: 'is not valid yet',
  CERT_REVOKED: 'is revoked',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'is self-signed and not among the trusted ones',
  SELF_SIGNED_CERT_IN_CHAIN: 'leads to a root that is not trusted here',
  UNABLE_TO_GET_ISSUER_CERT: 'leads to a root that is not trusted here',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'leads to a root that is not trusted here',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'was issued by nobody trusted here, or its chain is incomplete',
  CERT_SIGNATURE_FAILURE: 'carries a signature that is not its issuer’s',
  INVALID_PURPOSE: 'is not meant for this use',
  INVALID_CA: 'was issued by a certificate that may not issue',
  CERT_UNTRUSTED: 'is not trusted',
  CERT_CHAIN_TOO_LONG: 'has too long a chain',
  HOSTNAME_MISMATCH: 'is for another name',
}
