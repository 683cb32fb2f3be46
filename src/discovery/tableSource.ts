import type { Clock } from '../net/clock.ts'
import type { DocumentFile } from '../net/documents.ts'
import { watchDocuments } from '../net/watchDocuments.ts'
import { answerFrom, type EndpointTable, type NamedEndpoints, tableOf } from './namedEndpoints.ts'
import type { Answer, Counts, Question, Source, Standing } from './source.ts'

/** What is written in the policy. */
export const staticSource = (written: NamedEndpoints, counts: Counts): Source => {
  const { source } = tableSource('static', 'static', tableOf(written), counts)
  return source
}

/** A file as read: endpoints, or in words what is wrong with it. */
export type FileReader = (
  file: DocumentFile,
) =>
  | { readonly is: 'endpoints'; readonly endpoints: NamedEndpoints }
  | { readonly is: 'mistaken'; readonly problems: readonly string[] }

/** What a source that reads files needs. */
export interface FileWorld {
  readonly read: FileReader
  readonly clock: Clock
  readonly counts: Counts
  /** Told what is wrong with a file, each time it was read anew; the last good one stays. */
  readonly warn: (text: string) => void
}

/** A file that is watched. While there has been no good one, nothing is known: whoever asks waits. */
export const fileSource = (path: string, { read, clock, counts, warn }: FileWorld): Source => {
  const { source, use, fail } = tableSource('file', `file ${path}`, undefined, counts)
  let isGood = false
  const watching = watchDocuments([path], { files: [], problems: [] }, clock, async ({ files, problems }) => {
    const file = files[0]
    const found = file && problems.length === 0 ? read(file) : { is: 'mistaken' as const, problems }
    if (found.is === 'endpoints') {
      isGood = true
      use(tableOf(found.endpoints))
      return
    }
    const rest = isGood ? 'the last good one stays' : 'names are not looked up until it is good'
    fail(found.problems[0] ?? 'it cannot be read', clock.now())
    warn(`discovery: ${path} was not taken; ${rest}\n${found.problems.join('\n')}`)
  })
  void watching.look()
  return { ...source, close: watching.close }
}

interface TableSource {
  readonly source: Source
  readonly use: (table: EndpointTable) => void
  readonly fail: (error: string, now: number) => void
}

const tableSource = (
  kind: 'static' | 'file',
  name: string,
  first: EndpointTable | undefined,
  counts: Counts,
): TableSource => {
  let table = first
  let trouble: Standing = {}
  const askings = new Set<() => void>()
  const ask = (question: Question, changed: (answer: Answer) => void) => {
    let last: string | undefined
    const look = (): void => {
      if (table === undefined) return
      const found = answerFrom(table, question, name)
      const answer = found.is === 'absent' ? found : { ...found, isStale: trouble.error !== undefined }
      const text = JSON.stringify(answer)
      if (text === last) return
      last = text
      counts.looked(kind, answer.is === 'absent' ? 'absent' : answer.endpoints.length === 0 ? 'empty' : 'endpoints')
      changed(answer)
    }
    askings.add(look)
    look()
    return { stop: () => void askings.delete(look), standing: () => trouble }
  }
  return {
    source: { kind, ask, close: () => {} },
    use: (now) => {
      table = now
      trouble = {}
      for (const look of [...askings]) look()
    },
    fail: (error, now) => {
      trouble = { error, staleSince: trouble.staleSince ?? now }
      for (const look of [...askings]) look()
    },
  }
}
