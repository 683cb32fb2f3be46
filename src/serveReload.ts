import type { Reload } from './admin/livePolicy.ts'
import { formatDiagnostic } from './policy/diagnostic.ts'
import { SECTIONS, type Sections } from './policy/sections.ts'
import type { Ledger } from './telemetry/ledger.ts'
import type { Log, LogOptions } from './telemetry/log.ts'

/**
 * What follows when documents were read again: the log says what came of it and obeys them, connections that the new
 * policy denies are closed, and what waits for a restart is named. `running` is what the process was started with.
 */
export const followReloads = (
  running: Sections,
  log: Log,
  logOf: (sections: Sections) => LogOptions,
  ledger: Pick<Ledger, 'recheck'>,
): ((reload: Reload) => void) => {
  let inForce = running
  return (reload) => {
    if (reload.is === 'kept')
      log.error(`the policy was not replaced; the last good one stays\n${reload.problems.join('\n')}`)
    if (reload.is !== 'replaced') return
    const now = reload.policy.sections
    if (changed('log', inForce, now)) log.use(logOf(now))
    inForce = now
    const waiting = needingRestart(running, now)
    if (waiting.length > 0) log.warn(`of the new policy, this counts only after a restart: ${waiting.join(', ')}`)
    for (const warning of reload.warnings) log.warn(formatDiagnostic(warning))
    log.info('the policy was replaced')
    ledger.recheck()
  }
}

const changed = (name: keyof Sections, old: Sections, now: Sections): boolean =>
  JSON.stringify(old[name]) !== JSON.stringify(now[name])

/** The sections that say something else than what runs, and that are read only at the start. */
const needingRestart = (running: Sections, now: Sections): (keyof Sections)[] =>
  (Object.keys(SECTIONS) as (keyof Sections)[]).filter(
    (name) => !SECTIONS[name].onReload && changed(name, running, now),
  )
