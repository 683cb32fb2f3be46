import { createHash } from 'node:crypto'
import { type FSWatcher, realpathSync, statSync, watch } from 'node:fs'
import { dirname } from 'node:path'
import type { Clock } from './clock.ts'
import { type Documents, readDocumentsAt } from './documents.ts'

// Editors and kubelet write in several steps; this is longer than any pause between them, and shorter than patience.
const SETTLE_MS = 100
// Whoever writes into the directory without pause does not keep us from reading for longer than this.
const SETTLE_MS_MAX = 1_000
// Where the kernel has no watches left (fs.inotify.max_user_instances), or the directory is gone for now.
const POLL_MS = 5_000

/** A watch that can be told to look now, and to end. */
export interface Watching {
  /** Reads at once. Resolves to whether something had changed; `changed` was then called, and is done. */
  readonly look: () => Promise<boolean>
  readonly close: () => void
}

/**
 * Calls `changed` when what `paths` hold is another text than before (`known`, at first). The directories are watched,
 * not the files: a file that is replaced by renaming, or a link that is swapped, is lost to a watch on the file.
 */
export const watchDocuments = (
  paths: readonly string[],
  known: Documents,
  clock: Clock,
  changed: (documents: Documents) => Promise<void>,
): Watching => {
  let last = fingerprint(known)
  let watchers: FSWatcher[] = []
  let cancel: (() => void) | undefined
  let isClosed = false
  let movedAt: number | undefined
  let looking: Promise<boolean> = Promise.resolve(false)
  const later = (ms: number): void => {
    cancel?.()
    cancel = isClosed ? undefined : clock.after(ms, () => void look())
  }
  const moved = (): void => {
    movedAt ??= clock.now()
    later(Math.max(0, Math.min(SETTLE_MS, movedAt + SETTLE_MS_MAX - clock.now())))
  }
  const rewatch = (): void => {
    for (const watcher of watchers) watcher.close()
    watchers = []
    cancel?.()
    cancel = undefined
    if (isClosed) return
    try {
      for (const directory of directoriesOf(paths))
        watchers.push(watchDirectory(directory, moved, () => later(POLL_MS)))
    } catch {
      later(POLL_MS)
    }
  }
  const lookOnce = async (): Promise<boolean> => {
    movedAt = undefined
    // The watch is renewed before the reading, so that what changes after it is seen by the next.
    rewatch()
    const documents = await readDocumentsAt(paths)
    const now = fingerprint(documents)
    if (isClosed || now === last) return false
    last = now
    await changed(documents)
    return true
  }
  // One after the other, so that an older text never replaces a newer one.
  const look = (): Promise<boolean> => (looking = looking.then(lookOnce))
  rewatch()
  return {
    look,
    close: () => {
      isClosed = true
      rewatch()
    },
  }
}

const watchDirectory = (directory: string, moved: () => void, failed: () => void): FSWatcher => {
  const watcher = watch(directory, { persistent: false }, moved)
  watcher.on('error', failed)
  return watcher
}

const directoriesOf = (paths: readonly string[]): Set<string> => {
  const directories = new Set<string>()
  for (const path of paths) {
    const real = realpathSync(path)
    const isDirectory = statSync(real).isDirectory()
    directories.add(isDirectory ? real : dirname(path)).add(isDirectory ? real : dirname(real))
    // A directory that is itself a link may be swapped as well.
    if (isDirectory && real !== path) directories.add(dirname(path))
  }
  return directories
}

const fingerprint = ({ files, problems }: Documents): string =>
  createHash('sha256')
    .update(JSON.stringify([files, problems]))
    .digest('hex')
