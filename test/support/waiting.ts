import type { Test } from 'tap'

/** Our timers and watches keep no process alive, and a test that waits for one has nothing else. */
export const stayAlive = (t: Test): void => {
  const alive = setInterval(() => {}, 60_000)
  t.teardown(() => clearInterval(alive))
}

/** Waits for what is to become so, looking again each time that something has happened. */
export const events = () => {
  const waiting: (() => void)[] = []
  return {
    happened: (): void => {
      for (const go of waiting.splice(0)) go()
    },
    until: async (isSo: () => boolean): Promise<void> => {
      while (!isSo()) await new Promise<void>((go) => waiting.push(go))
    },
  }
}
