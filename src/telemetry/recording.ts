import type { Duplex } from 'node:stream'
import { pcapngDropped, pcapngHead, pcapngPacket, pcapngSecrets } from '../codec/pcapngWrite.ts'
import { type TcpFrames, tcpFrames } from '../codec/tcpFrames.ts'
import type { Clock } from '../net/clock.ts'
import type { Connection } from '../net/connection.ts'
import { watchedStream } from '../net/watchedStream.ts'
import { passes } from './filter.ts'
import type { Ledger } from './ledger.ts'
import type { Life } from './life.ts'
import type { Outcome, RequestOutcome } from './outcome.ts'
import { outcomeText, requestText } from './outcomeText.ts'

const HELD_BYTES_MAX = 262_144 // of one connection until it is known to match: enough for heads, and what is behind them
const HELD_BYTES_TOTAL_MAX = 16_777_216 // of all such connections of one recording

/** What is wanted of a recording, and where it goes. */
export interface RecordingOptions {
  /** As for the tap: see FILTERS. */
  readonly wanted: Readonly<Record<string, string>>
  /** How many connections; then it is over. */
  readonly limit: number
  /** Takes bytes of the file; false: no more until `resumed`. */
  readonly write: (bytes: Buffer) => boolean
  /** Nothing more will come. */
  readonly over: () => void
  readonly application: string
}

/** A recording under way. */
export interface Recording {
  /** It can be written again; the file says how much is missing. */
  readonly resumed: () => void
  readonly stop: () => void
  readonly dropped: () => number
}

/** Records connections as packets, while somebody wants it. */
export interface Recorder {
  /** While it is, connections must pass through Node. */
  readonly isOn: () => boolean
  /** The stream to go on with: the connection's own, unless somebody records. */
  readonly watch: (connection: Connection, life: Life) => Duplex
  readonly record: (options: RecordingOptions) => Recording
  /** Packets that recordings lost so far, because whoever wrote them was slow or too much was held. */
  readonly dropped: () => number
}

/** `secrets`: hears the lines of the TLS key log, where the policy has one. `began`: told before the first one counts. */
export const createRecorder = (
  ledger: Ledger,
  clock: Clock,
  began: () => void,
  secrets?: (hear: (line: Buffer) => void) => () => void,
): Recorder => {
  const tracks = new Set<Track>()
  let lost = 0
  return {
    isOn: () => tracks.size > 0,
    dropped: () => [...tracks].reduce((sum, { dropped }) => sum + dropped, lost),
    watch: (connection, life) => {
      const tapes = [...tracks].flatMap((track) => track.tape(life) ?? [])
      if (tapes.length === 0) return connection.stream
      const each = (tell: (tape: Tape) => void) => () => tapes.forEach(tell)
      return watchedStream(connection.stream, {
        heard: (bytes) => each((tape) => tape.data('client', bytes))(),
        said: (bytes) => each((tape) => tape.data('server', bytes))(),
        peerEnded: each((tape) => tape.end('client')),
        weEnded: each((tape) => tape.end('server')),
      })
    },
    record: (options) => {
      const track = new Track(options, clock)
      if (tracks.size === 0) began()
      tracks.add(track)
      const stops = [
        ledger.subscribe((outcome) => track.ended(outcome)),
        ledger.subscribeRequests((request, life) => track.requested(request, life)),
        secrets?.((line) => track.write(pcapngSecrets(line))),
      ]
      return {
        resumed: () => track.resumed(),
        dropped: () => track.dropped,
        stop: () => {
          if (tracks.delete(track)) lost += track.dropped
          for (const stop of stops) stop?.()
        },
      }
    },
  }
}

/** Filters whose answer does not change once there is a connection, or once it is known what it speaks. */
const AT_ONCE: ReadonlySet<string> = new Set(['direction', 'peer', 'destination'])
const DETECTED: ReadonlySet<string> = new Set([...AT_ONCE, 'protocol', 'rule'])

/** One recording: its file, and a tape for each connection that may belong to it. */
class Track {
  readonly options: RecordingOptions
  readonly #clock: Clock
  readonly #tapes = new Map<string, Tape>()
  readonly matchesWhen: 'atOnce' | 'detected' | 'ended'
  #isFull = false
  #taken = 0
  heldBytes = 0
  dropped = 0

  constructor(options: RecordingOptions, clock: Clock) {
    this.options = options
    this.#clock = clock
    const names = Object.keys(options.wanted)
    this.matchesWhen = names.every((it) => AT_ONCE.has(it))
      ? 'atOnce'
      : names.every((it) => DETECTED.has(it))
        ? 'detected'
        : 'ended'
    this.#isFull = !options.write(pcapngHead(options.application, 'sluice'))
  }

  /** A tape for a connection that begins, if it can be one of those wanted. */
  tape(life: Life): Tape | undefined {
    const { wanted, limit } = this.options
    const early = Object.fromEntries(Object.entries(wanted).filter(([name]) => AT_ONCE.has(name)))
    if (this.#taken >= limit || !passes(filterable(life), early)) return undefined
    const tape = new Tape(this, life, this.#clock)
    this.#tapes.set(life.id, tape)
    return tape
  }

  /** Takes one more connection into the file, unless there are enough. */
  take(): boolean {
    if (this.#taken >= this.options.limit) return false
    this.#taken++
    return true
  }

  requested(request: RequestOutcome, life: Life) {
    const tape = this.#tapes.get(life.id)
    if (tape === undefined) return
    tape.note(requestText(request, life))
    if (passes({ ...filterable(life), request }, this.options.wanted)) tape.matched()
  }

  ended(outcome: Outcome) {
    const tape = this.#tapes.get(outcome.id)
    if (tape === undefined) return
    this.#tapes.delete(outcome.id)
    if (passes({ outcome }, this.options.wanted)) tape.matched()
    tape.over(outcome)
    if (this.#taken < this.options.limit) return
    for (const other of this.#tapes.values()) if (other.isMatched) return
    this.options.over()
  }

  write(bytes: Buffer) {
    if (this.#isFull) this.dropped++
    else this.#isFull = !this.options.write(bytes)
  }

  resumed() {
    this.#isFull = false
    if (this.dropped > 0) this.write(pcapngDropped(this.#clock.time(), this.dropped))
  }
}

const filterable = (life: Life) => ({ outcome: { ...life.facts(), result: 'forwarded' as const } })

/** The packets of one connection: held back until it is known that they are wanted. */
class Tape {
  readonly #track: Track
  readonly #life: Life
  readonly #clock: Clock
  readonly #frames: TcpFrames
  readonly #hasEnded = { client: false, server: false }
  #held: Buffer[] = []
  #heldBytes = 0
  #comment: string | undefined
  isMatched = false
  #isUnwanted = false

  constructor(track: Track, life: Life, clock: Clock) {
    this.#track = track
    this.#life = life
    this.#clock = clock
    this.#frames = tcpFrames(life.peer, life.destination)
    if (track.matchesWhen === 'atOnce') this.matched()
    this.#add(this.#frames.open())
  }

  data(from: 'client' | 'server', bytes: Buffer) {
    const { matchesWhen, options } = this.#track
    if (!this.isMatched && matchesWhen === 'detected' && passes(filterable(this.#life), options.wanted)) this.matched()
    this.#add(this.#frames.data(from, bytes))
  }

  end(from: 'client' | 'server') {
    if (this.#hasEnded[from]) return
    this.#hasEnded[from] = true
    this.#add([this.#frames.end(from)])
  }

  /** Goes with the next packet. */
  note(comment: string) {
    this.#comment = this.#comment === undefined ? comment : `${this.#comment}\n${comment}`
  }

  /** It is wanted: what was held goes into the file. */
  matched() {
    if (this.isMatched || this.#isUnwanted) return
    if (!this.#track.take()) {
      this.#isUnwanted = true
      return this.#letGo()
    }
    this.isMatched = true
    for (const bytes of this.#held) this.#track.write(bytes)
    this.#letGo()
  }

  /** The connection has ended: what is left of it, with the words of its Outcome. */
  over(outcome: Outcome) {
    this.note(outcomeText(outcome))
    const { client, server } = this.#hasEnded
    const breaker = outcome.ended === 'clientReset' || outcome.ended === 'clientGone' ? 'client' : 'server'
    this.#add([client && server ? this.#frames.nothing('client') : this.#frames.reset(breaker)])
    this.#letGo()
  }

  #add(packets: readonly Buffer[]) {
    if (this.#isUnwanted) return
    const { started, startedAt } = this.#life
    const at = startedAt + (this.#clock.now() - started)
    for (const packet of packets) {
      const bytes = pcapngPacket(at, packet, this.#comment)
      this.#comment = undefined
      if (this.isMatched) this.#track.write(bytes)
      else this.#hold(bytes)
    }
  }

  #hold(bytes: Buffer) {
    const { length } = bytes
    if (this.#heldBytes + length > HELD_BYTES_MAX || this.#track.heldBytes + length > HELD_BYTES_TOTAL_MAX) {
      this.#track.dropped++
      return
    }
    this.#held.push(bytes)
    this.#heldBytes += length
    this.#track.heldBytes += length
  }

  #letGo() {
    this.#track.heldBytes -= this.#heldBytes
    this.#heldBytes = 0
    this.#held = []
  }
}
