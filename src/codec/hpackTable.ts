/** What a field is to RFC 9113, found out once per table entry so that an indexed field costs nothing to check. */
export const MARK = {
  /** Not a valid field name or value (8.2.1), or a pseudo-header field that does not exist (8.3). */
  bad: 1,
  /** Belongs to one HTTP/1 connection and has no place here (8.2.2). */
  connection: 2,
  contentLength: 4,
  host: 8,
  cookie: 16,
  /** A pseudo-header field of a request, and of a response. */
  ask: 32,
  status: 64,
  /** Between a client and a proxy that it knows of, and not passed on (RFC 9110 11.7). */
  proxy: 128,
} as const

/** A field in a table. `order` counts insertions, for the encoder. */
export interface Entry {
  readonly name: string
  readonly value: string
  readonly size: number
  readonly mark: number
}

/** RFC 7541 4.1: each entry counts 32 bytes more than its text. */
export const ENTRY_OVERHEAD_BYTES = 32

export const newEntry = (name: string, value: string): Entry => ({
  name,
  value,
  size: name.length + value.length + ENTRY_OVERHEAD_BYTES,
  mark: markOf(name, value),
})

/** RFC 9110 5.6.2, without upper case (RFC 9113 8.2.1). */
const NAME_CHARACTERS = new Uint8Array(256)
for (const character of "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
  NAME_CHARACTERS[character.charCodeAt(0)] = 1

const MARKED_NAMES = new Map<string, number>([
  [':method', MARK.ask],
  [':scheme', MARK.ask],
  [':authority', MARK.ask],
  [':path', MARK.ask],
  [':protocol', MARK.ask],
  [':status', MARK.status],
  ['connection', MARK.connection],
  ['keep-alive', MARK.connection],
  ['proxy-connection', MARK.connection],
  ['transfer-encoding', MARK.connection],
  ['upgrade', MARK.connection],
  ['content-length', MARK.contentLength],
  ['host', MARK.host],
  ['cookie', MARK.cookie],
  ['proxy-authorization', MARK.proxy],
  ['proxy-authenticate', MARK.proxy],
])

const markOf = (name: string, value: string): number => {
  if (!isFieldValue(value)) return MARK.bad
  const mark = MARKED_NAMES.get(name)
  if (mark !== undefined) return mark
  if (name === 'te') return value === 'trailers' ? 0 : MARK.connection
  return isFieldName(name) ? 0 : MARK.bad
}

/** A lower-case field name (RFC 9113 8.2.1). */
export const isFieldName = (name: string): boolean => {
  for (let at = 0; at < name.length; at++) if (NAME_CHARACTERS[name.charCodeAt(at)] !== 1) return false
  return name.length > 0
}

/** No control characters but tab inside, and no white space at either end (RFC 9113 8.2.1, RFC 9110 5.5). */
export const isFieldValue = (value: string): boolean => {
  const last = value.length - 1
  for (let at = 0; at <= last; at++) {
    const character = value.charCodeAt(at)
    if (character > 32 && character !== 127) continue
    if (character !== 32 && character !== 9) return false
    if (at === 0 || at === last) return false
  }
  return true
}

const STATIC_FIELDS = `:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate`

const staticEntry = (line: string): Entry => {
  const space = line.indexOf(' ')
  return space < 0 ? newEntry(line, '') : newEntry(line.slice(0, space), line.slice(space + 1))
}

/** RFC 7541 appendix A. The first entry has index 1, which is 0 here. */
export const STATIC_TABLE: readonly Entry[] = STATIC_FIELDS.split('\n').map(staticEntry)

/** What a table has before its first entry: nothing is written into it. */
const NO_ENTRIES: (Entry | undefined)[] = []
const RING_MIN = 8

/** Fields in the order they came, the oldest leaving when there are too many bytes (RFC 7541 4). */
export class DynamicTable {
  bytesMax: number
  bytes = 0
  count = 0
  /** How many entries were ever inserted: the newest has this number, so numbers never move as indices do. */
  inserted = 0
  readonly #onEvicted: ((entry: Entry, number: number) => void) | undefined
  #ring: (Entry | undefined)[] = NO_ENTRIES

  constructor(bytesMax: number, onEvicted?: (entry: Entry, number: number) => void) {
    this.bytesMax = bytesMax
    this.#onEvicted = onEvicted
  }

  /** The entry so many places behind the newest, which is 0. */
  get(age: number): Entry | undefined {
    return age < this.count ? this.#ring[(this.inserted - age) & (this.#ring.length - 1)] : undefined
  }

  /** True when it is in; an entry larger than the table only empties it (RFC 7541 4.4). */
  insert(entry: Entry): boolean {
    this.#evict(this.bytesMax - entry.size)
    if (entry.size > this.bytesMax) return false
    if (this.count === this.#ring.length) this.#grow()
    this.inserted += 1
    this.count += 1
    this.bytes += entry.size
    this.#ring[this.inserted & (this.#ring.length - 1)] = entry
    return true
  }

  /** Gives its memory back. Only while it is empty. */
  release(): void {
    this.#ring = NO_ENTRIES
  }

  resize(bytesMax: number): void {
    this.bytesMax = bytesMax
    this.#evict(bytesMax)
  }

  #evict(bytesLeft: number): void {
    while (this.count > 0 && this.bytes > bytesLeft) {
      const number = this.inserted - this.count + 1
      const at = number & (this.#ring.length - 1)
      const entry = this.#ring[at]!
      this.#ring[at] = undefined
      this.count -= 1
      this.bytes -= entry.size
      this.#onEvicted?.(entry, number)
    }
  }

  #grow(): void {
    const old = this.#ring
    const ring: (Entry | undefined)[] = new Array(Math.max(RING_MIN, old.length * 2)).fill(undefined)
    for (let age = 0; age < this.count; age++) {
      const number = this.inserted - age
      ring[number & (ring.length - 1)] = old[number & (old.length - 1)]
    }
    this.#ring = ring
  }
}
