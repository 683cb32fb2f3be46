import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import fc from 'fast-check'
import t from 'tap'
import { type Detection, type DetectLimits, detect, type Seen, speaksFirst } from '../../src/detect/detect.ts'
import { type Hello, helloBytes } from '../support/clientHello.ts'

const LIMITS: DetectLimits = { maxBytes: 16_384 }
const LISTENING: Seen = { clientClosed: false, serverSpoke: false, timeUp: false }
const TIME_UP: Seen = { ...LISTENING, timeUp: true }

/** What is decided when the bytes come in these pieces and then no more until the time is up. */
const inPieces = (pieces: Iterable<Uint8Array>, seen = LISTENING, limits = LIMITS): Detection => {
  let bytes = new Uint8Array()
  for (const piece of [bytes, ...pieces]) {
    bytes = Buffer.concat([bytes, piece])
    const answer = detect(bytes, seen, limits)
    if (answer.is === 'yes') return answer.value
    if (answer.is === 'no') throw new Error('detect never answers no')
  }
  return decided(detect(bytes, { ...seen, timeUp: true }, limits))
}

const decided = (answer: ReturnType<typeof detect>): Detection => {
  if (answer.is !== 'yes') throw new Error(`undecided: ${answer.is}`)
  return answer.value
}

/** The same answer as Buffer.concat over all single bytes, without copying for each. */
const byteByByte = (bytes: Uint8Array, seen = LISTENING, limits = LIMITS): Detection => {
  for (let end = 0; end <= bytes.length; end++) {
    const answer = detect(bytes.subarray(0, end), seen, limits)
    if (answer.is === 'yes') return answer.value
  }
  return decided(detect(bytes, { ...seen, timeUp: true }, limits))
}

interface Case {
  readonly id: string
  readonly server_first: boolean
  readonly client_segments: readonly string[]
  readonly server_head: string
  readonly truth: {
    readonly kind: string
    readonly sni?: string
    readonly alpn?: readonly string[]
    readonly supported_versions?: readonly string[]
    readonly hello_version?: string
    readonly record_version?: string
    readonly method?: string
    readonly target?: string
    readonly http_version?: string
  }
  readonly accept: readonly string[]
}

/** Cases whose truth is right about the client's bytes, and wrong about the connection: id to reason. */
const DISPUTED = new Map([
  [
    'd06daaad51f585f4',
    'the server said "220 ... ESMTP" in the clear before the ClientHello: the greeting has been passed on by then, ' +
      'and what begins with it is no TLS connection (design.md 2.4: bytes from the server decide opaque at once)',
  ],
])

const hex = (version: number): string => `0x${version.toString(16).padStart(4, '0')}`

/** What was decided, and what is true, in the same words; a key the truth file leaves out is absent or unknown. */
const found = (detection: Detection): string => {
  if (detection.protocol === 'http1') {
    const { method, target, version } = detection.request
    return JSON.stringify(['http1', method, target, `HTTP/${version}`])
  }
  if (detection.protocol !== 'tls') return JSON.stringify([detection.protocol])
  const { sni, alpn, supportedVersions, legacyVersion, recordVersion } = detection.hello
  const versions = supportedVersions?.map(hex) ?? null
  return JSON.stringify(['tls', sni, alpn, versions, hex(legacyVersion), hex(recordVersion)])
}
const expected = ({ truth }: Case): string => {
  if (truth.kind === 'http1') return JSON.stringify(['http1', truth.method, truth.target, truth.http_version])
  if (truth.kind !== 'tls') return JSON.stringify([truth.kind])
  const { sni, alpn, supported_versions, hello_version, record_version } = truth
  return JSON.stringify(['tls', sni ?? null, alpn ?? null, supported_versions ?? null, hello_version, record_version])
}

const CASES = gunzipSync(readFileSync(new URL('../fixtures/detect/first-bytes.jsonl.gz', import.meta.url)))
  .toString()
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as Case)

t.test('first bytes of real connections are told right: whole, by segment, and byte by byte', async (t) => {
  const wrong: string[] = []
  const disputed = new Set<string>()
  for (const one of CASES) {
    const segments = one.client_segments.map((segment) => Buffer.from(segment, 'base64'))
    const whole = Buffer.concat(segments)
    const serverSpoke = one.server_first && speaksFirst(Buffer.from(one.server_head, 'base64')).is === 'yes'
    const seen = { ...LISTENING, serverSpoke }
    const ways = { whole: inPieces([whole], seen), segments: inPieces(segments, seen), bytes: byteByByte(whole, seen) }
    for (const [way, detection] of Object.entries(ways)) {
      const same = detection.protocol !== one.truth.kind || found(detection) === expected(one)
      if (same && one.accept.includes(detection.protocol)) continue
      if (DISPUTED.has(one.id)) disputed.add(one.id)
      else wrong.push(`${one.id} ${way}: ${found(detection)} for ${expected(one)}`)
    }
  }
  t.equal(CASES.length, 1_319)
  t.same(wrong, [])
  t.same([...disputed], [...DISPUTED.keys()], 'each disputed case is one still')
})

const bytesOf = (text: string): Buffer => Buffer.from(text, 'latin1')
const HELLO = helloBytes({ sni: 'shop.example', alpn: ['h2', 'http/1.1'] })

/** Bytes, and what is decided when they stand alone until the time is up. */
const TABLE: readonly (readonly [name: string, bytes: Buffer, decided: string])[] = [
  ['nothing at all', bytesOf(''), 'opaque timeout'],
  ['HTTP/1.1', bytesOf('GET / HTTP/1.1\r\nHost: a\r\n\r\n'), 'http1'],
  ['HTTP/1.0', bytesOf('GET / HTTP/1.0\r\n'), 'http1'],
  ['an unknown method', bytesOf('BREW /pot HTTP/1.1\r\n'), 'http1'],
  ['a method in lower case', bytesOf('get / HTTP/1.1\r\n'), 'http1'],
  ['authority-form', bytesOf('CONNECT shop.example:443 HTTP/1.1\r\n'), 'http1'],
  ['absolute-form', bytesOf('GET http://shop.example/ HTTP/1.1\r\n'), 'http1'],
  ['asterisk-form', bytesOf('OPTIONS * HTTP/1.1\r\n'), 'http1'],
  ['bytes above 127 in the target', bytesOf('GET /caf\xe9 HTTP/1.1\r\n'), 'http1'],
  ['a bare LF', bytesOf('GET / HTTP/1.1\n'), 'http1'],
  ['half a request line', bytesOf('GET /'), 'opaque timeout'],
  ['a request line without its end', bytesOf('GET / HTTP/1.1'), 'opaque timeout'],
  ['HTTP/0.9', bytesOf('GET /\r\n'), 'opaque unknown'],
  ['HTTP/1.2', bytesOf('GET / HTTP/1.2\r\n'), 'opaque unknown'],
  ['HTTP/1.10', bytesOf('GET / HTTP/1.10\r\n'), 'opaque unknown'],
  ['HTTP/2.0 in text', bytesOf('GET / HTTP/2.0\r\n'), 'opaque unknown'],
  ['a CR alone', bytesOf('GET / HTTP/1.1\rX'), 'opaque unknown'],
  ['two spaces', bytesOf('GET  / HTTP/1.1\r\n'), 'opaque unknown'],
  ['a target with a space', bytesOf('GET /a b HTTP/1.1\r\n'), 'opaque unknown'],
  ['a target with a tab', bytesOf('GET /a\tb HTTP/1.1\r\n'), 'opaque unknown'],
  ['a space before the method', bytesOf(' GET / HTTP/1.1\r\n'), 'opaque unknown'],
  ['an empty line first', bytesOf('\r\nGET / HTTP/1.1\r\n'), 'opaque unknown'],
  ['a colon in the method', bytesOf('GET: / HTTP/1.1\r\n'), 'opaque unknown'],
  ['RTSP', bytesOf('DESCRIBE rtsp://a/b RTSP/1.0\r\n'), 'opaque unknown'],
  ['SIP', bytesOf('INVITE sip:bob@a SIP/2.0\r\n'), 'opaque unknown'],
  ['SSH', bytesOf('SSH-2.0-OpenSSH_9.6\r\n'), 'opaque unknown'],
  ['SSH without the end of its line', bytesOf('SSH-2.0-OpenSSH_9.6'), 'opaque timeout'],
  ['RESP', bytesOf('*1\r\n$4\r\nPING\r\n'), 'opaque unknown'],
  ['inline RESP', bytesOf('SET HTTP/1.1 x\r\n'), 'opaque unknown'],
  ['NATS', bytesOf('CONNECT {"verbose":false}\r\n'), 'opaque unknown'],
  ['PostgreSQL asking for TLS', Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]), 'opaque unknown'],
  ['MQTT', Buffer.from([16, 12, 0, 4, 77, 81, 84, 84, 4, 2, 0, 60, 0, 0]), 'opaque unknown'],
  ['the HTTP/2 preface', bytesOf('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), 'http2'],
  ['half the HTTP/2 preface', bytesOf('PRI * HTTP/2.0\r\n\r\n'), 'opaque timeout'],
  ['nearly the HTTP/2 preface', bytesOf('PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n'), 'opaque unknown'],
  ['the method PRI of HTTP/1', bytesOf('PRI * HTTP/1.1\r\n'), 'http1'],
  ['a ClientHello', HELLO, 'tls'],
  ['a ClientHello without its last byte', HELLO.subarray(0, -1), 'opaque timeout'],
  ['a ServerHello', Buffer.from([22, 3, 3, 0, 90, 2, 0, 0, 86]), 'opaque unknown'],
  ['a TLS alert', Buffer.from([21, 3, 1, 0, 2, 2, 40]), 'opaque unknown'],
  ['ONC RPC, whose length looks like SSL 2.0', Buffer.from([128, 0, 0, 40, 1, 2, 3, 4]), 'opaque unknown'],
]

for (const [name, bytes, expected] of TABLE) {
  t.test(`${name}: ${expected}`, async (t) => {
    const words = (detection: Detection): string =>
      detection.protocol === 'opaque' ? `opaque ${detection.because}` : detection.protocol
    t.equal(words(inPieces([bytes])), expected, 'whole')
    t.equal(words(byteByByte(bytes)), expected, 'byte by byte')
    if (expected === 'opaque timeout') return
    t.equal(words(inPieces([bytes, bytesOf('\x00trailing\r\n')])), expected, 'with trailing bytes')
  })
}

t.test('undecided bytes are more, until something else decides', async (t) => {
  const bytes = bytesOf('GET /')
  const because = (seen: Partial<Seen>, limits = LIMITS): string => {
    const answer = detect(bytes, { ...LISTENING, ...seen }, limits)
    return answer.is !== 'yes' ? answer.is : answer.value.protocol === 'opaque' ? answer.value.because : 'decided'
  }
  t.equal(because({}), 'more')
  t.equal(because({ timeUp: true }), 'timeout')
  t.equal(because({ clientClosed: true, timeUp: true }), 'closed')
  t.equal(because({ serverSpoke: true, timeUp: true }), 'serverFirst')
  t.equal(because({ clientClosed: true }, { maxBytes: 5 }), 'limit')
  t.equal(because({}, { maxBytes: 6 }), 'more')
})

t.test('what the client has said outweighs a server that spoke, a timeout and a close', async (t) => {
  const all = { clientClosed: true, serverSpoke: true, timeUp: true }
  t.equal(decided(detect(bytesOf('GET / HTTP/1.1\r\n'), all, LIMITS)).protocol, 'http1')
})

t.test('a line or a hello longer than the limit is opaque, however much of it is there', async (t) => {
  const long = bytesOf(`GET /${'x'.repeat(20_000)} HTTP/1.1\r\n`)
  const limit = { protocol: 'opaque', because: 'limit' }
  t.same(inPieces([long]), limit)
  t.same(byteByByte(long), limit)
  const declared = Buffer.from([22, 3, 1, 64, 0, 1, 0, 64, 0])
  t.same(decided(detect(declared, LISTENING, LIMITS)), limit, 'its length field is enough to know')
  const fits = helloBytes({ sni: 'a.example', padding: 16_384 - 200 })
  t.equal(inPieces([fits]).protocol, 'tls')
  t.equal(inPieces([helloBytes({ padding: 16_384 })]).protocol, 'opaque')
})

t.test("a server's first bytes make it server-speaks-first, unless they are HTTP/2 SETTINGS", async (t) => {
  const settings = Buffer.from([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100])
  t.equal(speaksFirst(settings).is, 'no')
  for (let end = 0; end < 9; end++) t.equal(speaksFirst(settings.subarray(0, end)).is, 'more', `${end} bytes`)
  for (const greeting of ['220 mail\r\n', 'SSH-2.0-x\r\n', 'J\0\0\0\n8.0\0', 'RFB 003.008\n', '\0\0\x06\x04\x01'])
    t.equal(speaksFirst(bytesOf(greeting)).is, 'yes', JSON.stringify(greeting))
})

/** Beginnings that get far into each recogniser, mutated, so that random bytes are not all refused at the first. */
const nearMisses = fc
  .tuple(
    fc.oneof(
      fc.record<Hello>({ sni: fc.domain(), alpn: fc.array(fc.string({ minLength: 1, maxLength: 8 })) }).map(helloBytes),
      fc.constantFrom(...TABLE.map(([, bytes]) => bytes)),
      fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
    ),
    fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 3 }),
    fc.uint8Array({ maxLength: 20 }),
  )
  .map(([bytes, changes, tail]) => {
    const changed = Buffer.concat([bytes, tail])
    for (const [at, value] of changes) if (at < changed.length) changed[at] = value
    return changed
  })

t.test('any cut into pieces gives the answer of the whole, and nothing throws', async (t) => {
  fc.assert(
    fc.property(
      nearMisses,
      fc.array(fc.nat(500), { maxLength: 8 }),
      fc.constantFrom(64, 300, 16_384),
      (bytes, cuts, maxBytes) => {
        const ends = [...cuts.filter((cut) => cut < bytes.length).sort((a, b) => a - b), bytes.length]
        const pieces = ends.map((end, at) => bytes.subarray(ends[at - 1] ?? 0, end))
        const whole = inPieces([bytes], LISTENING, { maxBytes })
        t.match(inPieces(pieces, LISTENING, { maxBytes }), whole)
        t.match(byteByByte(bytes, LISTENING, { maxBytes }), whole)
        detect(bytes, TIME_UP, { maxBytes })
      },
    ),
    { numRuns: 500 },
  )
})
