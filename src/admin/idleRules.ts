import type { Policy } from '../policy/policy.ts'
import type { Pulse } from '../telemetry/pulse.ts'

const WATCHED_MS_MIN = 600_000 // before ten minutes a rule that did nothing says nothing
const CONNECTIONS_MIN = 100
const NAMED_MAX = 5

/** In words, the rules that have decided nothing for a while, though there was something to decide. */
export const idleRules = (
  policy: Policy,
  pulse: Pick<Pulse, 'hits' | 'startedAt' | 'connections'>,
  time: number,
): string[] => {
  const watchedMs = time - pulse.startedAt
  if (watchedMs < WATCHED_MS_MIN || pulse.connections() < CONNECTIONS_MIN) return []
  const idle = policy.rules.filter((rule) => !rule.isDry && pulse.hits(rule.ref) === 0).map(({ ref }) => ref)
  if (idle.length === 0) return []
  const named = idle.slice(0, NAMED_MAX).map(({ name, file, line }) => `"${name}" (${file}:${line})`)
  const more = idle.length > named.length ? ` and ${idle.length - named.length} more` : ''
  const minutes = Math.floor(watchedMs / 60_000)
  const span = minutes < 120 ? `${minutes} minutes` : `${Math.floor(minutes / 60)} hours`
  const what = idle.length === 1 ? 'This rule has' : 'These rules have'
  return [`${what} decided nothing in ${span}: ${named.join(', ')}${more}.`]
}
