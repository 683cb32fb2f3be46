import type { Clock } from '../net/clock.ts'
import type { Alike, Ledger } from './ledger.ts'
import type { Outcome, RuleName } from './outcome.ts'

/** What happened in about a second, and what a person should know of the minutes before. */
export interface Second {
  /** Milliseconds since 1970. */
  readonly at: number
  /** Each per second. */
  readonly connections: number
  readonly requests: number
  readonly bytes: number
  /** Milliseconds until the answer was complete; absent without requests. */
  readonly p50?: number
  readonly p99?: number
  /** Connections of the last minute that failed or were refused. */
  readonly failed: number
  readonly warnings: readonly string[]
}

/** The recent past of a proxy, bounded: for the page, and for whoever asks what is going on. */
export interface Pulse {
  readonly startedAt: number
  readonly now: () => number
  /** The latest Outcomes, oldest first. */
  readonly recent: () => readonly Outcome[]
  readonly second: () => Second
  /** How many connections have ended. */
  readonly connections: () => number
  /** How often a rule decided something. */
  readonly hits: (rule: RuleName) => number
}

const RECENT_MAX = 300
const WANTED_MAX = 20 // Outcomes in a second that are written only to be shown here; beyond that connections are counted
const LATENCIES_MAX = 10_000
const TIMEOUTS_TO_WARN = 3 // once is a slow client; three times in a row is a protocol we do not know

/** Listens to a ledger. `more` are warnings that others know of, such as certificates that expire. */
export const createPulse = (ledger: Ledger, clock: Clock, more: () => readonly string[] = () => []): Pulse => {
  const recent: Outcome[] = []
  const hits = new Map<string, number>()
  const failures: number[] = []
  const timeouts = new Map<string, number>()
  let latencies: number[] = []
  let connections = 0
  let ended = 0
  let requests = 0
  let lastBytes = 0
  let endedBytes = 0
  let lastAt = clock.now()
  let last: Second | undefined

  // Requests that no rule tells apart have one and the same record of rules.
  const keys = new WeakMap<object, readonly string[]>()
  const keysOf = (rules: Readonly<Record<string, RuleName>>): readonly string[] => {
    const named = [...new Set(Object.values(rules))].filter(({ line }) => line > 0).map(keyOf)
    keys.set(rules, named)
    return named
  }
  const hit = (rules: Readonly<Record<string, RuleName>>) => {
    for (const key of keys.get(rules) ?? keysOf(rules)) hits.set(key, (hits.get(key) ?? 0) + 1)
  }
  const counted = ({ rules, result }: Alike, _ms: number, { sent, received }: Outcome['bytes']) => {
    connections += 1
    ended += 1
    endedBytes += sent + received
    hit(rules)
    if (result === 'failed' || result === 'refused') failures.push(clock.now())
  }
  ledger.subscribeCounts(counted)
  let wanted = 0
  let wantedSince = clock.now()
  ledger.subscribe(
    (outcome) => {
      wanted += 1
      counted(outcome, outcome.ms, outcome.bytes)
      recent.push(outcome)
      if (recent.length > RECENT_MAX) recent.shift()
      countTimeouts(timeouts, outcome)
    },
    () => {
      const now = clock.now()
      if (now - wantedSince >= 1000) {
        wanted = 0
        wantedSince = now
      }
      return wanted < WANTED_MAX
    },
  )
  ledger.subscribeRequests((request) => {
    requests += 1
    if (latencies.length < LATENCIES_MAX) latencies.push(request.ms)
    hit(request.rules)
  })

  const second = (): Second => {
    const now = clock.now()
    // Several pages may look; they share what is one second long.
    if (last !== undefined && now - lastAt < 900) return last
    const seconds = Math.max((now - lastAt) / 1000, 0.001)
    let bytes = endedBytes
    for (const { sent, received } of Object.values(ledger.totals())) bytes += sent + received
    while (failures.length > 0 && now - failures[0]! > 60_000) failures.shift()
    const sorted = latencies.sort((a, b) => a - b)
    last = {
      at: clock.time(),
      connections: connections / seconds,
      requests: requests / seconds,
      bytes: Math.max(0, Math.round((bytes - lastBytes) / seconds)),
      ...(sorted.length > 0 && { p50: percentile(sorted, 0.5), p99: percentile(sorted, 0.99) }),
      failed: failures.length,
      warnings: [...timeoutWarnings(timeouts), ...more()],
    }
    latencies = []
    connections = 0
    requests = 0
    lastBytes = bytes
    lastAt = now
    return last
  }

  return {
    startedAt: clock.time(),
    now: clock.now,
    recent: () => recent,
    second,
    connections: () => ended,
    hits: (rule) => hits.get(keyOf(rule)) ?? 0,
  }
}

const keyOf = ({ file, line }: RuleName): string => `${file}:${line}`

const percentile = (sorted: readonly number[], part: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))]!

/** Timeouts in a row by port: one detection that succeeds takes the port off the list. */
const countTimeouts = (timeouts: Map<string, number>, { direction, destination, reason }: Outcome): void => {
  const key = `${direction} port ${destination.port}`
  if (reason !== 'timeout') timeouts.delete(key)
  else if (timeouts.size < 1000 || timeouts.has(key)) timeouts.set(key, (timeouts.get(key) ?? 0) + 1)
}

const timeoutWarnings = (timeouts: ReadonlyMap<string, number>): string[] =>
  [...timeouts]
    .filter(([, times]) => times >= TIMEOUTS_TO_WARN)
    .map(
      ([key, times]) =>
        `Detection on ${key} ran out of time ${times} times in a row. If its protocol is not HTTP or TLS, a rule with { protocol: opaque } saves the wait.`,
    )
