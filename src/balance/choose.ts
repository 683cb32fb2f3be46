import { formatAddress } from '../net/address.ts'
import { type HashRing, hashRing, ownersFrom } from './hashRing.ts'
import { cost } from './latency.ts'
import { isEjected, isReady, type Member } from './member.ts'
import type { BalanceSettings } from './settings.ts'

/**
 * Those who may be chosen, in classes of equal weight. The weights choose the class, exactly; within it the algorithm
 * compares like with like. So 90:10 is 90:10 whatever the latencies, and endpoints of one weight get what they can bear.
 */
export interface Candidates {
  readonly all: readonly Member[]
  readonly classes: readonly { readonly members: readonly Member[]; readonly upTo: number }[]
  readonly total: number
  /** With `hash`: everybody, ready or not, so that whoever returns finds his keys; and who of them may be chosen. */
  readonly ring?: HashRing
  readonly onRing?: readonly Member[]
  readonly able?: ReadonlySet<Member>
}

/** Who may be chosen now. To be asked again whenever the set or a circuit has changed. */
export const candidatesOf = (members: Iterable<Member>, settings: BalanceSettings): Candidates => {
  const every = [...members]
  const weighing = every.some(({ endpoint }) => endpoint.weight > 0)
  const wanted = weighing ? every.filter(({ endpoint }) => endpoint.weight > 0) : every
  const ready = wanted.filter(isReady)
  // Never the last ones: before nobody is asked, those are who have answered badly.
  const able = ready.length > 0 ? ready : wanted.filter((it) => isEjected(it) && !isTaken(it))
  const near = inZone(able, wanted, settings)
  if (settings.algorithm !== 'hash') return classified(near)
  return { ...classified(near), ring: hashRing(wanted.map(standing)), onRing: wanted, able: new Set(near) }
}

const isTaken = ({ circuit }: Member): boolean => circuit.is === 'probing' && circuit.isTaken

const standing = ({ endpoint }: Member) => ({ name: formatAddress(endpoint.address), weight: endpoint.weight || 1 })

const inZone = (able: readonly Member[], wanted: readonly Member[], { zone, zoneMinPercent }: BalanceSettings) => {
  if (zone === undefined) return able
  const isNear = ({ endpoint }: Member) => endpoint.zone === zone
  const near = able.filter(isNear)
  const isEnough = near.length > 0 && near.length * 100 >= zoneMinPercent * wanted.filter(isNear).length
  return isEnough ? near : able
}

const classified = (all: readonly Member[]): Pick<Candidates, 'all' | 'classes' | 'total'> => {
  const byWeight = new Map<number, Member[]>()
  for (const member of all) {
    const { weight } = member.endpoint
    const found = byWeight.get(weight)
    if (found === undefined) byWeight.set(weight, [member])
    else found.push(member)
  }
  let total = 0
  const classes = [...byWeight].map(([weight, members]) => {
    total += (weight || 1) * members.length
    return { members, upTo: total }
  })
  return { all, classes, total }
}

/** What of a request matters to the choice. */
export interface Wish {
  /** With `hash`: of what makes requests go to the same endpoint. */
  readonly hash: number | undefined
  /** Those who were tried before: others are better. */
  readonly tried: readonly Member[]
}

/** One of them that has room; undefined where nobody has. */
export const choose = (
  among: Candidates,
  { hash, tried }: Wish,
  settings: BalanceSettings,
  now: number,
  random: () => number,
): Member | undefined => {
  if (among.all.length === 0) return undefined
  if (among.ring !== undefined) {
    const kept = byHash(among, hash ?? Math.floor(random() * 2 ** 32), tried, settings)
    if (kept !== undefined) return kept
  }
  const found = choosers[settings.algorithm](among, settings, now, random)
  if (hasRoom(found, settings) && !tried.includes(found)) return found
  // Seldom: it is full, or was tried before. Then whoever is left counts, and at last those tried before.
  const free = among.all.filter((it) => hasRoom(it, settings))
  const fresh = free.filter((it) => !tried.includes(it))
  const left = fresh.length > 0 ? fresh : free
  if (left.length === 0) return undefined
  return choosers[settings.algorithm]({ ...among, ...classified(left) }, settings, now, random)
}

const hasRoom = (member: Member, { inFlightMax }: BalanceSettings): boolean => member.inFlight < inFlightMax

const byHash = (
  { ring, onRing, able }: Candidates,
  hash: number,
  tried: Wish['tried'],
  settings: BalanceSettings,
): Member | undefined => {
  for (const owner of ownersFrom(ring!, hash)) {
    const member = onRing![owner]!
    if (able!.has(member) && hasRoom(member, settings) && !tried.includes(member)) return member
  }
  return undefined
}

type Chooser = (among: Candidates, settings: BalanceSettings, now: number, random: () => number) => Member

const classOf = ({ classes, total }: Candidates, random: () => number): readonly Member[] => {
  if (classes.length === 1) return classes[0]!.members
  const at = random() * total
  return (classes.find(({ upTo }) => at < upTo) ?? classes[classes.length - 1]!).members
}

const p2c: Chooser = (among, { decayMs }, now, random) => {
  const members = classOf(among, random)
  if (members.length === 1) return members[0]!
  const first = Math.floor(random() * members.length)
  const other = (first + 1 + Math.floor(random() * (members.length - 1))) % members.length
  const [a, b] = [members[first]!, members[other]!]
  return cost(b.latency, b.inFlight, now, decayMs) < cost(a.latency, a.inFlight, now, decayMs) ? b : a
}

/** Whoever has the least to do; among equals chance, or the first of the list would get all of a quiet time. */
const leastRequest: Chooser = (among, _settings, _now, random) => {
  const members = classOf(among, random)
  const from = Math.floor(random() * members.length)
  let best = members[from]!
  for (let i = 1; i < members.length; i++) {
    const next = members[(from + i) % members.length]!
    if (next.inFlight < best.inFlight) best = next
  }
  return best
}

/** Smooth weighted round robin, as nginx has it: in turn, and a weight of three comes every third turn, not thrice in a row. */
const roundRobin: Chooser = ({ all }) => {
  let total = 0
  let best = all[0]!
  for (const member of all) {
    const weight = member.endpoint.weight || 1
    total += weight
    member.credit += weight
    if (member.credit > best.credit) best = member
  }
  best.credit -= total
  return best
}

const choosers: Record<BalanceSettings['algorithm'], Chooser> = { p2c, roundRobin, leastRequest, hash: p2c }
