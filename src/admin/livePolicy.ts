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

/** What goes with a change of policy. */
export interface Changing {
  /**
   * Gets ready what a policy needs before it counts, and gives what puts that in use: called in the same turn in which
   * the policy begins to count. When it rejects, the policy is not used.
   */
  readonly prepare?: (policy: Policy, documents: Documents) => Promise<() => void>
  /** Told afterwards. */
  readonly reloaded: (reload: Reload) => void
}

/** Keeps the policy of `paths` in force as its files change: the new one whole, or not at all. */
export const keepPolicy = (
  paths: readonly string[],
  loaded: Loaded & { readonly is: 'policy' },
  clock: Clock,
  { prepare = async () => () => {}, reloaded }: Changing,
): LivePolicy => {
  let policy = loaded.policy
  let last: Reload = { is: 'unchanged' }
  let isClosed = false
  const take = async (parsed: Loaded): Promise<Reload> => {
    if (parsed.is === 'mistaken') return { is: 'kept', problems: problemsOf(parsed) }
    try {
      const use = await prepare(parsed.policy, parsed.documents)
      if (isClosed) return { is: 'unchanged' }
      use()
      policy = parsed.policy
      return { is: 'replaced', policy, warnings: parsed.warnings }
    } catch (error) {
      return { is: 'kept', problems: [(error as Error).message] }
    }
  }
  const watching = watchDocuments(paths, loaded.documents, clock, async (documents) => {
    last = await take(parseDocuments(documents))
    if (!isClosed) reloaded(last)
  })
  return {
    policy: () => policy,
    reload: async () => ((await watching.look()) ? last : { is: 'unchanged' }),
    close: () => {
      isClosed = true
      watching.close()
    },
  }
}
