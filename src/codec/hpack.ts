import { ProtocolError } from '../net/protocolError.ts'
import { DynamicTable, ENTRY_OVERHEAD_BYTES, type Entry, newEntry, STATIC_TABLE } from './hpackTable.ts'
import { huffmanDecode, huffmanEncode, huffmanLength } from './huffman.ts'

/** The table size both sides start with (RFC 9113 6.5.2), and the most we use as an encoder. */
export const TABLE_BYTES = 4096

/** What one header list may take (RFC 9113 6.5.2 SETTINGS_MAX_HEADER_LIST_SIZE counts the same way). */
export interface HpackLimits {
  readonly listBytesMax: number
  readonly fieldsMax: number
}

const malformed = (what: string): ProtocolError => new ProtocolError('HTTP2_COMPRESSION_ERROR', what)

/** Where coded text is written, and made a string of before anything else can happen. */
const scratch = Buffer.allocUnsafeSlow(8192)

/** Header blocks to fields (RFC 7541). Kept for the life of a connection; after a throw the connection is lost. */
export class HpackDecoder {
  /** Of the block decoded last: all marks of its fields together. */
  marks = 0
  /** Of the block decoded last: it was over a limit, and its fields were dropped from there on. */
  tooLarge = false
  /** Of the block decoded last: what its list counts, also the dropped part. */
  listBytes = 0
  /** Of the block decoded last: names that were sent never-indexed and have to stay so (RFC 7541 6.2.3). */
  neverIndexed: string[] | undefined
  readonly #limits: HpackLimits
  readonly #tableBytesMax: number
  readonly #table: DynamicTable
  #at = 0

  constructor(limits: HpackLimits, tableBytesMax = TABLE_BYTES) {
    this.#limits = limits
    this.#tableBytesMax = tableBytesMax
    this.#table = new DynamicTable(tableBytesMax)
  }

  /** The whole header block `bytes[start..end)` as name, value, name, value. */
  decode(bytes: Buffer, start: number, end: number): string[] {
    const fields: string[] = []
    this.marks = 0
    this.tooLarge = false
    this.listBytes = 0
    this.neverIndexed = undefined
    this.#at = start
    this.#sizeUpdates(bytes, end)
    while (this.#at < end) {
      const first = bytes[this.#at]!
      const entry = first >= 128 ? this.#entry(this.#integer(bytes, end, 7)) : this.#literal(bytes, end, first)
      this.marks |= entry.mark
      this.listBytes += entry.size
      if (this.listBytes > this.#limits.listBytesMax || fields.length >= this.#limits.fieldsMax * 2)
        this.tooLarge = true
      else fields.push(entry.name, entry.value)
    }
    return fields
  }

  /** RFC 7541 4.2: only at the beginning of a block, and no larger than what we announced. */
  #sizeUpdates(bytes: Buffer, end: number): void {
    while (this.#at < end && (bytes[this.#at]! & 0xe0) === 0x20) {
      const size = this.#integer(bytes, end, 5)
      if (size > this.#tableBytesMax) throw malformed(`a table of ${size} bytes is larger than allowed`)
      this.#table.resize(size)
    }
  }

  #entry(index: number): Entry {
    const entry =
      index <= STATIC_TABLE.length ? STATIC_TABLE[index - 1] : this.#table.get(index - STATIC_TABLE.length - 1)
    if (entry === undefined) throw malformed(`index ${index} is in no table`)
    return entry
  }

  #literal(bytes: Buffer, end: number, first: number): Entry {
    if ((first & 0xe0) === 0x20) throw malformed('a table size update after the first field')
    const isIndexed = first >= 64
    const index = this.#integer(bytes, end, isIndexed ? 6 : 4)
    const name = index === 0 ? this.#text(bytes, end) : this.#entry(index).name
    const entry = newEntry(name, this.#text(bytes, end))
    if (isIndexed) this.#table.insert(entry)
    else if ((first & 0x10) !== 0) (this.neverIndexed ??= []).push(name)
    return entry
  }

  /** RFC 7541 5.1, up to 28 bits: nothing here is larger. */
  #integer(bytes: Buffer, end: number, prefixBits: number): number {
    const mask = (1 << prefixBits) - 1
    let value = bytes[this.#at++]! & mask
    if (value < mask) return value
    for (let shift = 0; shift <= 21; shift += 7) {
      if (this.#at >= end) throw malformed('the block ends inside a number')
      const byte = bytes[this.#at++]!
      value += (byte & 127) << shift
      if (byte < 128) return value
    }
    throw malformed('a number of more than 28 bits')
  }

  #text(bytes: Buffer, end: number): string {
    if (this.#at >= end) throw malformed('the block ends before a string')
    const isHuffman = bytes[this.#at]! >= 128
    const length = this.#integer(bytes, end, 7)
    const start = this.#at
    if (length > end - start) throw malformed('the block ends inside a string')
    this.#at += length
    if (!isHuffman) return latin1(bytes, start, start + length)
    // The shortest code has five bits.
    const text = length * 8 > scratch.length * 5 ? Buffer.allocUnsafeSlow(length * 2) : scratch
    return latin1(text, 0, huffmanDecode(bytes, start, start + length, text))
  }
}

const SHORT_TEXT = 12

/** Short texts are faster put together here than in C++. */
const latin1 = (bytes: Buffer, start: number, end: number): string => {
  if (end - start > SHORT_TEXT) return bytes.toString('latin1', start, end)
  let text = ''
  for (let at = start; at < end; at++) text += String.fromCharCode(bytes[at]!)
  return text
}

/** What the encoder knows of a name: where the static table has it, and the dynamic entries that bear it. */
interface Slot {
  readonly name: string
  /** First static index of the name, 0 for none. */
  readonly staticIndex: number
  readonly staticValues: ReadonlyMap<string, number> | undefined
  /** Whether values of this name are worth a place in the table. */
  readonly indexes: boolean
  /** Value, insertion number, value, insertion number; the oldest first. */
  readonly entries: (string | number)[]
}

/** These differ from one message to the next; indexing them would only push the others out. */
const NOT_WORTH_INDEXING = new Set(
  ':path age content-length content-range date etag if-modified-since if-none-match last-modified location set-cookie'.split(
    ' ',
  ),
)

const SLOTS_MAX = 256 // names are the peer's choice: without a bound they would be a leak

const staticValuesOf = (name: string): ReadonlyMap<string, number> | undefined => {
  const values = new Map<string, number>()
  STATIC_TABLE.forEach((entry, at) => {
    if (entry.name === name && entry.value !== '') values.set(entry.value, at + 1)
  })
  return values.size > 0 ? values : undefined
}

const STATIC_SLOTS: ReadonlyMap<string, Pick<Slot, 'staticIndex' | 'staticValues'>> = new Map(
  STATIC_TABLE.map(({ name }) => [
    name,
    { staticIndex: STATIC_TABLE.findIndex((entry) => entry.name === name) + 1, staticValues: staticValuesOf(name) },
  ]),
)

const newSlot = (name: string): Slot => ({
  name,
  staticIndex: STATIC_SLOTS.get(name)?.staticIndex ?? 0,
  staticValues: STATIC_SLOTS.get(name)?.staticValues,
  indexes: !NOT_WORTH_INDEXING.has(name),
  entries: [],
})

/** Fields to header blocks (RFC 7541). Names may come in any case and leave in lower case. */
export class HpackEncoder {
  readonly #table: DynamicTable
  #slots = new Map<string, Slot>()
  /** The smallest and the last size the table was given since the last block; -1: none (RFC 7541 4.2). */
  #smallest = -1

  constructor() {
    this.#table = new DynamicTable(TABLE_BYTES, (entry) => this.#slots.get(entry.name)!.entries.splice(0, 2))
  }

  /** The peer's SETTINGS_HEADER_TABLE_SIZE. We never use more than 4096 bytes. */
  setTableBytesMax(bytes: number): void {
    const size = Math.min(bytes, TABLE_BYTES)
    if (size === this.#table.bytesMax) return
    this.#smallest = this.#smallest < 0 ? size : Math.min(this.#smallest, size)
    this.#table.resize(size)
  }

  /** Gives up its table, and the peer's with it when the next block begins: it is soon filled again. */
  forget(): void {
    if (this.#table.count === 0 && this.#smallest < 0) return
    const { bytesMax } = this.#table
    this.#table.resize(0)
    this.#table.resize(bytesMax)
    this.#table.release()
    this.#slots = new Map()
    this.#smallest = 0
  }

  /** Begins a header block: what is written first, and where fields go on. */
  begin(into: Buffer, at: number): number {
    if (this.#smallest < 0) return at
    let position = at
    if (this.#smallest < this.#table.bytesMax) position = writeInteger(into, position, 0x20, 5, this.#smallest)
    this.#smallest = -1
    return writeInteger(into, position, 0x20, 5, this.#table.bytesMax)
  }

  /** Writes one field and returns the position after it. `into` has room for `fieldBytesMax` of it. */
  field(into: Buffer, at: number, name: string, value: string, neverIndexed = false): number {
    const slot = this.#slots.get(name) ?? this.#learn(name)
    if (neverIndexed) return this.#literal(into, at, slot, value, 0x10, 4)
    const index = this.#find(slot, value)
    if (index > 0) return writeInteger(into, at, 0x80, 7, index)
    if (!slot.indexes || value.length + name.length > this.#table.bytesMax / 4)
      return this.#literal(into, at, slot, value, 0, 4)
    const position = this.#literal(into, at, slot, value, 0x40, 6)
    const size = slot.name.length + value.length + ENTRY_OVERHEAD_BYTES
    if (this.#table.insert({ name: slot.name, value, size, mark: 0 })) slot.entries.push(value, this.#table.inserted)
    return position
  }

  #find({ staticValues, entries }: Slot, value: string): number {
    const index = staticValues?.get(value)
    if (index !== undefined) return index
    for (let at = entries.length - 2; at >= 0; at -= 2)
      if (entries[at] === value) return STATIC_TABLE.length + 1 + this.#table.inserted - (entries[at + 1] as number)
    return 0
  }

  #literal(into: Buffer, at: number, slot: Slot, value: string, pattern: number, prefixBits: number): number {
    const index = slot.staticIndex > 0 ? slot.staticIndex : this.#nameIndex(slot)
    const position = writeInteger(into, at, pattern, prefixBits, index)
    return writeText(into, index > 0 ? position : writeText(into, position, slot.name), value)
  }

  #nameIndex({ entries }: Slot): number {
    return entries.length === 0 ? 0 : STATIC_TABLE.length + 1 + this.#table.inserted - (entries.at(-1) as number)
  }

  /** A name in another case shares the slot of its lower case. */
  #learn(name: string): Slot {
    const lower = name.toLowerCase()
    if (this.#slots.size >= SLOTS_MAX) this.#forget()
    const slot = this.#slots.get(lower) ?? newSlot(lower)
    this.#slots.set(lower, slot)
    this.#slots.set(name, slot)
    return slot
  }

  /** Names with entries in the table stay: their eviction looks them up. */
  #forget(): void {
    for (const [name, slot] of this.#slots)
      if (slot.entries.length === 0 || name !== slot.name) this.#slots.delete(name)
  }
}

/** The most bytes that one field can take. */
export const fieldBytesMax = (name: string, value: string): number => name.length + value.length + ENTRY_OVERHEAD_BYTES

const writeInteger = (into: Buffer, at: number, pattern: number, prefixBits: number, value: number): number => {
  const mask = (1 << prefixBits) - 1
  if (value < mask) {
    into[at] = pattern | value
    return at + 1
  }
  let position = at
  let rest = value - mask
  into[position++] = pattern | mask
  for (; rest >= 128; rest >>>= 7) into[position++] = (rest & 127) | 128
  into[position++] = rest
  return position
}

const writeText = (into: Buffer, at: number, text: string): number => {
  const coded = huffmanLength(text)
  if (coded < text.length) return huffmanEncode(text, into, writeInteger(into, at, 0x80, 7, coded))
  let position = writeInteger(into, at, 0, 7, text.length)
  for (let index = 0; index < text.length; index++) {
    const character = text.charCodeAt(index)
    into[position++] = character > 255 ? 63 : character
  }
  return position
}
