import { once } from 'node:events'
import { createServer, type ServerHttp2Stream } from 'node:http2'
import { type AddressInfo, connect } from 'node:net'
import fc from 'fast-check'
import { type Test, test } from 'tap'
import { fieldBytesMax, HpackDecoder, HpackEncoder } from '../../src/codec/hpack.ts'
import { MARK, STATIC_TABLE } from '../../src/codec/hpackTable.ts'
import { huffmanDecode, huffmanEncode, huffmanLength } from '../../src/codec/huffman.ts'
import { ProtocolError } from '../../src/net/protocolError.ts'
import { decoded, encoded } from '../support/http2.ts'

const LIMITS = { listBytesMax: 65_536, fieldsMax: 100 }
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ''), 'hex')

const GET = [':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'www.example.com']
const AGAIN = [...GET, 'cache-control', 'no-cache']
const THIRD = [
  ...[':method', 'GET', ':scheme', 'https', ':path', '/index.html', ':authority', 'www.example.com'],
  ...['custom-key', 'custom-value'],
]
const DATE = 'Mon, 21 Oct 2013 20:13:21 GMT'
const FOUND = [':status', '302', 'cache-control', 'private', 'date', DATE, 'location', 'https://www.example.com']

const APPENDIX_C: readonly [section: string, blocks: readonly [string, readonly string[]][]][] = [
  [
    'C.2.1 literal with indexing',
    [['400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572', ['custom-key', 'custom-header']]],
  ],
  ['C.2.2 literal without indexing', [['040c 2f73 616d 706c 652f 7061 7468', [':path', '/sample/path']]]],
  ['C.2.3 literal never indexed', [['1008 7061 7373 776f 7264 0673 6563 7265 74', ['password', 'secret']]]],
  ['C.2.4 indexed', [['82', [':method', 'GET']]]],
  [
    'C.3 requests without Huffman',
    [
      ['8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d', GET],
      ['8286 84be 5808 6e6f 2d63 6163 6865', AGAIN],
      ['8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65', THIRD],
    ],
  ],
  [
    'C.4 requests with Huffman',
    [
      ['8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff', GET],
      ['8286 84be 5886 a8eb 1064 9cbf', AGAIN],
      ['8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf', THIRD],
    ],
  ],
  [
    'C.6.1 a response with Huffman',
    [
      [
        '4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3',
        FOUND,
      ],
    ],
  ],
]

for (const [section, blocks] of APPENDIX_C)
  test(`RFC 7541 ${section} decodes as printed, whole and with bytes around it`, async (t) => {
    const decoder = new HpackDecoder(LIMITS)
    for (const [bytes, fields] of blocks) {
      const block = hex(bytes)
      const around = Buffer.concat([Buffer.from([255, 255]), block, Buffer.from([255])])
      t.strictSame(decoder.decode(around, 2, 2 + block.length), fields)
    }
  })

test('RFC 7541 C.5 a table of 256 bytes evicts what does not fit', async (t) => {
  const decoder = new HpackDecoder(LIMITS, 256)
  const one =
    '4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d'
  const decode = (bytes: string): string[] => decoder.decode(hex(bytes), 0, hex(bytes).length)
  t.strictSame(decode(one), FOUND)
  t.strictSame(decode('4803 3330 37c1 c0bf'), [':status', '307', ...FOUND.slice(2)])
  t.throws(() => decode('c1c1c1c1c1ff'), { code: 'HTTP2_COMPRESSION_ERROR' })
})

test('the static table has 61 entries, the last of which is www-authenticate', async (t) => {
  t.equal(STATIC_TABLE.length, 61)
  t.match(STATIC_TABLE[60], { name: 'www-authenticate', value: '' })
  t.match(STATIC_TABLE[15], { name: 'accept-encoding', value: 'gzip, deflate' })
})

const BROKEN: readonly [what: string, bytes: string][] = [
  ['2.3.3 an index beyond both tables', 'c6'],
  ['2.3.3 a literal whose name index is beyond both tables', '7f 20 01 61'],
  ['4.2 a size update behind a field', '82 20'],
  ['5.1 a number that never ends', 'ff ff ff ff ff ff'],
  ['5.1 a number cut short', 'ff 80'],
  ['5.2 a string longer than the block', '40 05 61'],
  ['5.2 a string that is missing', '40 01 61'],
  ['5.2 Huffman padding of eight bits', '00 82 1f ff 00'],
  ['5.2 Huffman padding with zeros', '00 81 18 00'],
  ['5.2 the end of string symbol', '00 84 ff ff ff ff 00'],
  ['6.1 index 0', '80'],
  ['6.3 a size update over the limit', '3f e2 1f'],
  ['6.3 a size update cut short', '3f'],
]
for (const [what, bytes] of BROKEN)
  test(`RFC 7541 ${what} is a COMPRESSION_ERROR`, async (t) => {
    const decoder = new HpackDecoder(LIMITS)
    t.throws(() => decoder.decode(hex(bytes), 0, hex(bytes).length), { code: 'HTTP2_COMPRESSION_ERROR' })
  })

test('a size update to 0 empties the table, and one back fills it again', async (t) => {
  const decoder = new HpackDecoder(LIMITS)
  const decode = (bytes: string): string[] => decoder.decode(hex(bytes), 0, hex(bytes).length)
  decode('40 01 61 01 62')
  t.strictSame(decode('be'), ['a', 'b'])
  t.strictSame(decode('20 3f e1 1f 82'), [':method', 'GET'])
  t.throws(() => decode('be'), ProtocolError)
})

test('never-indexed fields are named, stay out of the table and are sent so again', async (t) => {
  const decoder = new HpackDecoder(LIMITS)
  const encoder = new HpackEncoder()
  const bytes = Buffer.alloc(100)
  const end = encoder.field(bytes, 0, 'Authorization', 'secret', true)
  t.equal(bytes[0]! & 0xf0, 0x10)
  t.strictSame(decoder.decode(bytes, 0, end), ['authorization', 'secret'])
  t.strictSame(decoder.neverIndexed, ['authorization'])
  t.equal(encoder.field(bytes, 0, 'authorization', 'secret', true), end, 'not indexed the second time either')
})

test('what is over the limits is not kept, and its table entries are', async (t) => {
  const decoder = new HpackDecoder({ listBytesMax: 100, fieldsMax: 2 })
  const block = encoded(['a', 'x'.repeat(80), 'b', 'c'])
  t.strictSame(decoder.decode(block, 0, block.length), [])
  t.equal(decoder.tooLarge, true)
  t.strictSame(decoder.decode(hex('be'), 0, 1), ['b', 'c'])
  t.equal(decoder.tooLarge, false)
  decoder.decode(hex('bebebe'), 0, 3)
  t.equal(decoder.tooLarge, true, 'three fields')
})

const MARKED: readonly [name: string, value: string, mark: number][] = [
  ['accept', 'a b', 0],
  ['x', '', 0],
  ['x', 'tab\tinside', 0],
  ['x', 'high \xe9', 0],
  ['Accept', 'x', MARK.bad],
  ['', 'x', MARK.bad],
  ['a b', 'x', MARK.bad],
  ['a:b', 'x', MARK.bad],
  ['x', ' a', MARK.bad],
  ['x', 'a ', MARK.bad],
  ['x', '\ta', MARK.bad],
  ['x', 'a\nb', MARK.bad],
  ['x', 'a\rb', MARK.bad],
  ['x', 'a\0b', MARK.bad],
  ['x', 'a\x7fb', MARK.bad],
  [':unknown', 'x', MARK.bad],
  ['connection', 'close', MARK.connection],
  ['te', 'gzip', MARK.connection],
  ['te', 'trailers', 0],
  [':path', '/', MARK.ask],
  [':status', '200', MARK.status],
]
for (const [name, value, mark] of MARKED)
  test(`the field ${JSON.stringify(name)}: ${JSON.stringify(value)} is marked ${mark}`, async (t) => {
    const decoder = new HpackDecoder(LIMITS)
    const text = (of: string): Buffer => Buffer.from([of.length, ...Buffer.from(of, 'latin1')])
    const block = Buffer.concat([Buffer.from([0x40]), text(name), text(value)])
    decoder.decode(block, 0, block.length)
    t.equal(decoder.marks, mark)
    decoder.decode(hex('be'), 0, 1)
    t.equal(decoder.marks, mark, 'and again when it comes from the table')
  })

const name = fc.oneof(
  fc.constantFrom(...STATIC_TABLE.map((entry) => entry.name)),
  fc.stringMatching(/^[a-z0-9-]{1,30}$/),
)
const value = fc.oneof(
  fc.constantFrom(...STATIC_TABLE.map((entry) => entry.value)),
  fc.string({ unit: fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)), maxLength: 2000 }),
)
const fieldLists = fc.array(fc.array(fc.tuple(name, value), { maxLength: 20 }), { maxLength: 12 })

test('what the encoder writes the decoder reads, table sizes changing in between', async () => {
  fc.assert(
    fc.property(fieldLists, fc.array(fc.nat(8192), { maxLength: 12 }), (lists, sizes) => {
      const encoder = new HpackEncoder()
      const decoder = new HpackDecoder({ listBytesMax: 1e6, fieldsMax: 1000 })
      lists.forEach((list, at) => {
        if (sizes[at] !== undefined) encoder.setTableBytesMax(sizes[at])
        const fields = list.flat()
        const bytes = encoded(fields, encoder)
        const room = list.reduce((sum, [a, b]) => sum + fieldBytesMax(a, b), 16)
        if (bytes.length > room) throw new Error(`${bytes.length} bytes where ${room} were reserved`)
        if (JSON.stringify(decoded(bytes, decoder)) !== JSON.stringify(fields)) throw new Error('differs')
      })
    }),
    { numRuns: 60 },
  )
})

test('names in upper case leave in lower case and share one table entry', async (t) => {
  const encoder = new HpackEncoder()
  const decoder = new HpackDecoder(LIMITS)
  t.strictSame(decoded(encoded(['X-Id', '1'], encoder), decoder), ['x-id', '1'])
  t.equal(encoded(['x-ID', '1'], encoder).length, 1)
})

test('a thousand different names do not make the encoder grow, and it stays right', async (t) => {
  const encoder = new HpackEncoder()
  const decoder = new HpackDecoder(LIMITS)
  const wrong: number[] = []
  for (let at = 0; at < 1000; at++) {
    const fields = [`x-${at}`, `${at}`, 'same', 'value']
    if (decoded(encoded(fields, encoder), decoder).join() !== fields.join()) wrong.push(at)
  }
  t.strictSame(wrong, [])
})

test('no bytes make the decoder throw anything but ProtocolError', async () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 4 }), (blocks) => {
      const decoder = new HpackDecoder(LIMITS)
      try {
        for (const block of blocks) decoder.decode(Buffer.from(block), 0, block.length)
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error
      }
    }),
    { numRuns: 2000 },
  )
})

test('Huffman gives back every text, in the bytes it said', async () => {
  const text = fc.string({ unit: fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)) })
  fc.assert(
    fc.property(text, (original) => {
      const bytes = Buffer.alloc(original.length * 4 + 1)
      const end = huffmanEncode(original, bytes, 0)
      const back = Buffer.alloc(original.length * 8 + 8)
      const length = huffmanDecode(bytes, 0, end, back)
      return end === huffmanLength(original) && back.toString('latin1', 0, length) === original
    }),
  )
})

test('a character that no field may have cannot turn into a line end', async (t) => {
  t.strictSame(decoded(encoded(['x', 'a\u010ab'])), ['x', 'a?b'])
})

/** Header lists through nghttp2, which is inside Node: it decodes what we encode, and encodes what we decode. */
const throughNghttp2 = async (t: Test, lists: readonly Record<string, string>[]): Promise<void> => {
  const server = createServer({ settings: { maxHeaderListSize: 1e6 } })
  const got: Record<string, unknown>[] = []
  server.on('stream', (stream: ServerHttp2Stream, fields) => {
    const own = Object.entries(fields).filter(([key]) => !key.startsWith(':'))
    got.push(Object.fromEntries(own))
    stream.respond({ ':status': 200, ...Object.fromEntries(own) }, { endStream: true })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { record } = await import('../support/http2.ts')
  const { sendRequest } = await import('../../src/codec/http2Send.ts')
  const { receive } = await import('../../src/codec/http2.ts')
  const back: string[][] = []
  const all = Promise.withResolvers<void>()
  const client = record<undefined>('client', {
    limits: { headBytesMax: 1e6, fieldsMax: 1000 },
    handler: {
      responseRead(_, { fields }) {
        back.push(fields.filter((_, at) => fields[at & ~1] !== 'date'))
        if (back.length === lists.length) all.resolve()
      },
    },
  })
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  socket.on('data', (bytes: Buffer) => {
    receive(client.h2, bytes, 0)
    socket.write(client.taken())
  })
  for (const list of lists) {
    const fields = Object.entries(list).flat()
    sendRequest(client.h2, { method: 'GET', scheme: 'http', authority: 'a', target: '/', fields }, true, undefined)
  }
  socket.write(client.taken())
  await all.promise
  t.strictSame(got, lists)
  t.strictSame(
    back,
    lists.map((list) => Object.entries(list).flat()),
  )
}

test('nghttp2 reads our blocks and we read those of nghttp2', async (t) => {
  const names = fc.stringMatching(/^x-[a-z0-9]{1,12}$/)
  const values = fc.stringMatching(/^[!-~]([ -~]{0,60}[!-~])?$/)
  const lists = fc.sample(fc.dictionary(names, values, { maxKeys: 12, noNullPrototype: true }), {
    numRuns: 80,
    seed: 7541,
  })
  await throughNghttp2(t, lists)
})
