/** Points of one of ordinary weight: enough that shares differ by a few percent, few enough to build at each change. */
const POINTS = 160
/** Beyond it each gets fewer. */
const POINTS_MAX = 65_536

/** What stands on the ring: its name, the same in every proxy, and its share. */
export interface Standing {
  readonly name: string
  readonly weight: number
}

/** A ring of hashes (ketama): who leaves it gives his keys to others, and no other key moves. */
export interface HashRing {
  readonly points: Uint32Array
  /** Whose point it is: an index into what the ring was made of. */
  readonly owners: Uint32Array
}

/** Makes one. Weights count in relation to the power of two below the largest, so that others' points stay as they are. */
export const hashRing = (all: readonly Standing[]): HashRing => {
  const largest = Math.max(0, ...all.map(({ weight }) => weight))
  const unit = 2 ** Math.floor(Math.log2(Math.max(largest, Number.MIN_VALUE)))
  let each = POINTS
  while (each > 8 && each * all.length > POINTS_MAX) each /= 2
  const points: [hash: number, owner: number][] = []
  for (const [owner, { name, weight }] of all.entries()) {
    const count = weight === 0 ? 0 : Math.max(1, Math.round((each * weight) / unit))
    for (let i = 0; i < count; i++) points.push([hashOf(`${name}#${i}`), owner])
  }
  points.sort((a, b) => a[0] - b[0] || compareText(all[a[1]]!.name, all[b[1]]!.name))
  return { points: Uint32Array.from(points, ([hash]) => hash), owners: Uint32Array.from(points, ([, owner]) => owner) }
}

/** The owners from this hash on, in the order in which they would take it; each may come more than once. */
export function* ownersFrom({ points, owners }: HashRing, hash: number): Generator<number> {
  let low = 0
  let high = points.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (points[middle]! < hash) low = middle + 1
    else high = middle
  }
  for (let i = 0; i < owners.length; i++) yield owners[(low + i) % owners.length]!
}

/** 32 bits of a text: FNV-1a, mixed once more (murmur3), for FNV alone leaves similar texts neighbours. */
export const hashOf = (text: string): number => {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)
