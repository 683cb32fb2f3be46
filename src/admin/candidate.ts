import type { Clock } from '../net/clock.ts'
import { formatDiagnostic } from '../policy/diagnostic.ts'
import { parsePolicy } from '../policy/parsePolicy.ts'
import type { Policy } from '../policy/policy.ts'
import type { TrialCounts } from '../telemetry/trialCounts.ts'
import { keepPolicy, type Loaded } from './livePolicy.ts'
import { type AdminRoutes, json, text } from './server.ts'

/** A policy beside the one in force: it decides nothing, and what it would change is counted. */
export interface Candidate {
  readonly policy: () => Policy | undefined
  /** Puts a document in place of what is watched; or says, in words, what is wrong with it. */
  readonly put: (document: string) => readonly string[]
  readonly remove: () => void
  /** Looks at its files now, as on SIGHUP. */
  readonly reload: () => void
  /** Where it comes from and since when, in milliseconds since 1970. */
  readonly about: () => { readonly from: string; readonly since: number } | undefined
  readonly close: () => void
}

/** What candidates are watched by. */
export interface Watching {
  readonly clock: Clock
  /** Told of each other candidate, before it counts. */
  readonly changed: () => void
  /** Told when files change and are no policy. */
  readonly warn: (message: string) => void
}

const POSTED = 'candidate.yaml' // the name of a document that came to the admin server

/** Watches the policy of files, where there are any, until another one comes. */
export const keepCandidate = (
  files: { readonly paths: readonly string[]; readonly loaded: Loaded & { readonly is: 'policy' } } | undefined,
  { clock, changed, warn }: Watching,
): Candidate => {
  let now: { readonly policy: Policy; readonly from: string; readonly since: number } | undefined
  const use = (policy: Policy | undefined, from: string) => {
    changed()
    now = policy && { policy, from, since: clock.time() }
  }
  const live =
    files &&
    keepPolicy(files.paths, files.loaded, clock, {
      reloaded: (reload) => {
        if (reload.is === 'replaced') use(reload.policy, files.paths.join(' '))
        if (reload.is === 'kept') warn(`the candidate was not replaced\n${reload.problems.join('\n')}`)
      },
    })
  if (files) use(files.loaded.policy, files.paths.join(' '))
  return {
    policy: () => now?.policy,
    about: () => now && { from: now.from, since: now.since },
    put: (document) => {
      const parsed = parsePolicy([{ path: POSTED, text: document }])
      if (parsed.is === 'mistaken') return parsed.diagnostics.map(formatDiagnostic)
      use(parsed.policy, POSTED)
      return []
    },
    remove: () => use(undefined, ''),
    reload: () => void live?.reload(),
    close: () => live?.close(),
  }
}

/** `/candidate`: what it would change, another one in its place, or none. */
export const candidateRoutes = (candidate: Candidate, counts: TrialCounts): AdminRoutes => {
  const report = () => {
    const about = candidate.about()
    if (about === undefined) return json(200, { candidate: null })
    return json(200, {
      candidate: { ...about, since: new Date(about.since).toISOString(), rules: candidate.policy()?.rules.length },
      connections: counts.connections(),
      requests: counts.requests(),
      changes: counts.changes(),
      more: counts.more(),
    })
  }
  return {
    'GET /candidate': report,
    'PUT /candidate': async ({ body }) => {
      const problems = candidate.put(await body())
      return problems.length > 0 ? text(400, `${problems.join('\n')}\n`) : report()
    },
    'DELETE /candidate': () => {
      candidate.remove()
      return report()
    },
  }
}
