import type { Address } from '../net/address.ts'
import type { Packet } from './capture.ts'
import { type Budget, type Half, half } from './half.ts'
import { ipText } from './ipText.ts'
import { ACK, FIN, RST, type Segment, SYN, segmentReader } from './segment.ts'

export type Side = 'client' | 'server'

/** One TCP connection of a capture. */
export interface Flow {
  readonly client: Address
  readonly server: Address
  /** Milliseconds since 1970, of its first packet. */
  readonly startedAt: number
}

/**
 * What a capture does not show of a flow: its SYN, a stretch of bytes in the middle, one of its two sides, its end.
 */
export type Missing = 'start' | 'bytes' | 'side' | 'end'

/** What happened, in the order in which it happened. `time` is the capture's. */
export type ConversationEvent = { readonly flow: Flow; readonly time: number } & (
  | { readonly is: 'opened' }
  | { readonly is: 'data'; readonly from: Side; readonly bytes: Uint8Array }
  | { readonly is: 'ended'; readonly from: Side }
  | { readonly is: 'reset'; readonly from: Side }
  /** The last event of a flow. */
  | { readonly is: 'closed'; readonly missing: readonly Missing[] }
)

export const FLOWS_MAX = 8_192 // followed at the same time; one that was silent for long makes room

const HELD_BYTES_MAX = 33_554_432 // out of order, all flows together

interface Key {
  readonly key: string
  readonly forward: boolean
}

interface Entry {
  readonly flow: Flow
  /** Which of the two orders of the key's endpoints is client to server. */
  readonly clientFirst: boolean
  readonly client: Half
  readonly server: Half
  readonly missing: Set<Missing>
  state: 'calling' | 'open' | 'over'
  /** Heard of since room was last made. */
  isFresh: boolean
  readonly heard: Set<Side>
  lastTime: number
}

/**
 * Puts the TCP connections of a capture together: retransmits, packets out of order, overlaps (the first bytes count),
 * sequence numbers that wrap. A call that nobody answers is no conversation. Memory is bounded by FLOWS_MAX and by what
 * each half holds out of order.
 */
export const conversationReader = (): { push(packet: Packet): ConversationEvent[]; end(): ConversationEvent[] } => {
  const segmentOf = segmentReader()
  const entries = new Map<string, Entry>()
  const budget: Budget = { left: HELD_BYTES_MAX }

  const entryOf = (segment: Segment, { key, forward }: Key, events: ConversationEvent[]): Entry => {
    const known = entries.get(key)
    if (known !== undefined && !startsAnew(known, segment, forward)) {
      known.isFresh = true
      return known
    }
    if (known !== undefined) close(known, events)
    else if (entries.size >= FLOWS_MAX) makeRoom(events)
    const entry = entryFor(segment, forward, budget)
    entries.set(key, entry)
    return entry
  }
  /** Drops a flow that has been silent for a whole round: cheaper for each packet than to keep them in order. */
  const makeRoom = (events: ConversationEvent[]): void => {
    for (const [key, entry] of entries) {
      entries.delete(key)
      if (!entry.isFresh) {
        close(entry, events)
        return
      }
      entry.isFresh = false
      entries.set(key, entry)
    }
  }

  return {
    push(packet) {
      const segment = segmentOf(packet)
      if (segment === undefined) return []
      const events: ConversationEvent[] = []
      const key = keyOf(segment)
      const entry = entryOf(segment, key, events)
      if (entry.state !== 'over') follow(entry, segment, key.forward, events)
      return events
    },
    end() {
      const events: ConversationEvent[] = []
      for (const entry of entries.values()) close(entry, events)
      entries.clear()
      return events
    },
  }
}

/** Whether a SYN begins a new connection between the same ports. A SYN sent again, or one that crosses, does not. */
const startsAnew = (entry: Entry, segment: Segment, forward: boolean): boolean => {
  if ((segment.flags & (SYN | ACK)) !== SYN) return false
  if (entry.state === 'over') return true
  const half = forward === entry.clientFirst ? entry.client : entry.server
  return half.start !== undefined && half.start !== segment.sequence
}

const entryFor = (segment: Segment, forward: boolean, budget: Budget): Entry => {
  const bySource = { host: ipText(segment.source), port: segment.sourcePort }
  const byDestination = { host: ipText(segment.destination), port: segment.destinationPort }
  const fromClient = comesFromClient(segment)
  const [client, server] = fromClient ? [bySource, byDestination] : [byDestination, bySource]
  return {
    flow: { client, server, startedAt: segment.time },
    clientFirst: forward === fromClient,
    client: half(budget),
    server: half(budget),
    missing: new Set((segment.flags & (SYN | ACK)) === SYN ? [] : ['start']),
    state: 'calling',
    isFresh: false,
    heard: new Set(),
    lastTime: segment.time,
  }
}

/** Whoever calls sends SYN. Where that is not in the capture, the higher port is the caller's: servers have low ones. */
const comesFromClient = ({ flags, sourcePort, destinationPort }: Segment): boolean =>
  (flags & SYN) !== 0 ? (flags & ACK) === 0 : sourcePort >= destinationPort

const follow = (entry: Entry, segment: Segment, forward: boolean, events: ConversationEvent[]): void => {
  const { flow } = entry
  const time = Math.max(segment.time, entry.lastTime)
  entry.lastTime = time
  const [from, to]: [Side, Side] = forward === entry.clientFirst ? ['client', 'server'] : ['server', 'client']
  entry.heard.add(from)
  const [syn, isReset] = [(segment.flags & SYN) !== 0, (segment.flags & RST) !== 0]
  if (isReset) {
    // A call that is refused is no conversation. Should bytes follow all the same, it begins with them.
    if (entry.state === 'calling') entry.missing.add('start')
    if (entry.state === 'calling' || !entry[from].accepts(segment.sequence)) return
    events.push({ is: 'reset', flow, time, from })
    close(entry, events, true)
    return
  }
  const confirmed = (segment.flags & ACK) !== 0 ? entry[to].acknowledged(segment.acknowledgement) : []
  const { chunks, ended } = entry[from].take(segment, (segment.flags & FIN) !== 0, syn)
  const answers = from === 'client' && !syn && !entry.missing.has('start')
  if (entry.state === 'calling' && (answers || confirmed.length > 0 || chunks.length > 0)) {
    entry.state = 'open'
    events.push({ is: 'opened', flow, time })
  }
  for (const bytes of confirmed) events.push({ is: 'data', flow, time, from: to, bytes })
  for (const bytes of chunks) events.push({ is: 'data', flow, time, from, bytes })
  if (ended && entry.state === 'open') events.push({ is: 'ended', flow, time, from })
  if (entry.client.over && entry.server.over) close(entry, events, true)
}

const close = (entry: Entry, events: ConversationEvent[], ended = false): void => {
  const { flow, missing, client, server, lastTime: time } = entry
  if (entry.state === 'calling' && client.unanswered !== undefined && !entry.heard.has('server')) {
    // Only the caller's packets are here, and it put its words into the SYN.
    entry.state = 'open'
    events.push({ is: 'opened', flow, time }, { is: 'data', flow, time, from: 'client', bytes: client.unanswered })
  }
  if (entry.state === 'open') {
    // Of a side that was not captured at all, it says nothing new that its bytes are missing too.
    if ([...entry.heard].some((side) => entry[side].hasGap)) missing.add('bytes')
    if (entry.heard.size < 2) missing.add('side')
    if (!ended) missing.add('end')
    events.push({ is: 'closed', flow, time, missing: [...missing] })
  }
  entry.state = 'over'
  client.drop()
  server.drop()
}

/** The same key for both directions, and which of the two this is. */
const keyOf = ({ source, sourcePort, destination, destinationPort }: Segment): Key => {
  const [a, b] = [`${latin1(source)}${sourcePort}`, `${latin1(destination)}${destinationPort}`]
  return a <= b ? { key: `${a} ${b}`, forward: true } : { key: `${b} ${a}`, forward: false }
}

const latin1 = (bytes: Uint8Array): string => String.fromCharCode(...bytes)
