import { createHash, timingSafeEqual } from 'node:crypto'
import { readFile } from 'node:fs/promises'

/** Where a secret is kept. */
export type SecretPlace = { readonly file: string } | { readonly env: string }

/**
 * The secret kept there, without the line end that editors add. Throws an Error that names the file or the variable,
 * also when it is empty: an empty secret is a mistake, not a password.
 */
export const readSecret = async (
  place: SecretPlace,
  env: Readonly<Record<string, string | undefined>>,
): Promise<string> => {
  if ('env' in place) {
    const value = env[place.env]
    if (value) return value
    throw new Error(`the environment variable ${place.env} is ${value === undefined ? 'not set' : 'empty'}`)
  }
  const value = (
    await readFile(place.file, 'utf8').catch((error: NodeJS.ErrnoException) => {
      throw new Error(`cannot read the secret in ${place.file}: ${error.code}`)
    })
  ).replace(/\r?\n$/, '')
  if (value) return value
  throw new Error(`the file ${place.file}, which should hold a secret, is empty`)
}

/** Whether this is the secret. Digests have one length and are compared in one time, whatever is given. */
export const isSecret = (given: string | undefined, secret: string): boolean =>
  timingSafeEqual(digest(given ?? ''), digest(secret)) && given !== undefined

const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
