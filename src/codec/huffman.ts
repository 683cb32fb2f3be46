import { ProtocolError } from '../net/protocolError.ts'

/** Symbols by the length of their code in bits. The code is canonical, so the lengths say it all (RFC 7541 B). */
const SYMBOLS: readonly (readonly [bits: number, symbols: string, ...others: number[]])[] = [
  [5, '012aceiost'],
  [6, ' %-./3456789=A_bdfghlmnpru'],
  [7, ':BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz'],
  [8, '&*,;XZ'],
  [10, '!"()?'],
  [11, "'+|"],
  [12, '#>'],
  [13, '\0$@[]~'],
  [14, '^}'],
  [15, '<`{'],
  [19, '\\', 195, 208],
  [20, '', 128, 130, 131, 162, 184, 194, 224, 226],
  [21, '', 153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230],
  [22, '', 129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189, 190],
  [22, '', 196, 198, 228, 232, 233],
  [23, '', 1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166, 168, 174, 175],
  [23, '', 180, 182, 183, 188, 191, 197, 231, 239],
  [24, '', 9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237],
  [25, '', 199, 207, 234, 235],
  [26, '', 192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255],
  [27, '', 203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253, 254],
  [28, '', 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31],
  [28, '', 127, 220, 249],
  [30, '', 10, 13, 22, 256],
]

const END_OF_STRING = 256
const CODES = new Uint32Array(257)
const BITS = new Uint8Array(257)

/**
 * The decoder walks the code's tree four bits at a time: 256 inner nodes, sixteen ways out of each. An entry holds the
 * next node in its low byte and, above it, one more than the symbol that was completed on the way; -1 is no code.
 */
const STEPS = new Int32Array(256 * 16)
/** Nodes where a string may end: the root, and up to seven ones away from it (RFC 7541 5.2). */
const ENDS = new Uint8Array(256)

type Node = { index: number; branches: [Node | number | undefined, Node | number | undefined] }

const newNode = (nodes: Node[]): Node => {
  const node: Node = { index: nodes.length, branches: [undefined, undefined] }
  nodes.push(node)
  return node
}

const growTree = (): Node[] => {
  const nodes: Node[] = []
  const root = newNode(nodes)
  let code = 0
  let bitsBefore = 5
  for (const [bits, text, ...others] of SYMBOLS)
    for (const symbol of [...Buffer.from(text, 'latin1'), ...others]) {
      code *= 2 ** (bits - bitsBefore)
      bitsBefore = bits
      CODES[symbol] = code
      BITS[symbol] = bits
      plant(nodes, root, code, bits, symbol)
      code += 1
    }
  return nodes
}

const plant = (nodes: Node[], root: Node, code: number, bits: number, symbol: number): void => {
  let node = root
  for (let bit = bits - 1; bit > 0; bit--) {
    const way = (code >>> bit) & 1
    node.branches[way] ??= newNode(nodes)
    node = node.branches[way] as Node
  }
  node.branches[code & 1] = symbol
}

const step = (nodes: Node[], from: Node, nibble: number): number => {
  let node = from
  let emitted = 0
  for (let bit = 3; bit >= 0; bit--) {
    const next = node.branches[(nibble >> bit) & 1]!
    if (next === END_OF_STRING) return -1
    if (typeof next === 'number') emitted = next + 1
    node = typeof next === 'number' ? nodes[0]! : next
  }
  return (emitted << 8) | node.index
}

const buildTables = (): void => {
  const nodes = growTree()
  for (const node of nodes)
    for (let nibble = 0; nibble < 16; nibble++) STEPS[node.index * 16 + nibble] = step(nodes, node, nibble)
  let node = nodes[0]!
  for (let ones = 0; ones < 8; ones++) {
    ENDS[node.index] = 1
    node = node.branches[1] as Node
  }
}

buildTables()

const bad = (what: string): ProtocolError => new ProtocolError('HTTP2_COMPRESSION_ERROR', `Huffman code ${what}`)

/** Decodes `from[start..end)` into `into` from its beginning and returns how many bytes that made (RFC 7541 5.2). */
export const huffmanDecode = (from: Uint8Array, start: number, end: number, into: Uint8Array): number => {
  let node = 0
  let length = 0
  for (let at = start; at < end; at++) {
    const byte = from[at]!
    const high = STEPS[(node << 4) | (byte >> 4)]!
    if (high < 0) throw bad('holds the end of string symbol')
    if (high > 255) into[length++] = (high >> 8) - 1
    const low = STEPS[((high & 255) << 4) | (byte & 15)]!
    if (low < 0) throw bad('holds the end of string symbol')
    if (low > 255) into[length++] = (low >> 8) - 1
    node = low & 255
  }
  if (ENDS[node] === 0) throw bad('ends in a padding that is too long or not all ones')
  return length
}

/** How many bytes the text takes as Huffman code. Characters above 255 do not exist in fields and count as `?`. */
export const huffmanLength = (text: string): number => {
  let bits = 0
  for (let at = 0; at < text.length; at++) bits += BITS[latin1(text.charCodeAt(at))]!
  return (bits + 7) >> 3
}

/** Encodes the text into `into` at `at` and returns the position after it. */
export const huffmanEncode = (text: string, into: Uint8Array, at: number): number => {
  let pending = 0
  let bits = 0
  let position = at
  for (let index = 0; index < text.length; index++) {
    const symbol = latin1(text.charCodeAt(index))
    let left = BITS[symbol]!
    const code = CODES[symbol]!
    // At most 7 bits are pending, so codes go in by pieces of up to 24 bits to stay inside 31.
    if (left > 24) {
      left -= 16
      pending = (pending << 16) | (code >>> left)
      bits += 16
      while (bits >= 8) into[position++] = (pending >>> (bits -= 8)) & 255
      pending &= 255
    }
    pending = (pending << left) | (code & ((1 << left) - 1))
    bits += left
    while (bits >= 8) into[position++] = (pending >>> (bits -= 8)) & 255
    pending &= 255
  }
  if (bits > 0) into[position++] = ((pending << (8 - bits)) | (255 >> bits)) & 255
  return position
}

const QUESTION_MARK = 63
const latin1 = (character: number): number => (character > 255 ? QUESTION_MARK : character)
