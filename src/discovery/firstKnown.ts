/** One who is being asked. */
interface Asked<A> {
  stop: () => void
  answer: A | undefined
  /** With which answers before it it was asked. */
  readonly given: string
}

/** Several who are asked in order, until one knows. */
export interface FirstKnown<A> {
  readonly close: () => void
  /** How many are being asked now. */
  readonly asked: () => number
  /** The answers, up to the first that knows or that is not there yet. */
  readonly answers: () => readonly A[]
}

/** Who is asked, and what is made of it. */
export interface Line<A> {
  readonly count: number
  /** `changed` may be called at once. `before` are the answers of those that were asked earlier and do not know. */
  readonly ask: (index: number, before: readonly A[], changed: (answer: A) => void) => () => void
  readonly knows: (answer: A) => boolean
  /** What of the answers before it one depends on, as text: when that changes, it is asked again. */
  readonly given?: (index: number, before: readonly A[]) => string
  /** Told of all answers up to the first that knows, or of all when nobody does. Not while somebody has yet to answer. */
  readonly settled: (answers: readonly A[]) => void
}

/**
 * Asks one after the other until one knows. Those before it stay asked, so that they are heard when they come to know;
 * those after it are asked no longer.
 */
export const firstKnown = <A>({ count, ask, knows, given, settled }: Line<A>): FirstKnown<A> => {
  const line: Asked<A>[] = []
  let isRunning = false
  let isWaiting = false
  let isClosed = false

  const stopFrom = (index: number): void => {
    for (const { stop } of line.splice(index)) stop()
  }

  const start = (index: number, before: readonly A[], depends: string): Asked<A> => {
    const asked: Asked<A> = { stop: () => {}, answer: undefined, given: depends }
    line[index] = asked
    let isAsking = true
    const stop = ask(index, before, (answer) => {
      if (line[index] !== asked) return
      asked.answer = answer
      // Who answers at once is heard by whoever asks.
      if (!isAsking) run()
    })
    isAsking = false
    asked.stop = stop
    // What was answered at once may have ended it.
    if (line[index] !== asked) stop()
    return asked
  }

  const go = (): void => {
    const before: A[] = []
    for (let index = 0; index < count; index++) {
      const depends = given?.(index, before) ?? ''
      if (line[index] !== undefined && line[index]!.given !== depends) stopFrom(index)
      const { answer } = line[index] ?? start(index, [...before], depends)
      if (answer === undefined) return
      before.push(answer)
      if (!knows(answer)) continue
      stopFrom(index + 1)
      break
    }
    settled(before)
  }

  // An answer may come while the result of others is told: then the line is gone through once more.
  const run = (): void => {
    isWaiting = true
    if (isRunning) return
    isRunning = true
    try {
      while (isWaiting && !isClosed) {
        isWaiting = false
        go()
      }
    } finally {
      isRunning = false
    }
  }

  run()
  return {
    close: () => {
      isClosed = true
      stopFrom(0)
    },
    asked: () => line.length,
    answers: () => line.flatMap(({ answer }) => (answer === undefined ? [] : [answer])),
  }
}
