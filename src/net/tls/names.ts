import type { X509Certificate } from 'node:crypto'

/** The subject alternative names of a certificate, by kind. DNS names are lower case. */
export interface AltNames {
  readonly dns: readonly string[]
  readonly uri: readonly string[]
  readonly ip: readonly string[]
}

/** Reads what Node prints for subjectAltName: `DNS:a, URI:"b, c"`. Values with a comma or a quote come as JSON strings. */
export const readAltNames = (text: string | undefined): AltNames => {
  const dns: string[] = []
  const uri: string[] = []
  const ip: string[] = []
  for (const [, kind, quoted, plain] of (text ?? '').matchAll(
    /(?:^|, )([A-Za-z ]+):(?:("(?:[^"\\]|\\.)*")|([^,]*))/g,
  )) {
    const value = quoted === undefined ? (plain ?? '') : unquoted(quoted)
    if (kind === 'DNS') dns.push(value.toLowerCase())
    if (kind === 'URI') uri.push(value)
    if (kind === 'IP Address') ip.push(value)
  }
  return { dns, uri, ip }
}

const unquoted = (text: string): string => {
  try {
    return JSON.parse(text) as string
  } catch {
    return ''
  }
}

/**
 * The name a verified certificate stands for: its SPIFFE id, else its first DNS name, else none.
 * An X.509 SVID has exactly one URI (SPIFFE X509-SVID section 2): with two, nobody can say who it is.
 */
export const identityOf = (certificate: Pick<X509Certificate, 'subjectAltName'>): string | null => {
  const names = readAltNames(certificate.subjectAltName)
  if (names.uri.length === 1) return names.uri[0]!
  if (names.uri.length > 1) return null
  return names.dns.find((name) => !name.startsWith('*.')) ?? null
}

/** Whether a certificate's name covers a server name: equal, or `*.` in place of exactly one label (RFC 9525 section 6.3). */
export const covers = (name: string, serverName: string): boolean => {
  if (name === serverName) return true
  if (!name.startsWith('*.')) return false
  const dot = serverName.indexOf('.')
  return dot > 0 && serverName.slice(dot) === name.slice(1)
}

/** What a certificate is chosen by. */
interface Named {
  readonly names: AltNames
  readonly keyType: string
}

/** Of these, the ones that cover a server name: by an exact name if any, else by a wildcard; one for each kind of key. */
export const mostSpecific = <C extends Named>(certificates: readonly C[], serverName: string): readonly C[] => {
  const name = serverName.toLowerCase().replace(/\.$/, '') // RFC 6066 section 3: no case, no trailing dot
  const exact = certificates.filter((one) => one.names.dns.includes(name))
  if (exact.length > 0) return onePerKeyType(exact)
  return onePerKeyType(certificates.filter((one) => one.names.dns.some((dns) => covers(dns, name))))
}

/** The first of each kind of key: the client's list of signatures decides between them. */
export const onePerKeyType = <C extends Named>(found: readonly C[]): readonly C[] =>
  found.filter((one, index) => found.findIndex((other) => other.keyType === one.keyType) === index)
