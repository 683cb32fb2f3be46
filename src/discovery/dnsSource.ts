import { type Address, formatAddress } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import { backoffMs } from './backoff.ts'
import type { Lookup, Lookups } from './dnsLookup.ts'
import { dnsNames } from './resolvConf.ts'
import type { Answer, Asking, Counts, Question, Source, Standing } from './source.ts'
import { SYSTEM_MS, type SystemResolver } from './systemResolver.ts'

/** What the policy says of it. */
export interface DnsSettings {
  readonly servers?: readonly Address[] | undefined
  readonly timeout?: number | undefined
  readonly minTtl: number
  readonly maxTtl: number
  readonly family: 'auto' | 'both' | 'ipv4' | 'ipv6'
  readonly srv: Lookups['srv']
  readonly hosts: boolean
}

/** What the source needs of the world. */
export interface DnsSourceWorld {
  readonly lookup: (name: string, port: number, how: Lookups) => Promise<Lookup>
  readonly system: () => Promise<SystemResolver>
  /** The search paths of the policy. */
  readonly search: readonly string[]
  readonly clock: Clock
  readonly random: () => number
  readonly counts: Counts
}

const TIMEOUT_MS = 2_000 // a resolver next door answers in milliseconds; below the failfast of a request (3 s)
const NEGATIVE_MS_MAX = 30_000 // somebody waits for the service that they are about to deploy
const PAUSE = { minMs: 500, maxMs: 30_000 } // after a failure

/** DNS, as this host does it. Answers are asked for again when their TTL ends, as long as anybody wants to know. */
export const dnsSource = (settings: DnsSettings, world: DnsSourceWorld): Source => {
  const askings = new Set<Asking>()
  return {
    kind: 'dns',
    ask: (question, changed) => {
      const asking = keepAsking(question, settings, world, changed)
      askings.add(asking)
      return {
        ...asking,
        stop: () => {
          askings.delete(asking)
          asking.stop()
        },
      }
    },
    close: () => {
      for (const { stop } of askings) stop()
    },
  }
}

const keepAsking = (
  question: Question,
  settings: DnsSettings,
  { lookup, system, search, clock, random, counts }: DnsSourceWorld,
  changed: (answer: Answer) => void,
): Asking => {
  let standing: Standing = {}
  let last: Answer | undefined
  let failures = 0
  let cancel = (): void => {}
  let isStopped = false
  const negative = new Map<string, { readonly is: 'noName' | 'noData'; readonly until: number }>()

  const say = (answer: Answer): void => {
    const isNews = last === undefined || sameWords(answer) !== sameWords(last)
    last = answer
    if (isNews) changed(answer)
  }

  const again = (ms: number): void => {
    standing = { ...standing, refreshAt: clock.now() + ms }
    cancel = clock.after(ms, () => void round())
  }

  const round = async (): Promise<void> => {
    standing = { ...standing, refreshAt: undefined }
    const host = await system()
    if (isStopped) return
    const found = await once(question, host)
    if (isStopped) return
    if (found.is === 'failed') {
      failures++
      counts.looked('dns', 'failed')
      standing = { error: found.error, staleSince: last && (standing.staleSince ?? clock.now()) }
      again(backoffMs(failures, PAUSE, random))
      if (last?.is === 'endpoints') say({ ...last, isStale: true })
      return
    }
    failures = 0
    const { answer } = found
    counts.looked('dns', answer.is === 'absent' ? 'absent' : answer.endpoints.length === 0 ? 'empty' : 'endpoints')
    standing = {}
    again(found.ms)
    say(answer)
  }

  /**
   * Each name in turn, until one has an address. A name that cannot be looked up ends it: the next may be the wrong one.
   * Only one that is refused is passed over: it will be refused tomorrow as well.
   */
  const once = async (
    { host, port, forbidden }: Question,
    { conf, hosts, order, families }: SystemResolver,
  ): Promise<
    { readonly is: 'answered'; readonly answer: Answer; readonly ms: number } | (Lookup & { is: 'failed' })
  > => {
    const how = howToAsk(settings, conf, families)
    const source = `dns ${how.servers.map(formatAddress).join(', ')}`
    const names = dnsNames(host, search, conf).filter((name) => !forbidden.has(name))
    const ways = settings.hosts ? order : (['dns'] as const)
    let empty: string | undefined
    let refused: (Lookup & { is: 'failed' }) | undefined
    let ms = Math.min(NEGATIVE_MS_MAX, settings.maxTtl)
    for (const way of ways) {
      if (way === 'files') {
        const name = names.find((each) => addressesIn(hosts, each, how.types).length > 0)
        if (name === undefined) {
          ms = Math.min(ms, SYSTEM_MS)
          continue
        }
        const endpoints = addressesIn(hosts, name, how.types).map((each) => ({
          address: { host: each, port },
          weight: 1,
          labels: {},
        }))
        const answer = { is: 'endpoints', name, source: 'dns /etc/hosts', endpoints, isStale: false } as const
        return { is: 'answered', answer, ms: SYSTEM_MS }
      }
      for (const name of names) {
        const known = negative.get(name)
        const isKnown = known !== undefined && known.until > clock.now()
        const found = isKnown ? { ...known, ttl: (known.until - clock.now()) / 1000 } : await lookup(name, port, how)
        if (found.is === 'failed' && !found.isRefused) return found
        if (found.is === 'failed') {
          refused ??= found
          continue
        }
        const kept = Math.max(settings.minTtl, Math.min(settings.maxTtl, found.ttl * 1000))
        if (found.is === 'endpoints') {
          const { endpoints } = found
          return { is: 'answered', answer: { is: 'endpoints', name, source, endpoints, isStale: false }, ms: kept }
        }
        const forMs = Math.min(kept, NEGATIVE_MS_MAX)
        if (!isKnown) negative.set(name, { is: found.is, until: clock.now() + forMs })
        ms = Math.min(ms, forMs)
        if (found.is === 'noData') empty ??= name
      }
    }
    if (refused !== undefined) return refused
    if (empty !== undefined)
      return { is: 'answered', answer: { is: 'endpoints', name: empty, source, endpoints: [], isStale: false }, ms }
    return { is: 'answered', answer: { is: 'absent', source, tried: names, forbidden: [] }, ms }
  }

  void round()
  return {
    stop: () => {
      isStopped = true
      cancel()
    },
    standing: () => standing,
  }
}

const sameWords = (answer: Answer): string =>
  answer.is === 'absent'
    ? JSON.stringify(answer)
    : // Servers shuffle the records of a set, which is no news.
      JSON.stringify(
        [answer, answer.endpoints.map((it) => `${it.address.host} ${it.address.port} ${it.weight}`).sort()],
        (key, value) => (key === 'endpoints' ? undefined : value),
      )

const addressesIn = (hosts: SystemResolver['hosts'], name: string, types: Lookups['types']): string[] =>
  (hosts.get(name.slice(0, -1)) ?? []).filter((address) => types.includes(address.includes(':') ? 'AAAA' : 'A'))

/** Who is asked for what: the policy, what it leaves open the host, and what that leaves open our defaults. */
export const howToAsk = (
  { servers, timeout, family, srv }: DnsSettings,
  conf: SystemResolver['conf'],
  families: SystemResolver['families'],
): Lookups => {
  const ipv4 = family === 'ipv4' || family === 'both' || (family === 'auto' && families.ipv4)
  const ipv6 = family === 'ipv6' || family === 'both' || (family === 'auto' && families.ipv6)
  return {
    servers: servers ?? conf.servers.map((host) => ({ host, port: 53 })),
    timeoutMs: timeout ?? conf.timeoutMs ?? TIMEOUT_MS,
    attempts: conf.attempts,
    rotate: conf.rotate && servers === undefined,
    useTcp: conf.useTcp,
    types: [...(ipv4 ? (['A'] as const) : []), ...(ipv6 ? (['AAAA'] as const) : [])],
    srv,
  }
}
