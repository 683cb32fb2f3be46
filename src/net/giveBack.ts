import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

const QUIET_MS = 1_000

/**
 * Gives the system the memory back that starting took: V8 keeps it for work to come, and collects nothing while there
 * is none. A moment later, so that nobody who waits for the start waits for this; it takes some 20 ms.
 */
export const giveBackSoon = (after: (ms: number, run: () => void) => void): void =>
  after(QUIET_MS, () => {
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as (how?: object) => void
    setFlagsFromString('--no-expose-gc')
    collect({ type: 'major', execution: 'sync', flavor: 'last-resort' })
  })
