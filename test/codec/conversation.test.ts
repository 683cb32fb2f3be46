import fc from 'fast-check'
import t from 'tap'
import { type ConversationEvent, conversationReader, FLOWS_MAX } from '../../src/codec/conversation.ts'
import { ACK, FIN, RST, SYN } from '../../src/codec/segment.ts'
import { connection, packet, type Wire } from '../support/capture.ts'

/** The events of segments that come one millisecond apart, and of the end where it is asked for. */
const eventsOf = (wires: readonly Wire[], { end = true } = {}): ConversationEvent[] => {
  const reader = conversationReader()
  const events = wires.flatMap((wire, at) => {
    const bytes = packet(wire)
    return reader.push({ number: at + 1, time: at, linkType: 101, bytes, length: bytes.length })
  })
  return end ? [...events, ...reader.end()] : events
}

/** Events in a few letters; the data of one side that come one after the other are one. */
const told = (events: readonly ConversationEvent[]): string => {
  const words: string[] = []
  for (const event of events) {
    if (event.is === 'opened') words.push('open')
    else if (event.is === 'closed') words.push(['closed', ...event.missing].join(' '))
    else if (event.is !== 'data') words.push(`${event.from[0]} ${event.is}`)
    else {
      const start = `${event.from[0]}:`
      const text = Buffer.from(event.bytes).toString('latin1')
      if (words.at(-1)?.startsWith(start)) words.push(words.pop() + text)
      else words.push(start + text)
    }
  }
  return words.join(', ')
}

const GOODBYE = 'c ended, s ended, closed'
const TALK = connection([
  ['client', 'question '],
  ['client', 'one'],
  ['server', 'answer'],
])
const TOLD = `open, c:question one, s:answer, ${GOODBYE}`
const [syn, synAck, ack, first, second, answer, fin, finBack, last] = TALK as [
  Wire,
  Wire,
  Wire,
  Wire,
  Wire,
  Wire,
  Wire,
  Wire,
  Wire,
]
const CALL = [syn, synAck, ack]

/** A name, segments, and what is told of them. */
const CASES: readonly (readonly [string, readonly Wire[], string])[] = [
  ['an ordinary connection', TALK, TOLD],
  ['every segment twice', TALK.flatMap((wire) => [wire, wire]), TOLD],
  ['two segments the wrong way round', [...CALL, second, first, answer, fin, finBack, last], TOLD],
  [
    'a retransmit that holds more than the first',
    [...CALL, first, { ...first, payload: 'question one' }, answer, fin, finBack],
    TOLD,
  ],
  [
    'an overlap: the first bytes count',
    [...CALL, first, { ...second, sequence: second.sequence - 3, payload: 'XXXone' }, answer, fin, finBack],
    TOLD,
  ],
  [
    'an overlap out of order: the first bytes count',
    [...CALL, second, { ...first, payload: 'question XXX' }, answer, fin, finBack],
    TOLD,
  ],
  [
    'a FIN before the bytes in front of it',
    [...CALL, first, fin, second, answer, finBack],
    `open, c:question one, c ended, s:answer, s ended, closed`,
  ],
  ['a FIN that comes again', [...TALK, fin, finBack], TOLD],
  [
    'a keep-alive probe',
    [...CALL, { ...ack, sequence: ack.sequence - 1, payload: '\0' }, first, second, answer, fin, finBack],
    TOLD,
  ],
  [
    'what the server still says after the goodbye of the client',
    [...CALL, first, second, { ...fin }, { ...answer }, finBack],
    `open, c:question one, c ended, s:answer, s ended, closed`,
  ],
  [
    'a reset by the client',
    [...CALL, first, { ...second, flags: RST, payload: '' }, answer],
    'open, c:question , c reset, closed',
  ],
  [
    'a reset by the server',
    [...CALL, first, { ...answer, flags: RST | ACK, payload: '' }],
    'open, c:question , s reset, closed',
  ],
  [
    'a reset that is too old to be believed',
    [...CALL, first, second, { ...first, flags: RST, payload: '' }, answer, fin, finBack],
    TOLD,
  ],
  [
    'a reset far out of the window',
    [
      ...CALL,
      first,
      second,
      { ...first, sequence: first.sequence + 2 ** 31, flags: RST, payload: '' },
      answer,
      fin,
      finBack,
    ],
    TOLD,
  ],
  [
    'data far out of the window',
    [...CALL, { ...first, sequence: first.sequence + 2 ** 31 - 9, payload: 'X' }, first, second, answer, fin, finBack],
    TOLD,
  ],
  ['a call that is refused', [syn, { ...synAck, flags: RST | ACK, sequence: 0 }], ''],
  ['a call that nobody answers', [syn, syn, syn], ''],
  ['a call that is answered, and no more', [syn, synAck], ''],
  ['a scan: SYN, SYN ACK, RST', [syn, synAck, { ...ack, flags: RST }], ''],
  ['a connection on which nobody speaks', [...CALL, ...connection([]).slice(3)], `open, ${GOODBYE}`],
  ['a connection that is still open at the end', TALK.slice(0, 6), 'open, c:question one, s:answer, closed end'],
  ['no beginning', TALK.slice(3), `open, c:question one, s:answer, ${GOODBYE} start`],
  ['no beginning, and the server speaks first', TALK.slice(5), `open, s:answer, c ended, s ended, closed start`],
  ['no beginning, and no bytes', [ack, { ...ack, sequence: ack.sequence - 1 }], ''],
  ['no SYN of the client', TALK.slice(1), `open, c:question one, s:answer, ${GOODBYE} start`],
  ['a hole', [...CALL, second, answer], 'open, s:answer, closed bytes end'],
  ['bytes that were acknowledged and are not in the capture', [...CALL, answer], 'open, s:answer, closed bytes end'],
  [
    'a hole before the goodbye',
    [...CALL, first, fin, answer, finBack],
    'open, c:question , s:answer, s ended, closed bytes end',
  ],
  ['only the client', TALK.filter(({ from }) => from === syn.from), 'open, c:question one, c ended, closed side end'],
  ['only the server', TALK.filter(({ from }) => from !== syn.from), 'open, s:answer, s ended, closed start side end'],
  [
    'fast open, taken',
    [
      { ...syn, payload: 'question ' },
      { ...synAck, acknowledgement: first.sequence + 9 },
      { ...ack, sequence: second.sequence },
      second,
      answer,
      fin,
      finBack,
    ],
    TOLD,
  ],
  [
    'fast open, not taken and sent again',
    [{ ...syn, payload: 'question ' }, synAck, ack, first, second, answer, fin, finBack],
    TOLD,
  ],
  [
    'fast open, not taken and said otherwise',
    [{ ...syn, payload: 'question ' }, synAck, ack, { ...first, payload: 'QUESTION ' }],
    'open, c:QUESTION , closed end',
  ],
  [
    'fast open, with the SYN sent again without its bytes',
    [{ ...syn, payload: 'question ' }, syn, synAck, ack, first, second, answer, fin, finBack],
    TOLD,
  ],
  [
    'fast open, where only the client was captured',
    [{ ...syn, payload: 'question ' }, { ...ack, sequence: second.sequence }, second],
    'open, c:question one, closed side end',
  ],
  ['bytes in a SYN that nobody answers', [{ ...syn, payload: 'question' }], 'open, c:question, closed side end'],
  [
    'the same ports again after a goodbye',
    [...TALK, ...connection([['client', 'again']], { start: 50_000 })],
    `${TOLD}, open, c:again, ${GOODBYE}`,
  ],
  [
    'the same ports again without a goodbye',
    [...TALK.slice(0, 4), ...connection([['client', 'again']], { start: 50_000 })],
    `open, c:question , closed end, open, c:again, ${GOODBYE}`,
  ],
  ['a call again with another number before it is answered', [{ ...syn, sequence: 5 }, ...TALK], TOLD],
  [
    'both sides call (a split handshake)',
    [
      syn,
      { ...synAck, flags: SYN },
      { ...syn, flags: SYN | ACK, acknowledgement: synAck.sequence + 1 },
      first,
      second,
      answer,
      fin,
      finBack,
    ],
    TOLD,
  ],
]

for (const [name, wires, expected] of CASES) {
  t.test(name, async (t) => {
    t.equal(told(eventsOf(wires)), expected)
    t.equal(told(eventsOf(wires.map(as6))), expected, 'over IPv6')
    t.equal(told(eventsOf(wires.map(wrapped))), expected, 'with sequence numbers that wrap')
  })
}

function as6(wire: Wire): Wire {
  const host = (text: string) => text.replace(/^10\.0\.0\.(\d)/, 'fd00::$1')
  return { ...wire, from: host(wire.from), to: host(wire.to) }
}

function wrapped(wire: Wire): Wire {
  const ahead = { client: 2 ** 32 - 1_005, server: 2 ** 32 - 9_003 }
  const [mine, other] = wire.from === syn.from ? [ahead.client, ahead.server] : [ahead.server, ahead.client]
  const isReset = wire.sequence === 0
  return {
    ...wire,
    sequence: isReset ? 0 : (wire.sequence + mine) >>> 0,
    acknowledgement: ((wire.acknowledgement ?? 0) + other) >>> 0,
  }
}

t.test('who is the client, when its SYN is not in the capture', async (t) => {
  const flowOf = (from: string, to: string, flags: number) =>
    eventsOf([{ from, to, sequence: 1, flags, payload: 'x' }])[0]?.flow.client.port
  t.equal(flowOf('10.0.0.1:40000', '10.0.0.2:80', ACK), 40_000, 'the higher port')
  t.equal(flowOf('10.0.0.2:80', '10.0.0.1:40000', ACK), 40_000)
  t.equal(flowOf('10.0.0.2:40001', '10.0.0.1:40000', SYN | ACK), undefined)
  const [, answerFirst] = connection([], { client: '10.0.0.1:80', server: '10.0.0.2:40000' })
  const events = eventsOf([answerFirst!, { ...answerFirst!, sequence: 9_001, flags: ACK, payload: 'hi' }])
  t.equal(events[0]?.flow.client.port, 80, 'whoever the SYN ACK goes to')
})

t.test('many connections at once are kept apart', async (t) => {
  const talks = Array.from({ length: 50 }, (_, at) =>
    connection(
      [
        ['client', `question ${at}`],
        ['server', `answer ${at}`],
      ],
      { client: `10.0.0.1:${40_000 + at}` },
    ),
  )
  const mixed = talks[0]!.flatMap((_, step) => talks.map((talk) => talk[step]!))
  const events = eventsOf(mixed, { end: false })
  for (let at = 0; at < 50; at++) {
    const mine = events.filter(({ flow }) => flow.client.port === 40_000 + at)
    t.equal(told(mine), `open, c:question ${at}, s:answer ${at}, ${GOODBYE}`)
  }
})

t.test('what is held is bounded: flows, and bytes out of order', async (t) => {
  const reader = conversationReader()
  const push = (wire: Wire) => {
    const bytes = packet(wire)
    return reader.push({ number: 1, time: 0, linkType: 101, bytes, length: bytes.length })
  }
  let closed = 0
  for (let at = 0; at < FLOWS_MAX + 10; at++) {
    const talk = connection([['client', 'x']], { client: `10.${at >> 14}.${(at >> 7) & 127}.${at & 127}:40000` })
    for (const wire of talk.slice(0, 4)) closed += push(wire).filter(({ is }) => is === 'closed').length
  }
  t.equal(closed, 10, 'who was silent longest made room')

  const wires = [...CALL]
  const big = 'x'.repeat(1_000)
  for (let at = 1; at < 1_200; at++) wires.push({ ...first, sequence: first.sequence + at * 1_000, payload: big })
  const events = eventsOf([...wires, { ...first, payload: big }], { end: true })
  t.equal(told(events), 'open, closed bytes end', 'a hole that is too long is not waited for')
})

/** Segments of one stream: cut anywhere, sent more than once, in any order, with any overlap. */
t.test('any order of any cuts gives the stream', async (t) => {
  const text = Array.from({ length: 200 }, (_, at) => String.fromCharCode(33 + (at % 90))).join('')
  const cut = fc.tuple(fc.nat(199), fc.integer({ min: 1, max: 60 }))
  fc.assert(
    fc.property(fc.array(cut, { maxLength: 30 }), fc.integer({ min: 0, max: 2 ** 32 - 1 }), (cuts, start) => {
      const talk = connection([['client', text]], { start })
      const whole = talk[3]!
      const pieces = cuts.map(([from, length]) => ({
        ...whole,
        sequence: (whole.sequence + from) >>> 0,
        payload: text.slice(from, from + length),
      }))
      t.equal(told(eventsOf([...talk.slice(0, 3), ...pieces, ...talk.slice(3)])), `open, c:${text}, ${GOODBYE}`)
    }),
    { numRuns: 200 },
  )
})

t.test('no segments throw, and each flow that opens closes once', async (t) => {
  const wire = fc.record({
    from: fc.constantFrom('10.0.0.1:40000', '10.0.0.2:80'),
    sequence: fc.oneof(fc.integer({ min: 0, max: 40 }), fc.constantFrom(2 ** 32 - 1, 2 ** 31, 2 ** 31 + 20)),
    acknowledgement: fc.integer({ min: 0, max: 40 }),
    flags: fc.constantFrom(SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK, 0, SYN | FIN),
    payload: fc.string({ maxLength: 12 }),
  })
  fc.assert(
    fc.property(fc.array(wire, { maxLength: 40 }), (wires) => {
      const all = wires.map(
        (one): Wire => ({ ...one, to: one.from === '10.0.0.2:80' ? '10.0.0.1:40000' : '10.0.0.2:80' }),
      )
      const open = new Set<object>()
      for (const event of eventsOf(all)) {
        if (event.is === 'opened') open.add(event.flow)
        else if (!open.has(event.flow)) throw new Error(`${event.is} of a flow that is not open`)
        if (event.is === 'closed') open.delete(event.flow)
      }
      t.equal(open.size, 0)
    }),
    { numRuns: 500 },
  )
})
