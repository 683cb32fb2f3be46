import type { Clock } from '../net/clock.ts'
import { type Documents, readDocumentsAt } from '../net/documents.ts'
import { watchDocuments } from '../net/watchDocuments.ts'
import { type Diagnostic, formatDiagnostic } from '../policy/diagnostic.ts'
import { type Parsed, parsePolicy } from '../policy/parsePolicy.ts'
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

/** A policy read from files, or in words why there is none. */
export type Loaded =
  | {
      readonly is: 'policy'
      readonly policy: Policy
      readonly warnings: readonly Diagnostic[]
      readonly documents: Documents
    }
  | { readonly is: 'mistaken'; readonly problems: readonly string[]; readonly diagnostics: readonly Diagnostic[] }

/** Reads the policy of files and directories, once. */
export const loadPolicy = async (paths: readonly string[]): Promise<Loaded> => {
  const documents = await readDocumentsAt(paths)
  const parsed = parseDocuments(documents)
  return parsed.is === 'policy' ? { ...parsed, documents } : parsed
}

const parseDocuments = ({ files, problems }: Documents): Parsed & { readonly problems: readonly string[] } => {
  const parsed = parsePolicy(files)
  if (parsed.is === 'mistaken')
    return { ...parsed, problems: [...problems, ...parsed.diagnostics.map(formatDiagnostic)] }
  return problems.length > 0 ? { is: 'mistaken', diagnostics: [], problems } : { ...parsed, problems }
}

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
        : { is: 'kept', problems: parsed.problems }
    reloaded(last)
  })
  return {
    policy: () => policy,
    reload: async () => ((await watching.look()) ? last : { is: 'unchanged' }),
    close: watching.close,
  }
}
