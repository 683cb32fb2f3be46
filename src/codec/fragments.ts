/** A piece of an IP packet, with what tells which packet and which piece (RFC 791 section 3.2, RFC 8200 section 4.5). */
export interface Fragment extends Whole {
  readonly fragment: { readonly id: number; readonly offset: number; readonly more: boolean }
}

/** A whole one: the payload of an IP packet. */
export interface Whole {
  readonly protocol: number
  readonly source: Uint8Array
  readonly destination: Uint8Array
  readonly bytes: Uint8Array
  readonly length: number
}

const PACKETS_MAX = 64 // put together at the same time; the oldest makes room
const PIECES_MAX = 128 // 64 KiB in pieces of 512 bytes
const PACKET_BYTES_MAX = 65_535

interface Pieces {
  readonly pieces: { readonly offset: number; readonly bytes: Uint8Array }[]
  total: number | undefined
}

/** Puts fragments together in any order. Of bytes that come twice, the first count. */
export const fragments = (): ((fragment: Fragment) => Whole | undefined) => {
  const open = new Map<string, Pieces>()
  return (piece) => {
    const { fragment, bytes, source, destination, protocol } = piece
    if (bytes.length < piece.length || fragment.offset + bytes.length > PACKET_BYTES_MAX) return undefined
    const key = [fragment.id, protocol, ...source, ...destination].join('.')
    const found = open.get(key) ?? { pieces: [], total: undefined }
    if (found.pieces.length === PIECES_MAX) return undefined
    found.pieces.push({ offset: fragment.offset, bytes: Uint8Array.from(bytes) })
    if (!fragment.more) found.total = fragment.offset + bytes.length
    const payload = joined(found)
    if (payload !== undefined) {
      open.delete(key)
      return { protocol, source, destination, bytes: payload, length: payload.length }
    }
    if (!open.has(key) && open.size === PACKETS_MAX) open.delete(open.keys().next().value as string)
    open.set(key, found)
    return undefined
  }
}

const joined = ({ pieces, total }: Pieces): Uint8Array | undefined => {
  if (total === undefined) return undefined
  const payload = new Uint8Array(total)
  let end = 0
  // A stable sort keeps the first of two with the same offset in front.
  for (const { offset, bytes } of pieces.toSorted((a, b) => a.offset - b.offset)) {
    if (offset > end) return undefined
    const from = end - offset
    if (from >= bytes.length) continue
    payload.set(bytes.subarray(from, from + total - end), end)
    end = Math.min(total, offset + bytes.length)
  }
  return end === total ? payload : undefined
}
