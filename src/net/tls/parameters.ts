import { constants } from 'node:crypto'

/** The versions a policy may set as its minimum. Older ones are not built in: RFC 8996. */
export type TlsVersion = 'TLSv1.2' | 'TLSv1.3'

/** Forward secrecy and authenticated encryption only; the first both know is taken. RFC 9325 section 4.2. */
export const CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
].join(':')

/** The post-quantum hybrid first, as browsers and OpenSSL 3.5 offer it. */
export const GROUPS = 'X25519MLKEM768:X25519:P-256:P-384'

/** No SHA-1 and no RSA below PSS for TLS 1.3; PKCS#1 v1.5 with SHA-2 remains for TLS 1.2. */
export const SIGNATURES = [
  'ecdsa_secp256r1_sha256',
  'ecdsa_secp384r1_sha384',
  'ecdsa_secp521r1_sha512',
  'ed25519',
  'rsa_pss_rsae_sha256',
  'rsa_pss_rsae_sha384',
  'rsa_pss_rsae_sha512',
  'rsa_pkcs1_sha256',
  'rsa_pkcs1_sha384',
  'rsa_pkcs1_sha512',
].join(':')

/** Renegotiation off, compression off. 0-RTT is off because Node offers no way to switch it on. */
export const OPTIONS = constants.SSL_OP_NO_RENEGOTIATION | constants.SSL_OP_NO_COMPRESSION
