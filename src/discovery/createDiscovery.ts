import { isIP } from 'node:net'
import { type Address, unmapped } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import type { Discovery, NameState, Resolution } from '../net/endpoint.ts'
import { type FirstKnown, firstKnown } from './firstKnown.ts'
import { candidates, isName, unique } from './searchPath.ts'
import { type Answer, type Asking, type Question, type Source, type Standing, sooner } from './source.ts'

/** Who is asked, and how much is kept. */
export interface DiscoverySources {
  readonly sources: readonly Source[]
  readonly search: readonly string[]
  /** How long a name that nobody watches is kept up to date. */
  readonly idleMs: number
  /** How many names are kept at once. */
  readonly namesMax: number
}

/** How much is kept now, and what became of what is not. */
export interface Kept {
  readonly names: number
  readonly watchers: number
  readonly stale: number
  /** Names that made room for others before their idle time was over. */
  readonly evicted: number
  /** Names that were refused because all that are kept are in use. */
  readonly refused: number
}

/** Discovery, with what its owner does with it. */
export interface LiveDiscovery extends Discovery {
  readonly describe: () => readonly NameState[]
  readonly kept: () => Kept
  /** Asks these from now on. What is known of names in use stays until the new ones say something. */
  readonly use: (sources: DiscoverySources) => void
  readonly close: () => void
}

/** One name, or address. */
interface Entry {
  readonly asked: Address
  readonly watchers: Set<(resolution: Resolution) => void>
  stop: () => void
  standing: () => Standing
  resolution: Resolution | undefined
  saidAt: number
  cancelIdle: () => void
  isForgotten: boolean
}

/** Asks the sources for each name once, however many watch it, and goes on for a while when nobody does any more. */
export const createDiscovery = (first: DiscoverySources, clock: Clock): LiveDiscovery => {
  let now = first
  const entries = new Map<string, Entry>()
  /** Those that nobody watches, the one unused longest first. */
  const idle = new Map<string, Entry>()
  let evicted = 0
  let refused = 0

  const say = (entry: Entry, resolution: Resolution): void => {
    entry.resolution = resolution
    entry.saidAt = clock.now()
    for (const changed of [...entry.watchers]) if (entry.watchers.has(changed)) changed(resolution)
  }

  const begin = (entry: Entry): void => {
    const { host } = entry.asked
    const { stop, standing } =
      isIP(host) > 0
        ? askAddress(entry.asked, now, (it) => say(entry, it))
        : askName(entry.asked, now, (it) => say(entry, it))
    entry.stop = stop
    entry.standing = standing
    // What was said at once may have led to this.
    if (entry.isForgotten) stop()
  }

  const forget = (key: string, entry: Entry): void => {
    entry.isForgotten = true
    entry.cancelIdle()
    entry.stop()
    entries.delete(key)
    idle.delete(key)
  }

  /** The entry of a name; undefined when there are too many. */
  const entryOf = (key: string, asked: Address): Entry | undefined => {
    const known = entries.get(key)
    if (known !== undefined) return known
    if (entries.size >= now.namesMax) {
      const [oldest] = idle
      if (oldest === undefined) return undefined
      evicted++
      forget(...oldest)
    }
    const entry: Entry = {
      asked,
      watchers: new Set(),
      stop: () => {},
      standing: () => ({}),
      resolution: undefined,
      saidAt: 0,
      cancelIdle: () => {},
      isForgotten: false,
    }
    entries.set(key, entry)
    begin(entry)
    return entry
  }

  const watch: Discovery['watch'] = (name, changed) => {
    const asked = { host: hostOf(name.host), port: name.port }
    const atOnce = withoutAsking(asked, now)
    if (atOnce !== undefined) {
      changed(atOnce)
      return () => {}
    }
    const key = `${asked.host} ${asked.port}`
    const entry = entryOf(key, asked)
    if (entry === undefined) {
      refused++
      const because = `${now.namesMax} names are in use, which is the most that are kept (discovery.maxNames)`
      changed({ is: 'absent', dnsAllowed: false, tried: [], source: 'discovery', because })
      return () => {}
    }
    // Each watch is its own, also where the same function watches twice.
    const watcher = (resolution: Resolution): void => changed(resolution)
    entry.watchers.add(watcher)
    entry.cancelIdle()
    idle.delete(key)
    if (entry.resolution !== undefined) changed(entry.resolution)
    return () => {
      if (!entry.watchers.delete(watcher) || entry.watchers.size > 0 || entries.get(key) !== entry) return
      idle.set(key, entry)
      entry.cancelIdle = clock.after(now.idleMs, () => forget(key, entry))
    }
  }

  return {
    watch,
    describe: () => [...entries.values()].map((entry) => stateOf(entry, clock.now())),
    kept: () => {
      const all = [...entries.values()]
      return {
        names: all.length,
        watchers: all.reduce((sum, { watchers }) => sum + watchers.size, 0),
        stale: all.filter(({ resolution }) => resolution?.is === 'endpoints' && resolution.isStale).length,
        evicted,
        refused,
      }
    },
    use: (sources) => {
      const before = now
      now = sources
      for (const [key, entry] of [...entries]) {
        if (entry.isForgotten) continue
        entry.stop()
        if (entry.watchers.size === 0) forget(key, entry)
        else begin(entry)
      }
      for (const source of before.sources) source.close()
    },
    close: () => {
      for (const [key, entry] of [...entries]) forget(key, entry)
      for (const source of now.sources) source.close()
    },
  }
}

const stateOf = ({ asked, resolution, watchers, saidAt, standing }: Entry, now: number): NameState => {
  const { refreshAt, staleSince, error } = standing()
  return {
    asked,
    resolution,
    watchers: watchers.size,
    ageMs: resolution && now - saidAt,
    refreshMs: refreshAt === undefined ? undefined : Math.max(0, refreshAt - now),
    staleMs: staleSince === undefined || resolution === undefined ? undefined : now - staleSince,
    error,
  }
}

/** In lower case, an IPv6 address without its brackets. */
const hostOf = (host: string): string => {
  const inside = /^\[(.*)\]$/.exec(host)?.[1]
  return unmapped((inside !== undefined && isIP(inside) === 6 ? inside : host).toLowerCase())
}

/** What nobody has to be asked: an address that nobody knows more about, and a name that is none. */
const withoutAsking = ({ host, port }: Address, { sources }: DiscoverySources): Resolution | undefined => {
  if (isIP(host) > 0) return sources.some(({ askAddress }) => askAddress) ? undefined : itself({ host, port })
  if (isName(host)) return undefined
  const because = 'it is neither a name nor an IP address'
  return { is: 'absent', dnsAllowed: false, tried: [], source: 'discovery', because }
}

const itself = (address: Address): Resolution => ({
  is: 'endpoints',
  name: address.host,
  source: 'address',
  endpoints: [{ address, weight: 1, labels: {} }],
  isStale: false,
})

const NOBODY: Asking = { stop: () => {}, standing: () => ({}) }

/** An address is its own endpoint at once; what a source knows of it besides comes later. */
const askAddress = (asked: Address, { sources }: DiscoverySources, say: (resolution: Resolution) => void): Asking => {
  say(itself(asked))
  const source = sources.find((it) => it.askAddress)
  const question: Question = { ...asked, names: [], forbidden: new Set() }
  return source?.askAddress?.(question, (answer) => answer.is === 'endpoints' && say(answer)) ?? NOBODY
}

const askName = (
  asked: Address,
  { sources, search }: DiscoverySources,
  say: (resolution: Resolution) => void,
): Asking => {
  const names = candidates(asked.host, search)
  const askings: (Asking | undefined)[] = []
  const line: FirstKnown<Answer> = firstKnown<Answer>({
    count: sources.length,
    ask: (index, before, changed) => {
      const asking = sources[index]!.ask({ ...asked, names, forbidden: new Set(before.flatMap(forbiddenIn)) }, changed)
      askings[index] = asking
      return () => {
        asking.stop()
        if (askings[index] === asking) askings[index] = undefined
      }
    },
    knows: ({ is }) => is === 'endpoints',
    given: (index, before) => (sources[index]!.kind === 'dns' ? before.flatMap(forbiddenIn).join(' ') : ''),
    settled: (answers) => say(resolutionOf(answers, names)),
  })
  return { stop: line.close, standing: () => standingOf(askings.map((it) => it?.standing())) }
}

const forbiddenIn = (answer: Answer): readonly string[] => (answer.is === 'absent' ? answer.forbidden : [])

/** What the answers of all sources up to the first that knows come to. */
export const resolutionOf = (answers: readonly Answer[], names: readonly string[]): Resolution => {
  const last = answers.at(-1)
  if (last?.is === 'endpoints') return last
  const forbidden = new Set(answers.flatMap(forbiddenIn))
  return {
    is: 'absent',
    dnsAllowed: names.some((name) => !forbidden.has(name)),
    tried: unique([...names, ...answers.flatMap((answer) => (answer.is === 'absent' ? answer.tried : []))]),
    source: unique(answers.map(({ source }) => source)).join(', '),
  }
}

const standingOf = (all: readonly (Standing | undefined)[]): Standing => ({
  error: all.find((it) => it?.error !== undefined)?.error,
  staleSince: all.reduce<number | undefined>((least, it) => sooner(least, it?.staleSince), undefined),
  refreshAt: all.reduce<number | undefined>((least, it) => sooner(least, it?.refreshAt), undefined),
})
