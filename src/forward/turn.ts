/** Who has gathered output in this turn of the loop. */
export interface Flushable {
  flush(): void
  /** Its flush has thrown. */
  broke(error: unknown): void
}

const waiting: Flushable[] = []

const flushAll = (): void => {
  // Flushing one may give another something to send; it then joins the end of this very row.
  for (let at = 0; at < waiting.length; at++) {
    try {
      waiting[at]!.flush()
    } catch (error) {
      waiting[at]!.broke(error)
    }
  }
  waiting.length = 0
}

/** Flushes once everything that the system had ready in this turn is read. Ask once until the flush has come. */
export const flushLater = (who: Flushable): void => {
  if (waiting.push(who) === 1) setImmediate(flushAll)
}
