import { Duplex } from 'node:stream'
import type { Packet } from '../codec/capture.ts'
import {
  type ConversationEvent,
  conversationReader,
  type Flow,
  type Missing,
  type Side,
} from '../codec/conversation.ts'
import { type Decrypted, decryptClient, type Secrets } from '../codec/tlsDecrypt.ts'
import { speaksFirst } from '../detect/detect.ts'
import { createHttpState } from '../forward/httpState.ts'
import { codedError } from '../net/codedError.ts'
import type { Dial, Direction } from '../net/connection.ts'
import type { Policy } from '../policy/policy.ts'
import { serve } from '../proxy.ts'
import { createLedger } from '../telemetry/ledger.ts'
import type { Outcome } from '../telemetry/outcome.ts'
import { type VirtualClock, virtualClock } from './virtualClock.ts'

/** One conversation of a capture, and what Sluice would have made of it. */
export interface Replayed {
  readonly flow: Flow
  readonly outcome: Outcome
  readonly missing: readonly Missing[]
  /** What the client said inside TLS, where a key log was given. */
  readonly decrypted?: Decrypted | undefined
}

export interface ReplayOptions {
  readonly policy: Policy
  readonly directionOf: (flow: Flow) => Direction
  /** Of a key log: opens the TLS that Sluice would have passed through. */
  readonly secrets?: Secrets | undefined
}

const WAITS_MAX = 32 // timers that one wait may run: detection and dialling have three
const TURNS_MAX = 8 // of the event loop, until an end has gone through: one for each stream that is inside another
const SEALED_BYTES_MAX = 65_536 // of either side: a handshake with long chains, and the first request behind it
const TLS_HANDSHAKE = 22
const UNHEARD_BYTES_MAX = 16_384 // of a server that was not told anything yet: several times what greetings take

/**
 * Replays captured conversations through `serve`, the same code as a live socket: each one is an accepted connection
 * whose Dial leads to the server side of the same capture. Time is the capture's, one clock for each conversation, so
 * that neither the others in the file nor the speed of this machine change what is decided.
 */
export const replay = (options: ReplayOptions): Replay => {
  const reader = conversationReader()
  const conversations = new Map<Flow, Conversation>()
  const hear = async (events: readonly ConversationEvent[]): Promise<Replayed[]> => {
    const done: Replayed[] = []
    for (const event of events) {
      if (event.is === 'opened') conversations.set(event.flow, await begin(event.flow, options))
      else await conversations.get(event.flow)?.hear(event)
      if (event.is !== 'closed') continue
      const conversation = conversations.get(event.flow)
      conversations.delete(event.flow)
      if (conversation)
        done.push({ ...event, outcome: await conversation.end(), decrypted: conversation.decrypted?.() })
    }
    return done
  }
  return { packet: (packet) => hear(reader.push(packet)), end: () => hear(reader.end()) }
}

/** Packets in, and each conversation once it is over. Wait for one call before the next: it bounds what is held. */
export interface Replay {
  readonly packet: (packet: Packet) => Promise<readonly Replayed[]>
  /** The capture is over: so are the conversations that were open. */
  readonly end: () => Promise<readonly Replayed[]>
}

interface Conversation {
  readonly hear: (event: ConversationEvent) => Promise<void>
  readonly end: () => Promise<Outcome>
  readonly decrypted: (() => Decrypted | undefined) | undefined
}

const begin = async (flow: Flow, { policy, directionOf, secrets }: ReplayOptions): Promise<Conversation> => {
  const clock = virtualClock(flow.startedAt)
  const ledger = createLedger(clock)
  const sides = { client: recorded(0), server: recorded(UNHEARD_BYTES_MAX) }
  let isDialled = false
  let outcome: Outcome | undefined
  let bug: unknown

  const dial: Dial = async () => {
    // Dialled once more, after a dial on which nothing was said: the server has not noticed.
    if (isDialled && !sides.server.again())
      throw codedError('ECONNREFUSED', 'the capture holds one connection to a server')
    isDialled = true
    return sides.server.stream
  }
  const direction = directionOf(flow)
  serve(
    { direction, peer: flow.client, destination: flow.server, stream: sides.client.stream, listener: 'replay' },
    {
      policy: () => policy,
      dial,
      clock,
      random: () => 0.5,
      ledger,
      isOwn: () => false,
      http: createHttpState(clock, () => 0.5),
    },
  ).then(
    (ended) => {
      outcome = ended
    },
    (error) => {
      bug = error
    },
  )
  const [life] = ledger.open
  const isOver = () => outcome !== undefined || bug !== undefined
  const isDecided = () => isOver() || life?.detected !== undefined
  const time = timeOf(clock)
  const sealed = secrets && sealedBytes(secrets)
  await turn()

  return {
    decrypted: sealed?.decrypted,
    async hear(event) {
      if (event.is === 'data') sealed?.keep(event.from, event.bytes)
      await time.goTo(event.time)
      if (isOver() || event.is === 'opened' || event.is === 'closed') return
      // What one side says may be an answer to what the other one said before. Whoever waits for that to arrive, in a
      // live connection, waits as long as Sluice holds it back; so the clock goes on until it does not.
      if (event.from === 'client' && sides.server.isAwaited) await time.goUntil(() => isDecided() || isDialled)
      if (event.from === 'server' && sides.client.spoke) await time.goUntil(isDecided)
      if (event.from === 'server' && !isDialled && sides.server.waiting > UNHEARD_BYTES_MAX) {
        await time.goUntil(() => isOver() || isDialled)
        if (!isDialled) return
      }
      sides[event.from].play(event)
      await turn()
    },
    async end() {
      const settle = async () => {
        for (let turns = 0; turns < TURNS_MAX && !isOver(); turns++) await turn()
        await time.goUntil(isOver)
      }
      for (const side of ['client', 'server'] satisfies Side[]) sides[side].finish()
      await settle()
      for (const side of ['client', 'server'] satisfies Side[]) sides[side].stream.destroy()
      await settle()
      if (outcome === undefined) throw bug ?? new Error('serve did not end when both sides were gone')
      return outcome
    },
  }
}

/** Keeps the beginning of what both sides say, if it is TLS, to be opened at the end. */
const sealedBytes = (secrets: Secrets) => {
  const kept: Record<Side, Buffer> = { client: Buffer.alloc(0), server: Buffer.alloc(0) }
  return {
    keep(from: Side, bytes: Uint8Array) {
      const room = SEALED_BYTES_MAX - kept[from].length
      if (room > 0) kept[from] = Buffer.concat([kept[from], bytes.subarray(0, room)])
    },
    decrypted: () => (kept.client[0] === TLS_HANDSHAKE ? decryptClient(kept.client, kept.server, secrets) : undefined),
  }
}

/** Lets everything run that can run without more time: all promises, then every event of the streams. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** Moves a clock, timer by timer, and lets each one's consequences happen before the next. */
const timeOf = (clock: VirtualClock) => {
  let behind = 0 // how far the capture's time is behind the clock's, which sometimes had to go on alone
  const runNext = async (until: number): Promise<boolean> => {
    const due = clock.next()
    if (due === undefined || due > until) return false
    clock.moveTo(due)
    await turn()
    return true
  }
  return {
    async goTo(captured: number): Promise<void> {
      const to = captured + behind
      while (await runNext(to)) {}
      clock.moveTo(to)
    },
    async goUntil(isSo: () => boolean): Promise<void> {
      const from = clock.now()
      for (let waits = 0; waits < WAITS_MAX && !isSo(); waits++) if (!(await runNext(Number.POSITIVE_INFINITY))) break
      behind += clock.now() - from
    },
  }
}

type Told = ConversationEvent & { readonly is: 'data' | 'ended' | 'reset' }

/** One side of a recorded connection as a stream: it says what it said, and takes whatever it is told. */
const recorded = (bytesMax: number) => {
  let isAwaited = false
  let finished = false
  let told = 0
  let said: Told[] = []
  const open = () => {
    const stream = new Duplex({
      read() {},
      write(chunk: Buffer, _encoding, done) {
        told += chunk.length
        said = []
        done()
      },
    })
    stream.on('error', () => {})
    return stream
  }
  const say = (event: Told) => {
    if (finished || stream.destroyed) return
    if (event.is === 'data') stream.push(Buffer.from(event.bytes))
    else if (event.is === 'ended') finish()
    else stream.destroy(codedError('ECONNRESET', 'read ECONNRESET'))
  }
  const remember = (event: Told) => {
    waiting += event.is === 'data' ? event.bytes.length : 0
    if (waiting > bytesMax) {
      said = []
      return
    }
    const bytes = event.is === 'data' ? Buffer.from(event.bytes) : undefined
    said.push(bytes === undefined ? event : ({ ...event, bytes } as Told))
  }
  const finish = () => {
    if (!finished && !stream.destroyed) stream.push(null)
    finished = true
  }
  let spoke = false
  let waiting = 0
  let stream = open()
  return {
    get stream() {
      return stream
    },
    get spoke() {
      return spoke
    },
    /** It began, and the other side listens first: only HTTP/2's settings are not waited for. */
    get isAwaited() {
      return isAwaited
    },
    /** Bytes that it has said to nobody who has said anything. */
    get waiting() {
      return waiting
    },
    finish,
    play(event: Told) {
      if (!spoke) isAwaited = event.is !== 'data' || speaksFirst(event.bytes).is === 'yes'
      spoke = true
      if (told === 0) remember(event)
      say(event)
    },
    /** Begins anew if the last stream was closed without a word: false if it was not. */
    again() {
      if (told > 0 || waiting > bytesMax || !stream.destroyed) return false
      finished = false
      stream = open()
      for (const event of said) say(event)
      return true
    },
  }
}
