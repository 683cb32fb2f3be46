import { readFile } from 'node:fs/promises'
import type { Clock } from '../net/clock.ts'
import { readSecret } from '../net/secret.ts'
import type { GatewaySection } from './exposure.ts'
import { createVerifier, readJwks, readTokenKeys, remoteJwks, type Verifier } from './token.ts'

const LOOK_AGAIN_MS = 10_000 // a key that is withdrawn must stop working soon; reading two small files costs nothing

/** The keys of now. */
export interface LiveKeys {
  readonly verifier: () => Verifier
  readonly close: () => void
}

/** Reads the keys of the gateway, and again as the files change. Keys that cannot be read leave those before in use. */
export const keepTokenKeys = async (
  section: () => GatewaySection,
  env: Readonly<Record<string, string | undefined>>,
  clock: Clock,
  report: (problem: string) => void,
): Promise<LiveKeys> => {
  let verifier = createVerifier({ symmetric: [] })
  let used = ''
  let problem = ''
  const look = async (): Promise<void> => {
    const { keys, jwks } = section()
    try {
      const text = keys === undefined ? '' : await readSecret(keys, env)
      const set = jwks?.file === undefined ? (jwks?.url ?? '') : await readFile(jwks.file, 'utf8')
      if (`${text}\n${set}` !== used) {
        const asymmetric = set === '' ? undefined : jwks?.url === undefined ? readJwks(set) : remoteJwks(jwks.url)
        verifier = createVerifier({ symmetric: text === '' ? [] : readTokenKeys(text), asymmetric })
        used = `${text}\n${set}`
      }
      problem = ''
    } catch (error) {
      const { message } = error as Error
      if (message !== problem) report(`the keys of the gateway: ${message}; those before stay in use`)
      problem = message
    }
  }
  await look()
  let cancel = clock.after(LOOK_AGAIN_MS, function again() {
    void look().then(() => {
      cancel = clock.after(LOOK_AGAIN_MS, again)
    })
  })
  return { verifier: () => verifier, close: () => cancel() }
}
