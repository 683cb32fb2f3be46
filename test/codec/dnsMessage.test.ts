import fc from 'fast-check'
import { test } from 'tap'
import { decodeMessage, encodeQuestion } from '../../src/codec/dnsMessage.ts'
import { ProtocolError } from '../../src/net/protocolError.ts'
import { dnsWire, type WrittenRecord } from '../support/dnsWire.ts'

const HEADER = [0, 7, 0x81, 0x80, 0, 0, 0, 1, 0, 0, 0, 0]

const answer = (it: WrittenRecord) => decodeMessage(dnsWire({ answers: [it] })).answers

test('records of each type we know', async (t) => {
  const cases: readonly (readonly [WrittenRecord, object])[] = [
    [
      { owner: 'A.Example.', type: 'A', data: '10.0.0.1' },
      { owner: 'a.example.', ttl: 60, type: 'A', address: '10.0.0.1' },
    ],
    [
      { owner: 'a.', type: 'AAAA', data: 'fd00::1' },
      { owner: 'a.', ttl: 60, type: 'AAAA', address: 'fd00::1' },
    ],
    [
      { owner: 'a.', type: 'CNAME', data: 'B.example.' },
      { owner: 'a.', ttl: 60, type: 'CNAME', target: 'b.example.' },
    ],
    [
      { owner: '_http._tcp.a.', type: 'SRV', data: '1 2 8080 b.', ttl: 5 },
      { owner: '_http._tcp.a.', ttl: 5, type: 'SRV', priority: 1, weight: 2, port: 8080, target: 'b.' },
    ],
    [
      { owner: 'a.', type: 'SOA', data: '30', ttl: 900 },
      { owner: 'a.', ttl: 30, type: 'SOA' },
    ],
    [
      { owner: 'a.', type: 'SOA', data: '3000', ttl: 9 },
      { owner: 'a.', ttl: 9, type: 'SOA' },
    ],
    [
      { owner: 'a.', type: 'A', data: '10.0.0.1', ttl: 0x80000001 },
      { owner: 'a.', ttl: 0, type: 'A', address: '10.0.0.1' },
    ],
    [
      { owner: 'a\u0001b c.', type: 'A', data: '10.0.0.1' },
      { owner: 'a\\001b\\032c.', ttl: 60, type: 'A', address: '10.0.0.1' },
    ],
  ]
  for (const [written, read] of cases) t.same(answer(written), [read])
  t.same(answer({ owner: 'a.', type: 16, data: Uint8Array.of(3, 1, 2, 3) }), [], 'a type we do not ask for')
})

test('a name may end in one that was before it', async (t) => {
  const bytes = dnsWire({ question: ['a.example.', 1], answers: [{ owner: 'x.', type: 'A', data: '10.0.0.1' }] })
  const at = bytes.indexOf(Buffer.from([1, 120, 0, 0, 1])) // the owner `x.`
  const compressed = Buffer.concat([bytes.subarray(0, at), Buffer.from([1, 98, 0xc0, 14]), bytes.subarray(at + 3)])
  t.same(decodeMessage(compressed).answers[0]?.owner, 'b.example.')
})

const HOSTILE: readonly (readonly [why: string, bytes: readonly number[]])[] = [
  ['shorter than a header', [0, 7, 0x81]],
  ['a pointer to itself', [...HEADER, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4]],
  ['a pointer forward', [...HEADER, 0xc0, 40, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4]],
  ['a pointer round in a circle', [...HEADER, 1, 97, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4]],
  ['a label of a kind that does not exist', [...HEADER, 0x80, 0, 0, 1, 0, 1]],
  ['a name that does not end', [...HEADER, 5, 97]],
  ['a pointer cut in two', [...HEADER, 0xc0]],
  ['a record that does not end', [...HEADER, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1, 2]],
  ['a record without its data', [...HEADER, 0, 0, 1, 0, 1]],
  ['an A record of three bytes', [...HEADER, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 3, 1, 2, 3]],
  [
    'an SRV record whose target goes beyond it',
    [...HEADER, 0, 0, 33, 0, 1, 0, 0, 0, 1, 0, 7, 0, 0, 0, 0, 0, 1, 1, 97, 0],
  ],
  ['an alias followed by something', [...HEADER, 0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 2, 0, 0]],
  ['two questions', [0, 7, 0x81, 0x80, 0, 2, 0, 0, 0, 0, 0, 0]],
]

test('a message that is none is refused', async (t) => {
  for (const [why, bytes] of HOSTILE) t.throws(() => decodeMessage(Uint8Array.from(bytes)), ProtocolError, why)
  const long = 'abcdefghi.'.repeat(26)
  t.throws(() => decodeMessage(dnsWire({ answers: [{ owner: long, type: 'A', data: '1.1.1.1' }] })), /255 bytes/)
})

test('whatever the bytes are, they are read or refused', async () => {
  const sound = dnsWire({
    question: ['a.example.', 1],
    answers: [
      { owner: 'a.example.', type: 'CNAME', data: 'b.example.' },
      { owner: 'b.example.', type: 'A', data: '10.0.0.1' },
      { owner: '_a._b.c.', type: 'SRV', data: '1 2 3 d.' },
    ],
    authorities: [{ owner: 'example.', type: 'SOA', data: '30' }],
  })
  const check = (bytes: Uint8Array) => {
    try {
      decodeMessage(bytes)
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
    }
  }
  for (let end = 0; end <= sound.length; end++) check(sound.subarray(0, end))
  check(Buffer.concat([sound, Buffer.alloc(100, 0xc0)]))
  fc.assert(fc.property(fc.uint8Array({ maxLength: 600 }), check), { numRuns: 2000 })
  const changed = fc.array(fc.tuple(fc.nat(sound.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
  fc.assert(
    fc.property(changed, (changes) => {
      const bytes = Buffer.from(sound)
      for (const [at, value] of changes) bytes[at] = value
      check(bytes)
    }),
    { numRuns: 3000 },
  )
})

test('a question is read as it was written, whatever the name', async (t) => {
  const label = fc.stringMatching(/^[a-z0-9_]([a-z0-9_-]{0,20}[a-z0-9])?$/)
  fc.assert(
    fc.property(fc.array(label, { minLength: 1, maxLength: 8 }), fc.nat(65_535), fc.boolean(), (labels, id, edns) => {
      const name = `${labels.join('.')}.`
      const { question, isResponse, id: read } = decodeMessage(encodeQuestion(id, name, 'SRV', edns))
      return question?.name === name && question.type === 33 && !isResponse && read === id
    }),
  )
  for (const name of ['', 'a..b', 'a'.repeat(64), 'abcdefghi.'.repeat(26)])
    t.throws(() => encodeQuestion(1, name, 'A'), ProtocolError, name)
})
