import { readdirSync, readFileSync } from 'node:fs'

/** A process and everything it started, as they are now. */
export const family = (root: number): readonly number[] => {
  const found = [root]
  for (const pid of found) {
    for (const task of listed(`/proc/${pid}/task`)) {
      found.push(...(text(`/proc/${pid}/task/${task}/children`) ?? '').split(' ').filter(Boolean).map(Number))
    }
  }
  return found
}

/** CPU seconds that these processes have used, all their threads included, to the nanosecond that the scheduler counts. */
export const cpuSeconds = (pids: readonly number[]): number => {
  let nanoseconds = 0
  for (const pid of pids) {
    for (const task of listed(`/proc/${pid}/task`)) {
      nanoseconds += Number((text(`/proc/${pid}/task/${task}/schedstat`) ?? '0').split(' ')[0])
    }
  }
  return nanoseconds / 1e9
}

/** Bytes of memory that are these processes' own (proportional set size: shared pages are counted once). */
export const residentBytes = (pids: readonly number[]): number => rolledUp(pids, /^Pss:\s+(\d+)/m)

/** Those of them that come from no file: of a program's pages each process has a share, which others that run it change. */
export const anonymousBytes = (pids: readonly number[]): number => rolledUp(pids, /^Pss_Anon:\s+(\d+)/m)

const rolledUp = (pids: readonly number[], what: RegExp): number =>
  pids.reduce((sum, pid) => sum + 1024 * Number(what.exec(text(`/proc/${pid}/smaps_rollup`) ?? '')?.[1] ?? 0), 0)

const listed = (path: string): readonly string[] => {
  try {
    return readdirSync(path)
  } catch {
    return [] // It ended meanwhile.
  }
}

const text = (path: string): string | undefined => {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}
