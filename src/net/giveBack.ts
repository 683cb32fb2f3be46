import { performance } from 'node:perf_hooks'
import { getHeapStatistics, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** A loop that does so little is quiet: who calls in the meantime waits for the collection, and there are few. */
const QUIET_SHARE = 0.03
const LOOK_MS = 5_000
const START_MS = 1_000
/** Less garbage is not worth the trouble. */
const WORTH_BYTES = 8 * 2 ** 20
/** A larger heap takes too long, and V8 looks after it by itself. */
const HEAP_BYTES_MAX = 256 * 2 ** 20
/** What a collection took is at most such a part of the work since the one before. */
const SHARE_OF_WORK = 1 / 5

/** What is asked of the process. */
export interface Runtime {
  /** Milliseconds that the loop has worked so far, and those that it has waited. */
  readonly loop: () => { readonly active: number; readonly idle: number }
  readonly heapBytes: () => number
  readonly collect: () => void
}

/**
 * Gives the system the memory back that work has left, once there is none: V8 keeps it for work to come, and collects
 * nothing while there is nothing to do; `trimHeap` does the same for what is not JavaScript. First a moment after the start, so that nobody who waits for that waits for this.
 */
export const giveBackWhenQuiet = (
  after: (ms: number, run: () => void) => void,
  trimHeap: () => void = () => {},
  { loop, heapBytes, collect }: Runtime = THIS_PROCESS,
): void => {
  let least = Number.POSITIVE_INFINITY
  let took = 0
  /** How long the loop had been active after the last collection, and at the last look. */
  let collectedAt = 0
  let before = loop()
  const giveBack = () => {
    const began = loop().active
    collect()
    trimHeap()
    collectedAt = loop().active
    took = collectedAt - began
    least = Math.min(least, heapBytes())
  }
  const look = () => {
    const now = loop()
    const active = now.active - before.active
    const isQuiet = active < QUIET_SHARE * (active + now.idle - before.idle)
    const heap = heapBytes()
    const isWorthIt = heap > least + WORTH_BYTES && heap < HEAP_BYTES_MAX
    if (isQuiet && isWorthIt && took < (now.active - collectedAt) * SHARE_OF_WORK) giveBack()
    before = loop()
    after(LOOK_MS, look)
  }
  after(START_MS, () => {
    giveBack()
    before = loop()
    after(LOOK_MS, look)
  })
}

const THIS_PROCESS: Runtime = {
  loop: () => performance.eventLoopUtilization(),
  heapBytes: () => getHeapStatistics().used_heap_size,
  collect: () => {
    setFlagsFromString('--expose-gc')
    const gc = runInNewContext('gc') as (how?: object) => void
    setFlagsFromString('--no-expose-gc')
    gc({ type: 'major', execution: 'sync', flavor: 'last-resort' })
  },
}
