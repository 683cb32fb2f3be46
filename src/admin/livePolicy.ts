import type { Clock } from '../net/clock.ts'
import { type Documents, readDocumentsAt } from '../net/documents.ts'
import { watchDocuments } from '../net/watchDocuments.ts'
import { type Diagnostic, formatDiagnostic } from '../policy/diagnostic.ts'
import { parsePolicy } from '../policy/parsePolicy.ts'
import type { Policy } from '../policy/policy.ts'

/** What came of a look at the documents. A policy that was not good is not used: the last good one stays. */
export type Reload =
  | { readonly is: 'replaced'; readonly policy: Policy; readonly warnings: readonly Diagnostic[] }
  | { readonly is: 'kept'; readonly problems: readonly string[] }
  | { readonly is: 'unchanged' }

/** The policy in force. */
export interface LivePolicy {
  readonly policy: () => Policy
  /** Looks now, as on SIGHUP. */
  readonly reload: () => Promise<Reload>
  readonly close: () => void
}

/** A policy read from files, or why there is none: what could not be read, and what is wrong with what could. */
export type Loaded =
  | {
      readonly is: 'policy'
      readonly policy: Policy
      readonly warnings: readonly Diagnostic[]
      readonly documents: Documents
    }
  | { readonly is: 'mistaken'; readonly unreadable: readonly string[]; readonly diagnostics: readonly Diagnostic[] }

/** Reads the policy of files and directories, once. */
export const loadPolicy = async (paths: readonly string[]): Promise<Loaded> =>
  parseDocuments(await readDocumentsAt(paths))

const parseDocuments = (documents: Documents): Loaded => {
  const parsed = parsePolicy(documents.files)
  if (parsed.is === 'mistaken') return { ...parsed, unreadable: documents.problems }
  if (documents.problems.length > 0)
    return { is: 'mistaken', unreadable: documents.problems, diagnostics: parsed.warnings }
  return { ...parsed, documents }
}

/** In words, what keeps documents from being a policy. */
export const problemsOf = (loaded: Loaded & { readonly is: 'mistaken' }): string[] => [
  ...loaded.unreadable,
  ...loaded.diagnostics.map(formatDiagnostic),
]

/** Keeps the policy of `paths` in force as its files change: the new one whole, or not at all. */
export const keepPolicy = (
  paths: readonly string[],
  loaded: Loaded & { readonly is: 'policy' },
  clock: Clock,
  reloaded: (reload: Reload) => void,
): LivePolicy => {
  let policy = loaded.policy
  let last: Reload = { is: 'unchanged' }
  const watching = watchDocuments(paths, loaded.documents, clock, (documents) => {
    const parsed = parseDocuments(documents)
    if (parsed.is === 'policy') policy = parsed.policy
    last =
      parsed.is === 'policy'
        ? { is: 'replaced', policy: parsed.policy, warnings: parsed.warnings }
        : { is: 'kept', problems: problemsOf(parsed) }
    reloaded(last)
  })
  return {
    policy: () => policy,
    reload: async () => ((await watching.look()) ? last : { is: 'unchanged' }),
    close: watching.close,
  }
}
