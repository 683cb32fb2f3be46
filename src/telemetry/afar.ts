import type { Clock } from '../net/clock.ts'
import type { Direction } from '../net/connection.ts'
import type { Alike, Ledger, Total } from './ledger.ts'
import { Life } from './life.ts'
import type { Outcome, RequestOutcome } from './outcome.ts'

/** What is known of a connection in another thread. */
export interface LifeFacts {
  readonly facts: ReturnType<Life['facts']>
  readonly ageMs: number
  readonly bytes: { readonly sent: number; readonly received: number }
}

/** What a thread has to tell of its connections. Kinds of connections and lives are sent once and named by number. */
export interface Told {
  readonly outcomes: readonly Outcome[]
  readonly lives: readonly LifeFacts[]
  /** With the id of its life. */
  readonly requests: readonly (readonly [id: string, request: RequestOutcome])[]
  readonly alikes: readonly Alike[]
  /** Four numbers for each connection that was only counted: the place of its kind, ms, sent, received. */
  readonly counts: Float64Array
}

const HOLD_MS = 20 // as the log: many connections and requests share one message
const HELD_MAX = 512

/** Gathers what happens in a ledger, and hands it on in batches. `flush` hands on what is held, now. */
export const tellingOf = (
  ledger: Ledger,
  clock: Clock,
  tell: (told: Told) => void,
): { readonly flush: () => void; readonly wants: (outcomes: boolean) => void } => {
  let outcomes: Outcome[] = []
  let lives: LifeFacts[] = []
  let requests: [string, RequestOutcome][] = []
  let alikes: Alike[] = []
  let counts: number[] = []
  const kinds = new Map<Alike, number>()
  const known = new Set<string>()
  let isWanted = true
  let isWaiting = false
  const flush = () => {
    isWaiting = false
    if (outcomes.length + requests.length + counts.length === 0) return
    const told = { outcomes, lives, requests, alikes, counts: Float64Array.from(counts) }
    outcomes = []
    lives = []
    requests = []
    alikes = []
    counts = []
    tell(told)
  }
  const later = () => {
    if (outcomes.length + requests.length + counts.length / 4 >= HELD_MAX) return flush()
    if (!isWaiting) clock.after(HOLD_MS, flush)
    isWaiting = true
  }
  ledger.subscribe(
    (outcome) => {
      known.delete(outcome.id)
      outcomes.push(outcome)
      later()
    },
    () => isWanted,
  )
  ledger.subscribeCounts((alike, ms, { sent, received }) => {
    let kind = kinds.get(alike)
    if (kind === undefined) {
      kind = kinds.size
      kinds.set(alike, kind)
      alikes.push(alike)
    }
    counts.push(kind, ms, sent, received)
    later()
  })
  ledger.subscribeRequests((request, life) => {
    if (!known.has(life.id)) {
      known.add(life.id)
      lives.push(factsOf(life, clock))
    }
    requests.push([life.id, request])
    later()
  })
  return {
    flush,
    wants: (outcomes) => {
      isWanted = outcomes
    },
  }
}

/** An open connection, as another thread may see it. */
export const factsOf = (life: Life, clock: Clock): LifeFacts => ({
  facts: life.facts(),
  ageMs: clock.now() - life.started,
  bytes: { ...life.count },
})

/** The connections of one other thread, in the ledger of this one. */
export interface Afar {
  readonly hear: (told: Told) => void
  /** What is open there now. */
  readonly see: (totals: Readonly<Record<Direction, Total>>, lives: readonly LifeFacts[]) => void
  /** That thread is no more. */
  readonly gone: () => void
}

/** Writes down in a ledger what another thread tells. */
export const hearingOf = (ledger: Ledger, clock: Clock): Afar => {
  const requesting = new Map<string, Life>()
  const alikes: Alike[] = []
  let totals: Readonly<Record<Direction, Total>> | undefined
  let open: readonly Life[] = []
  for (const direction of ['inbound', 'outbound'] as const) {
    const total = () => ({ direction, ...(totals?.[direction] ?? { open: 0, sent: 0, received: 0 }) })
    ledger.alsoOpen({ show: () => {}, total, ...(direction === 'inbound' && { lives: () => open }) })
  }
  return {
    hear: ({ outcomes, lives, requests, alikes: more, counts }) => {
      alikes.push(...more)
      for (const life of lives) requesting.set(life.facts.id, lifeOf(life, clock))
      for (const [id, request] of requests) {
        const life = requesting.get(id)
        if (life !== undefined) ledger.heardRequest(request, life)
      }
      for (const outcome of outcomes) {
        requesting.delete(outcome.id)
        ledger.heard(outcome)
      }
      for (let at = 0; at < counts.length; at += 4) {
        const alike = alikes[counts[at]!]
        if (alike !== undefined)
          ledger.count(alike, counts[at + 1]!, { sent: counts[at + 2]!, received: counts[at + 3]! })
      }
    },
    see: (now, lives) => {
      totals = now
      open = lives.map((life) => lifeOf(life, clock))
    },
    gone: () => {
      totals = undefined
      open = []
      requesting.clear()
    },
  }
}

const lifeOf = ({ facts, ageMs, bytes }: LifeFacts, clock: Clock): Life => {
  const { id, direction, listener, peer, destination, protocols, ...rest } = facts
  const life = new Life(id, clock, { direction, listener, peer, destination }, ageMs)
  life.protocols.push(...protocols)
  Object.assign(life, rest)
  life.isCarried = true
  life.recount = (count) => Object.assign(count, bytes)
  return life
}
