import type { AspectName, AspectValue } from '../policy/aspects.ts'
import { type RuleRef, settled, type Verdict } from '../policy/verdict.ts'
import type { PoolLimits } from './pool.ts'
import { wantsTls } from './upstreamTls.ts'

/** What `24d`, the longest time a document can say, stands for. */
const NEVER_MS = 24 * 86_400_000

/** A verdict about a request, in the words of those who carry it out. */
export interface HttpSettings {
  readonly deny: boolean
  readonly denyStatus: number
  readonly redirectTo: string | undefined
  readonly redirectStatus: number
  readonly rateLimit: Exclude<AspectValue<'http.rateLimit'>, 'none'> | undefined
  readonly rateLimitBy: RuleRef
  readonly upstream: AspectValue<'upstream'>
  /** Nobody has said where it goes: by its name, where names are known. */
  readonly isUpstreamBuiltIn: boolean
  readonly protocol: AspectValue<'upstream.protocol'>
  readonly proxyProtocol: AspectValue<'upstream.proxyProtocol'>
  readonly connectMs: number
  readonly timeoutMs: number | undefined
  readonly headTimeoutMs: number | undefined
  readonly idleMs: number | undefined
  readonly pool: PoolLimits
  readonly isInformed: boolean
  readonly upgrade: {
    readonly h2c: AspectValue<'http.upgrade.h2c'>
    readonly allow: readonly string[]
    readonly other: AspectValue<'http.upgrade.other'>
    readonly by: RuleRef
  }
  readonly request: FieldChanges
  readonly response: FieldChanges | undefined
  readonly retry: Retry | undefined
  /** What distinguishes connections to upstreams by TLS; empty for those in the clear. */
  readonly tls: string
  readonly verdict: Verdict
  readonly rules: () => Readonly<Record<string, RuleRef>>
}

/** What happens to the fields of a message on its way. */
export interface FieldChanges {
  readonly set: readonly (readonly [name: string, value: string])[]
  /** In lower case; those that are set are among them, since they replace what came. */
  readonly remove: ReadonlySet<string>
  readonly via: boolean
  readonly forwarded: AspectValue<'http.forwarded'>
  readonly marker: boolean
}

/** When a request is sent again. */
export interface Retry {
  readonly attempts: number
  readonly on: ReadonlySet<string | number>
  readonly anyMethod: boolean
  readonly maxBytes: number
  readonly percent: number
  readonly minPerSecond: number
  readonly by: RuleRef
}

const known = new WeakMap<Verdict, HttpSettings>()

/** The settings of a verdict; most requests share one, the verdict of a policy without rules about requests. */
export const settingsOf = (verdict: Verdict): HttpSettings => {
  const found = known.get(verdict)
  if (found !== undefined) return found
  const made = read(verdict)
  known.set(verdict, made)
  return made
}

const read = (verdict: Verdict): HttpSettings => {
  let rules: ReturnType<HttpSettings['rules']> | undefined
  const value = <K extends AspectName>(name: K) => settled(verdict[name]) as AspectValue<K>
  const redirectTo = value('http.redirect.to')
  const rateLimit = value('http.rateLimit')
  const via = value('http.via')
  const allow = value('http.upgrade.allow')
  return {
    deny: value('deny'),
    denyStatus: value('http.deny.status'),
    redirectTo: redirectTo === 'none' ? undefined : redirectTo,
    redirectStatus: value('http.redirect.status'),
    rateLimit: rateLimit === 'none' ? undefined : rateLimit,
    rateLimitBy: byOf(verdict, 'http.rateLimit'),
    upstream: value('upstream'),
    isUpstreamBuiltIn: byOf(verdict, 'upstream').line === 0,
    protocol: value('upstream.protocol'),
    proxyProtocol: value('upstream.proxyProtocol'),
    connectMs: value('limits.connect'),
    timeoutMs: finite(value('http.timeout')),
    headTimeoutMs: finite(value('http.headTimeout')),
    idleMs: finite(value('http.idleTimeout')),
    pool: {
      connectionsMax: value('http.pool.connections'),
      pendingMax: value('http.pool.pending'),
      idleMs: value('http.pool.idle'),
      ageMs: value('http.pool.maxAge'),
    },
    isInformed: value('http.informational'),
    upgrade: {
      h2c: value('http.upgrade.h2c'),
      allow: allow.map((protocol) => protocol.toLowerCase()),
      other: value('http.upgrade.other'),
      by: byOf(verdict, 'http.upgrade.allow'),
    },
    request: {
      ...changes(value('http.request.set'), [
        ...value('http.request.remove'),
        ...(value('http.authorization') === 'strip' ? ['authorization'] : []),
      ]),
      via,
      forwarded: value('http.forwarded'),
      marker: value('http.loopMarker'),
    },
    response: responseChanges(value('http.response.set'), value('http.response.remove'), via),
    retry: retryOf(verdict, value),
    tls: wantsTls(verdict) ? JSON.stringify(TLS_ASPECTS.map(value)) : '',
    verdict,
    // Put together once, when first asked for: each request has them in its Outcome.
    rules: () => (rules ??= rulesOf(verdict)),
  }
}

const TLS_ASPECTS = ['upstream.tls', 'upstream.mesh', 'upstream.identity'] as const

const byOf = (verdict: Verdict, name: AspectName): RuleRef => {
  const decision = verdict[name]
  return decision.is === 'decided' ? decision.by : decision.for
}

const finite = (ms: number): number | undefined => (ms >= NEVER_MS ? undefined : ms)

const changes = (set: Readonly<Record<string, string>>, remove: readonly string[]) => ({
  set: Object.entries(set),
  remove: new Set([...remove, ...Object.keys(set)].map((name) => name.toLowerCase())),
})

const responseChanges = (
  set: Readonly<Record<string, string>>,
  remove: readonly string[],
  via: boolean,
): FieldChanges | undefined => {
  const made = changes(set, remove)
  if (made.remove.size === 0 && !via) return undefined
  return { ...made, via, forwarded: 'none', marker: false }
}

type Value = <K extends AspectName>(name: K) => AspectValue<K>

const retryOf = (verdict: Verdict, value: Value): Retry | undefined => {
  const attempts = value('http.retry.attempts')
  if (attempts === 0) return undefined
  const { percent, minPerSecond } = value('http.retry.budget')
  return {
    attempts,
    on: new Set(value('http.retry.on')),
    anyMethod: value('http.retry.methods') === 'any',
    maxBytes: value('http.retry.maxBytes'),
    percent,
    minPerSecond,
    by: byOf(verdict, 'http.retry.attempts'),
  }
}

/** Which rule of the document decided what. */
const rulesOf = (verdict: Verdict): Readonly<Record<string, RuleRef>> => {
  const rules: Record<string, RuleRef> = {}
  for (const [aspect, decision] of Object.entries(verdict)) {
    if (decision.is === 'decided' && decision.by.line > 0) rules[aspect] = decision.by
  }
  return rules
}
