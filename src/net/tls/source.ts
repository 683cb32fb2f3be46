import { watch } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Clock } from '../clock.ts'

/** What the policy says of one certificate: where it lies. A trust bundle has roots and no key. */
export type Entry = { readonly cert: string; readonly key: string } | { readonly trust: string }

/** The text of what an entry names. */
export type Material =
  | { readonly cert: string; readonly key: string }
  | { readonly trust: string }
  | { readonly unreadable: string }

/** Where certificates come from: files today, a certificate-signing service tomorrow. */
export interface CertificateSource {
  /** Every certificate it has, by name, as it is at this moment. */
  readonly read: () => Promise<ReadonlyMap<string, Material>>
  /** Calls `changed` when read may answer something else. The returned function ends that. */
  readonly watch: (changed: () => void) => () => void
}

const SETTLE_MS = 100 // certificate and key are two files: whoever writes one is about to write the other
const LOOK_AGAIN_MS = 60_000 // file systems without notifications (NFS, some volume mounts) are read this often

/** Certificates as PEM files. Their directories are watched, which also sees how Kubernetes swaps a mounted secret. */
export const certificateFiles = (entries: ReadonlyMap<string, Entry>, clock: Clock): CertificateSource => ({
  read: async () =>
    new Map(await Promise.all([...entries].map(async ([name, one]) => [name, await material(one)] as const))),
  watch: (changed) => watchDirectories(directories(entries), clock, changed),
})

const material = async (entry: Entry): Promise<Material> => {
  try {
    if ('trust' in entry) return { trust: await readFile(entry.trust, 'utf8') }
    // One after the other: where both are missing, the same one is named every time.
    const cert = await readFile(entry.cert, 'utf8')
    return { cert, key: await readFile(entry.key, 'utf8') }
  } catch (error) {
    const { code, path, message } = error as NodeJS.ErrnoException
    return { unreadable: path ? `${path} cannot be read (${code})` : message }
  }
}

const directories = (entries: ReadonlyMap<string, Entry>): ReadonlySet<string> =>
  new Set([...entries.values()].flatMap((one) => ('trust' in one ? [one.trust] : [one.cert, one.key])).map(dirname))

const watchDirectories = (paths: ReadonlySet<string>, clock: Clock, changed: () => void): (() => void) => {
  let settling: (() => void) | undefined
  const stirred = () => {
    settling?.()
    settling = clock.after(SETTLE_MS, changed)
  }
  const watchers = [...paths].flatMap((path) => watchDirectory(path, stirred))
  let again = clock.after(LOOK_AGAIN_MS, function look() {
    changed()
    again = clock.after(LOOK_AGAIN_MS, look)
  })
  return () => {
    again()
    settling?.()
    for (const close of watchers) close()
  }
}

/** A directory that does not exist yet cannot be watched; looking again each minute finds it. */
const watchDirectory = (path: string, stirred: () => void): (() => void)[] => {
  try {
    const watcher = watch(path, { persistent: false }, stirred)
    watcher.on('error', () => watcher.close())
    return [() => watcher.close()]
  } catch {
    return []
  }
}
