import type { Answer, Question, Source, Standing } from '../../src/discovery/source.ts'
import type { Resolution } from '../../src/net/endpoint.ts'

/** A source that says what the test says, and tells what it was asked. */
export interface FakeSource extends Source {
  readonly asked: readonly Question[]
  /** The questions that have not been stopped. */
  readonly open: () => number
  readonly say: (answer: Answer) => void
  standing: Standing
  isClosed: boolean
}

export const fakeSource = (kind: Source['kind'], atOnce?: (question: Question) => Answer): FakeSource => {
  const asked: Question[] = []
  const open = new Set<(answer: Answer) => void>()
  const source: FakeSource = {
    kind,
    asked,
    open: () => open.size,
    standing: {},
    isClosed: false,
    ask: (question, changed) => {
      asked.push(question)
      open.add(changed)
      if (atOnce) changed(atOnce(question))
      return { stop: () => void open.delete(changed), standing: () => source.standing }
    },
    say: (answer) => {
      for (const changed of [...open]) changed(answer)
    },
    close: () => {
      source.isClosed = true
    },
  }
  return source
}

export const NO_COUNTS = { looked: () => {}, reconnected: () => {} }

/** What is said of endpoints, short: `rabbits. 10.0.0.1:80 10.0.0.2:80`, with `stale` before it where it is. */
export const shortly = (resolution: Resolution | undefined): string => {
  if (resolution === undefined) return 'nothing'
  if (resolution.is === 'absent') return `absent, dns ${resolution.dnsAllowed ? 'allowed' : 'forbidden'}`
  const all = resolution.endpoints.map(({ address: { host, port } }) => `${host}:${port}`).join(' ')
  return `${resolution.isStale ? 'stale ' : ''}${resolution.name} ${all}`.trim()
}
