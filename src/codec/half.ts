import type { Segment } from './segment.ts'

const HELD_BYTES_MAX = 1_048_576 // out of order, one direction: a window of 1 MiB, as Linux opens it by default
const PIECES_MAX = 1_024
const WINDOW_MAX = 2 ** 30 // RFC 7323 section 2.3: what is farther away belongs to nothing

/** Bytes that all halves together may still hold out of order. */
export interface Budget {
  left: number
}

interface Piece {
  readonly sequence: number
  readonly bytes: Uint8Array
}

/** One direction of a connection: segments in, bytes in order out. */
export interface Half {
  /** The sequence number of its SYN. */
  readonly start: number | undefined
  /** Its FIN has come, and everything before it. */
  readonly over: boolean
  /** Bytes are missing that were sent. */
  readonly hasGap: boolean
  /** What can be read in order now that this segment is here, and whether the end is. */
  take(
    segment: Segment,
    fin: boolean,
    syn: boolean,
  ): { readonly chunks: readonly Uint8Array[]; readonly ended: boolean }
  /** What the other side has acknowledged; returns bytes of a SYN (TCP fast open) that this confirms. */
  acknowledged(sequence: number): readonly Uint8Array[]
  /** The bytes of a SYN that nobody answered. */
  readonly unanswered: Uint8Array | undefined
  /** Whether a RST with this number is in the window, and not an old or an invented one (RFC 9293 section 3.5.3). */
  accepts(sequence: number): boolean
  /** Forgets what it holds. */
  drop(): void
}

const NOTHING = { chunks: [], ended: false } as const

/** A half that has seen nothing yet. Of bytes that come twice, those count that came first. */
export const half = (budget: Budget): Half => {
  let start: number | undefined
  let next: number | undefined
  let finAt: number | undefined
  let inSyn: Uint8Array | undefined
  let farthestAck: number | undefined
  let over = false
  let isCut = false
  let held = 0
  let pieces: Piece[] = []

  const hold = (sequence: number, bytes: Uint8Array): void => {
    for (const piece of uncovered({ sequence, bytes }, pieces)) {
      if (
        held + piece.bytes.length > HELD_BYTES_MAX ||
        piece.bytes.length > budget.left ||
        pieces.length === PIECES_MAX
      ) {
        isCut = true
        drop()
        return
      }
      held += piece.bytes.length
      budget.left -= piece.bytes.length
      pieces.push({ sequence: piece.sequence, bytes: Uint8Array.from(piece.bytes) })
    }
  }
  const drop = (): void => {
    budget.left += held
    held = 0
    pieces = []
    inSyn = undefined
  }
  /** The piece that continues where the last one ended, if it has come. */
  const following = (): Uint8Array | undefined => {
    const at = pieces.findIndex(({ sequence }) => distance(next!, sequence) <= 0)
    if (at < 0) return undefined
    const [{ sequence, bytes }] = pieces.splice(at, 1) as [Piece]
    held -= bytes.length
    budget.left += bytes.length
    return unseen(sequence, bytes)
  }
  /** What of these bytes is new, given that they begin at or before `next`; moves `next` behind them. */
  const unseen = (sequence: number, bytes: Uint8Array): Uint8Array => {
    const fresh = bytes.subarray(Math.min(bytes.length, distance(sequence, next!)))
    next = (next! + fresh.length) >>> 0
    return fresh
  }
  const began = (segment: Segment): typeof NOTHING => {
    start ??= segment.sequence
    next ??= (start + 1) >>> 0
    if (segment.payload.length > 0 && next === (start + 1) >>> 0) inSyn = Uint8Array.from(segment.payload)
    return NOTHING
  }
  /** The bytes of the SYN, when a later number shows that they were taken. */
  const confirmed = (sequence: number): readonly Uint8Array[] => {
    if (inSyn === undefined || start === undefined) return []
    const bytes = inSyn
    inSyn = undefined
    return distance((start + 1) >>> 0, sequence) > 0 ? [unseen((start + 1) >>> 0, bytes)] : []
  }

  return {
    get start() {
      return start
    },
    get over() {
      return over
    },
    get unanswered() {
      return inSyn
    },
    get hasGap() {
      const unread = farthestAck !== undefined && next !== undefined && distance(next, farthestAck) > 1
      return isCut || pieces.length > 0 || unread || (finAt !== undefined && !over)
    },
    take(segment, fin, syn) {
      if (syn) return began(segment)
      const { sequence, payload } = segment
      next ??= sequence
      const chunks = [...confirmed(sequence)]
      if (fin) finAt ??= (sequence + segment.length) >>> 0
      if (isCut || over) return NOTHING
      const ahead = distance(next, sequence)
      if (payload.length > 0 && Math.abs(ahead) < WINDOW_MAX) {
        if (ahead <= 0 && pieces.length === 0) chunks.push(unseen(sequence, payload))
        else if (distance(next, sequence + payload.length) > 0) hold(sequence, payload)
        for (let bytes = following(); bytes !== undefined; bytes = following()) chunks.push(bytes)
      }
      const ended = next === finAt
      over = ended
      return { chunks: chunks.filter(({ length }) => length > 0), ended }
    },
    acknowledged(sequence) {
      next ??= sequence
      if (farthestAck === undefined || distance(farthestAck, sequence) > 0) farthestAck = sequence
      return confirmed(sequence)
    },
    accepts: (sequence) =>
      next === undefined || (distance(next, sequence) >= 0 && distance(next, sequence) < WINDOW_MAX),
    drop,
  }
}

/** How far `to` is ahead of `from`, modulo 2^32 (RFC 9293 section 3.4): negative when it is behind. */
const distance = (from: number, to: number): number => (to - from) | 0

/** The parts of a piece that no other covers. */
const uncovered = (piece: Piece, others: readonly Piece[]): Piece[] => {
  let parts = [piece]
  for (const { sequence, bytes } of others) {
    parts = parts.flatMap((part) => {
      const from = distance(part.sequence, sequence)
      const to = from + bytes.length
      if (to <= 0 || from >= part.bytes.length) return [part]
      const rest: Piece[] = []
      if (from > 0) rest.push({ sequence: part.sequence, bytes: part.bytes.subarray(0, from) })
      if (to < part.bytes.length) rest.push({ sequence: (part.sequence + to) >>> 0, bytes: part.bytes.subarray(to) })
      return rest
    })
  }
  return parts
}
