import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto'
import { type AltNames, identityOf, readAltNames } from './names.ts'

const RSA_BITS_MIN = 2048 // NIST SP 800-131A; OpenSSL's own security level 2 refuses less as well

/** One certificate of a chain, for people. Times are milliseconds of the day's clock. */
export interface ChainLink {
  readonly subject: string
  readonly issuer: string
  readonly notBefore: number
  readonly notAfter: number
}

/** A leaf with its chain and its private key, ready to be used. */
export interface Certificate {
  readonly name: string
  readonly cert: string
  readonly key: string
  readonly keyType: 'rsa' | 'ec' | 'ed25519'
  readonly names: AltNames
  readonly identity: string | null
  readonly fingerprint: string
  readonly serial: string
  /** The leaf first. */
  readonly chain: readonly ChainLink[]
  /** The earliest end of any certificate in the chain. */
  readonly notAfter: number
  readonly notBefore: number
  /** What a careful operator would mend, though it works. */
  readonly warnings: readonly string[]
}

/** Roots that peers' certificates are verified against. */
export interface Trust {
  readonly name: string
  readonly roots: readonly string[]
  readonly fingerprint: string
  readonly chain: readonly ChainLink[]
  readonly notAfter: number
}

/** A file that cannot be used; the message says what is wrong with it, for the operator. */
export class CertificateError extends Error {
  override readonly name = 'CertificateError'
}

/** A certificate and key in PEM to a Certificate, or a CertificateError. */
export const readCertificate = (name: string, certPem: string, keyPem: string): Certificate => {
  const chain = readChain(certPem)
  const key = readKey(keyPem)
  const leaf = chain[0]!
  if (!leaf.checkPrivateKey(key)) throw new CertificateError(foreignKey(chain, key))
  const names = readAltNames(leaf.subjectAltName)
  const links = chain.map(link)
  return {
    name,
    cert: chain.map((one) => one.toString()).join(''),
    key: keyPem,
    keyType: keyType(key),
    names,
    identity: identityOf(leaf),
    fingerprint: leaf.fingerprint256,
    serial: leaf.serialNumber,
    chain: links,
    notBefore: Math.max(...links.map((one) => one.notBefore)),
    notAfter: Math.min(...links.map((one) => one.notAfter)),
    warnings: warnings(chain, names),
  }
}

/** One or more root certificates in PEM to a Trust, or a CertificateError. */
export const readTrust = (name: string, pem: string): Trust => {
  const chain = readChain(pem)
  const links = chain.map(link)
  return {
    name,
    roots: chain.map((one) => one.toString()),
    fingerprint: chain
      .map((one) => one.fingerprint256)
      .sort()
      .join(),
    chain: links,
    notAfter: Math.min(...links.map((one) => one.notAfter)),
  }
}

const readChain = (pem: string): X509Certificate[] => {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []
  if (blocks.length === 0) {
    const found = /-----BEGIN ([A-Z0-9 ]+)-----/.exec(pem)?.[1]
    throw new CertificateError(found ? `holds a ${found} and no CERTIFICATE` : 'holds no PEM block named CERTIFICATE')
  }
  return blocks.map((block, index) => {
    try {
      return new X509Certificate(block)
    } catch {
      throw new CertificateError(`certificate ${index + 1} of ${blocks.length} cannot be decoded`)
    }
  })
}

const readKey = (pem: string): KeyObject => {
  const key = decodeKey(pem)
  const bits = key.asymmetricKeyDetails?.modulusLength
  if (bits !== undefined && bits < RSA_BITS_MIN)
    throw new CertificateError(`an RSA key of ${bits} bits is too short, at least ${RSA_BITS_MIN} are needed`)
  return key
}

const decodeKey = (pem: string): KeyObject => {
  try {
    return createPrivateKey(pem)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ERR_MISSING_PASSPHRASE') throw new CertificateError('the private key is encrypted; decrypt it first')
    throw new CertificateError(
      /PRIVATE KEY-----/.test(pem) ? 'the private key cannot be decoded' : 'no private key found',
    )
  }
}

const keyType = (key: KeyObject): Certificate['keyType'] => {
  const type = key.asymmetricKeyType
  if (type === 'rsa' || type === 'rsa-pss') return 'rsa'
  if (type === 'ec' || type === 'ed25519') return type
  throw new CertificateError(`a ${type} key cannot be used; RSA, ECDSA and Ed25519 can`)
}

const foreignKey = (chain: readonly X509Certificate[], key: KeyObject): string => {
  const owner = chain.findIndex((one) => one.checkPrivateKey(key))
  return owner > 0
    ? `the private key belongs to certificate ${owner + 1}; the certificate of the server comes first`
    : 'the private key does not belong to the certificate'
}

const warnings = (chain: readonly X509Certificate[], names: AltNames): string[] => {
  const found: string[] = []
  if (names.dns.length + names.uri.length + names.ip.length === 0)
    found.push('it has no subject alternative name, and clients ignore the common name')
  for (const [index, one] of chain.entries()) {
    const next = chain[index + 1]
    if (next && !one.checkIssued(next))
      found.push(`certificate ${index + 2} of the chain did not issue certificate ${index + 1}`)
  }
  return found
}

const link = (one: X509Certificate): ChainLink => ({
  subject: oneLine(one.subject),
  issuer: oneLine(one.issuer),
  notBefore: one.validFromDate.getTime(),
  notAfter: one.validToDate.getTime(),
})

const oneLine = (name: string | undefined): string => (name ?? '').replaceAll('\n', ', ')
