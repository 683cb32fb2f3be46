import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A certificate made for a test: where it lies and what it says. */
export interface Made {
  readonly certPath: string
  readonly keyPath: string
  readonly cert: string
  readonly key: string
}

export interface MakeOptions {
  readonly kind?: 'ec' | 'rsa' | 'rsa1024' | 'ed25519'
  readonly names?: readonly string[]
  readonly issuer?: Made
  readonly ca?: boolean
  readonly days?: number
  /** Appends the issuer's certificate, as a chain file has it. */
  readonly chain?: boolean
}

export interface Workshop {
  readonly directory: string
  /** `names` in the words of openssl: `DNS:a.example`, `URI:spiffe://b`, `IP:127.0.0.1`. */
  readonly make: (name: string, options?: MakeOptions) => Made
  readonly close: () => void
}

const KEYS = {
  ec: ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'],
  rsa: ['-newkey', 'rsa:2048'],
  rsa1024: ['-newkey', 'rsa:1024'],
  ed25519: ['-newkey', 'ed25519'],
}

/** Makes certificates with the openssl command, in a directory of their own. */
export const openWorkshop = (): Workshop => {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-certificates-'))
  return {
    directory,
    make: (name, options = {}) => make(directory, name, options),
    close: () => rmSync(directory, { recursive: true, force: true }),
  }
}

const make = (directory: string, name: string, options: MakeOptions): Made => {
  const certPath = join(directory, `${name}.pem`)
  const keyPath = join(directory, `${name}.key`)
  const names = options.names ?? [`DNS:${name}`]
  const extensions = [
    ...(names.length > 0 ? ['-addext', `subjectAltName=${names.join(',')}`] : []),
    '-addext',
    `basicConstraints=critical,CA:${options.ca ? 'TRUE' : 'FALSE'}`,
  ]
  const days = String(options.days ?? 30)
  const issuer = options.issuer ? ['-CA', options.issuer.certPath, '-CAkey', options.issuer.keyPath] : []
  const args = ['req', '-x509', ...KEYS[options.kind ?? 'ec'], '-nodes', '-subj', `/CN=${name}`, '-days', days]
  execFileSync('openssl', [...args, '-keyout', keyPath, '-out', certPath, ...issuer, ...extensions], { stdio: 'pipe' })
  if (options.chain && options.issuer) writeFileSync(certPath, readFileSync(certPath, 'utf8') + options.issuer.cert)
  return { certPath, keyPath, cert: readFileSync(certPath, 'utf8'), key: readFileSync(keyPath, 'utf8') }
}
