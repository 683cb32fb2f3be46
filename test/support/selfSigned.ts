import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A key and a certificate for one name, that trusts itself. */
export const selfSigned = (name: string): { readonly key: string; readonly cert: string } => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-cert-'))
  const file = (leaf: string): string => join(folder, leaf)
  const made = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', `/CN=${name}`]
  const names = ['-addext', `subjectAltName=DNS:${name}`]
  try {
    execFileSync('openssl', ['req', '-x509', ...made, ...names, '-keyout', file('key'), '-out', file('cert')], {
      stdio: 'pipe',
    })
    return { key: readFileSync(file('key'), 'utf8'), cert: readFileSync(file('cert'), 'utf8') }
  } finally {
    rmSync(folder, { recursive: true })
  }
}
