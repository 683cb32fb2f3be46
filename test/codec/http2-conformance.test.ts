import fc from 'fast-check'
import { type Test, test } from 'tap'
import { HpackDecoder } from '../../src/codec/hpack.ts'
import { receive } from '../../src/codec/http2.ts'
import { FLAG, FRAME, PREFACE } from '../../src/codec/http2Codes.ts'
import { pump, resetStream, sendData, sendRequest, sendResponse, sendTrailers } from '../../src/codec/http2Send.ts'
import type { Stream } from '../../src/codec/http2State.ts'
import { ProtocolError } from '../../src/net/protocolError.ts'
import {
  block,
  encoded,
  frame,
  frames,
  headers,
  POST,
  preface,
  REQUEST,
  record,
  settings,
  settingsAck,
  uint32,
} from '../support/http2.ts'
import {
  answering,
  big,
  type Case,
  cases,
  clientCases,
  continuation,
  data,
  dependency,
  END,
  inOrder,
  OK,
  OPEN,
  open,
  ping,
  pingFrame,
  priority,
  rstStream,
  WHOLE,
  windowUpdate,
} from '../support/http2Cases.ts'

const check = (t: Test, { send, want, limits }: Case, feed: (bytes: Buffer) => Buffer[]): void => {
  const server = answering(limits, 'server', limits?.windowBytes === undefined)
  server.feed(preface, settingsAck)
  const found = feed(Buffer.concat(send)).flatMap((piece) => server.feed(piece))
  t.ok(inOrder(found, want), `${want.join(', ')} in ${found.join(', ')}`)
  const ended = want[0]!.startsWith('goaway')
  t.equal(server.h2.failure !== undefined, ended, 'whether the connection ended')
  if (ended) t.strictSame(server.feed(headers(101)), [], 'and nothing is read after it')
  else t.strictSame(server.feed(frame(ping, 0, 0, big(8))), ['ping ack'], 'and it goes on')
}

const whole = (bytes: Buffer): Buffer[] => [bytes]
const byteByByte = (bytes: Buffer): Buffer[] => {
  const size = bytes.length > 3000 ? 1009 : 1
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) => bytes.subarray(at * size, (at + 1) * size))
}

for (const one of cases)
  test(`RFC ${one.section.includes(' ') ? one.section : `9113 ${one.section}`}: ${one.title}`, async (t) => {
    check(t, one, whole)
    check(t, one, byteByByte)
  })

test('RFC 9113 3.4: a server wants the preface, and SETTINGS as the first frame', async (t) => {
  t.strictSame(record('server').feed(Buffer.from('GET / HTTP/1.1\r\n')).at(-1), 'goaway PROTOCOL_ERROR')
  t.strictSame(record('server').feed(PREFACE, pingFrame).at(-1), 'goaway PROTOCOL_ERROR')
  t.strictSame(record('server').feed(PREFACE, settingsAck).at(-1), 'goaway PROTOCOL_ERROR')
  t.strictSame(record('client').feed(pingFrame).at(-1), 'goaway PROTOCOL_ERROR')
})

test('RFC 9113 3.4: both sides begin with SETTINGS, the client after the preface', async (t) => {
  const client = record('client').taken()
  t.ok(client.subarray(0, 24).equals(PREFACE))
  t.equal(client[27], FRAME.settings)
  t.equal(record('server').out()[0], 'settings')
})

test('RFC 9113 8.3.1: a request without authority, as of HTTP/1.0, is sent without :authority', async (t) => {
  for (const authority of ['', 'a']) {
    const client = record('client')
    client.taken()
    sendRequest(client.h2, { method: 'GET', scheme: 'http', authority, target: '/', fields: [] }, true, undefined)
    const { payload } = frames(client.taken()).find(({ type }) => type === FRAME.headers)!
    const fields = new HpackDecoder({ listBytesMax: 1000, fieldsMax: 10 }).decode(payload, 0, payload.length)
    t.equal(fields.includes(':authority'), authority !== '')
  }
})

test('RFC 9113 6.7: an acknowledged PING is not answered', async (t) => {
  const server = answering()
  server.feed(preface)
  t.strictSame(server.feed(frame(ping, FLAG.ack, 0, big(8))), [])
  t.strictSame(server.events, ['pingAnswered'])
})

for (const { section, title, send, want } of clientCases)
  test(`RFC 9113 ${section}, as client: ${title}`, async (t) => {
    for (const pieces of [whole, byteByByte]) {
      const client = record<undefined>('client')
      client.feed(settings(), settingsAck)
      const ask = { method: 'POST', scheme: 'http', authority: 'a', target: '/', fields: [] }
      sendRequest(client.h2, ask, false, undefined)
      sendRequest(client.h2, { ...ask, method: 'HEAD' }, true, undefined)
      for (const piece of pieces(Buffer.concat(send))) client.feed(piece)
      t.ok(client.events.includes(want), `${want} in ${client.events.join(', ')}`)
    }
  })

test('frames for a stream we have reset are ignored, and their window comes back', async (t) => {
  const server = record<undefined>('server', { limits: { connectionWindowBytes: 65_535 } })
  server.feed(preface, open)
  resetStream(server.h2, server.h2.streams.get(1)!, 8)
  t.strictSame(server.out(), ['rstStream 1 CANCEL'])
  t.strictSame(server.feed(frame(data, 0, 1, big(16_384))), ['windowUpdate 0 16384'])
  t.strictSame(server.feed(headers(1, ['a: b'])), [])
})

const chatter: readonly [what: string, bytes: Buffer, setup?: Buffer][] = [
  ['PING', pingFrame],
  ['SETTINGS', settings()],
  ['acknowledgements of SETTINGS', settingsAck],
  ['PRIORITY', frame(priority, 0, 1, dependency(0))],
  ['unknown frames', frame(99, 0, 0)],
  ['empty DATA', frame(data, 0, 1), open],
  ['DATA of padding only', frame(data, FLAG.padded, 1, [0]), open],
  ['WINDOW_UPDATE', frame(windowUpdate, 0, 1, uint32(1)), open],
  [
    'RST_STREAM of a closed stream',
    frame(rstStream, 0, 1, uint32(8)),
    Buffer.concat([open, frame(rstStream, 0, 1, uint32(8))]),
  ],
  ['DATA on a stream reset by its sender', frame(data, 0, 1), Buffer.concat([open, frame(rstStream, 0, 1, uint32(8))])],
]
for (const [what, bytes, setup = Buffer.alloc(0)] of chatter)
  test(`a flood of ${what} ends with ENHANCE_YOUR_CALM, a thousand at the most`, async (t) => {
    const server = record('server')
    server.feed(preface, settingsAck, setup)
    let count = 0
    while (server.h2.failure === undefined && count < 3000) {
      server.feed(bytes)
      count += 1
    }
    t.match(server.h2.failure, { code: 'HTTP2_ENHANCE_YOUR_CALM' })
    t.ok(count <= 1001, `${count}`)
    t.ok(count >= 90)
  })

test('streams reset as fast as they are opened end with ENHANCE_YOUR_CALM (CVE-2023-44487)', async (t) => {
  const server = record('server')
  server.feed(preface)
  let id = 1
  for (; server.h2.failure === undefined && id < 9999; id += 2)
    server.feed(headers(id, POST), frame(rstStream, 0, id, uint32(8)))
  t.match(server.h2.failure, { code: 'HTTP2_ENHANCE_YOUR_CALM' })
  t.ok(id < 1100, `${id}`)
})

test('streams that make us reset them end with ENHANCE_YOUR_CALM (CVE-2025-8671)', async (t) => {
  const server = record('server')
  server.feed(preface)
  let id = 1
  for (; server.h2.failure === undefined && id < 9999; id += 2)
    server.feed(headers(id, POST, OPEN), frame(windowUpdate, 0, id, uint32(0)))
  t.match(server.h2.failure, { code: 'HTTP2_ENHANCE_YOUR_CALM' })
})

test('a client that has each answer before it resets the next is left in peace', async (t) => {
  const server = answering()
  server.feed(preface)
  for (let id = 1; id < 8001; id += 4)
    server.feed(headers(id), headers(id + 2, POST, OPEN), frame(rstStream, 0, id + 2, uint32(8)))
  t.equal(server.h2.failure, undefined)
})

test('CONTINUATION without end and header lists that explode end with ENHANCE_YOUR_CALM', async (t) => {
  const flood = record('server')
  flood.feed(preface, headers(1, REQUEST, END))
  for (let count = 0; count < 40; count++) flood.feed(frame(continuation, 0, 1, block('a: b')))
  t.match(flood.h2.failure, { code: 'HTTP2_ENHANCE_YOUR_CALM' })
  const large = record('server')
  large.feed(preface, headers(1, REQUEST, END))
  for (let count = 0; count < 10; count++) large.feed(frame(continuation, 0, 1, big(16_384)))
  t.match(large.h2.failure, { code: 'HTTP2_ENHANCE_YOUR_CALM' })
  const bomb = record('server')
  const seed = encoded(['x', 'y'.repeat(900)])
  bomb.feed(preface, frame(FRAME.headers, WHOLE, 1, Buffer.concat([block(...REQUEST), seed, Buffer.alloc(4000, 0xbe)])))
  t.match(bomb.h2.failure, { code: 'HTTP2_ENHANCE_YOUR_CALM' })
})

test('a head a little over the limits is told so and the connection lives', async (t) => {
  const server = record('server')
  server.feed(preface, headers(1, [...REQUEST, ...Array.from({ length: 100 }, (_, at) => `x-${at}: y`)]))
  t.ok(server.events.includes('tooLarge 1 end'))
  t.equal(server.h2.failure, undefined)
})

test('a reader that keeps up gets a larger window, one that does not keeps the small one', async (t) => {
  const fast = record('server', { limits: { windowBytes: 65_535, windowBytesMax: 262_144 } })
  const slow = record('server', { limits: { windowBytes: 65_535, windowBytesMax: 262_144 }, consumes: false })
  for (const server of [fast, slow]) {
    server.feed(preface, open)
    for (let sent = 0; sent < 20; sent++)
      server.feed(frame(data, 0, 1, big(Math.min(8192, server.h2.streams.get(1)?.receiveWindow ?? 0))))
  }
  t.equal(fast.h2.streams.get(1)?.windowBytes, 131_070)
  t.equal(slow.h2.streams.get(1)?.windowBytes, 65_535)
  t.equal(slow.h2.unreadBytes, 65_535, 'and no more than that lies in memory')
})

test('what was not consumed when its message is over does not count against the connection for ever', async (t) => {
  const client = record<undefined>('client', { consumes: false })
  client.feed(settings(), settingsAck)
  const ask = { method: 'POST', scheme: 'http', authority: 'a', target: '/', fields: [] }
  for (let id = 1; id < 2001; id += 2) {
    sendRequest(client.h2, ask, true, undefined)
    client.feed(headers(id, OK, OPEN), frame(data, END, id, big(16_384)))
  }
  t.equal(client.h2.unreadBytes, 0)
  t.equal(client.h2.failure, undefined)
  const server = answering({}, 'server', false)
  server.feed(preface)
  for (let id = 1; id < 2001; id += 2) server.feed(headers(id, POST, OPEN), frame(data, END, id, big(16_384)))
  t.equal(server.h2.unreadBytes, 0)
  t.equal(server.h2.failure, undefined)
})

test('waiting streams send in turn, a frame each', async (t) => {
  const server = record<undefined>('server', {
    handler: {
      requestRead(stream) {
        sendResponse(server.h2, stream, 200, [], false)
        sendData(server.h2, stream, big(40_000), false)
        sendTrailers(server.h2, stream, ['a', 'b'])
      },
    },
  })
  server.h2.sendWindow = 0
  const first = server.feed(preface, headers(1), headers(3))
  t.strictSame(
    first.filter((line) => line.startsWith('data')),
    [],
  )
  t.strictSame(server.feed(frame(windowUpdate, 0, 0, uint32(70_000))), [
    'data 1 16384',
    'data 3 16384',
    'data 1 16384',
    'data 3 16384',
    'data 1 4464',
  ])
  t.strictSame(server.feed(frame(windowUpdate, 0, 0, uint32(70_000))), [
    'data 3 7232',
    'headers 3 end',
    'data 1 2768',
    'headers 1 end',
  ])
})

test('what waits for its turn goes out whole, though the memory it came in and goes out by is used again', async () => {
  const shared = Buffer.alloc(65_536) // what every chunk is read into
  const step = fc.record({
    stream: fc.nat(2),
    bytes: fc.integer({ min: 0, max: 65_536 }),
    isCongested: fc.boolean(),
    window: fc.nat(200_000),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const streams: Stream<undefined>[] = []
      const server = record<undefined>('server', { handler: { requestRead: (stream) => void streams.push(stream) } })
      server.feed(preface, headers(1), headers(3), headers(5))
      for (const stream of streams) sendResponse(server.h2, stream, 200, [], false)
      const given = [0, 0, 0]
      const came: Buffer[][] = [[], [], []]
      const taken = (): void => {
        const parts = server.h2.output.take()
        for (const { type, stream, payload } of frames(Buffer.concat(parts)))
          if (type === FRAME.data) came[(stream - 1) / 2]!.push(payload)
        for (const part of parts) part.fill(255)
        server.h2.output.giveBack(parts)
      }
      const windows = (bytes: number): void => {
        const update = (id: number) => frame(windowUpdate, 0, id, uint32(bytes + 1))
        receive(server.h2, Buffer.concat([update(0), update(1), update(3), update(5)]), 0)
        pump(server.h2)
      }
      taken()
      for (const { stream, bytes, isCongested, window } of steps) {
        server.h2.isCongested = isCongested
        for (let at = 0; at < bytes; at++) shared[at] = (given[stream]! + at) % 251
        sendData(server.h2, streams[stream]!, shared.subarray(0, bytes), false)
        given[stream]! += bytes
        shared.fill(254)
        windows(window)
        taken()
      }
      server.h2.isCongested = false
      for (const stream of streams) sendData(server.h2, stream, Buffer.alloc(0), true)
      while (server.h2.streams.size > 0) {
        windows(1_000_000)
        taken()
      }
      for (const [nth, parts] of came.entries()) {
        const bytes = Buffer.concat(parts)
        if (bytes.length !== given[nth]) throw new Error(`${bytes.length} bytes of ${given[nth]}`)
        const wrong = bytes.findIndex((byte, at) => byte !== at % 251)
        if (wrong >= 0) throw new Error(`byte ${wrong} of stream ${nth} is another's`)
      }
    }),
  )
})

test('a server that answers before the request is over asks the client to stop', async (t) => {
  const server = record<undefined>('server', {
    handler: { requestRead: (stream) => sendResponse(server.h2, stream, 413, [], true) },
  })
  server.feed(preface)
  t.strictSame(server.feed(open), ['headers 1 end', 'rstStream 1 NO_ERROR'])
  t.strictSame(server.feed(frame(data, 0, 1, big(10))), [])
})

test('until it is asked to stop, what it sends is taken and thrown away, and its own window is not renewed', async (t) => {
  let isOver = false
  const server = record<undefined>('server', {
    handler: {
      requestRead: (stream) => sendResponse(server.h2, stream, 413, [], true),
      answeredEarly: () => {
        isOver = true
      },
    },
    limits: { windowBytes: 65_535, connectionWindowBytes: 65_535 },
  })
  server.feed(preface)
  t.strictSame(server.feed(open), ['headers 1 end'])
  t.ok(isOver)
  const sent = server.feed(...Array.from({ length: 3 }, () => frame(data, 0, 1, big(16_384))))
  t.strictSame(sent, ['windowUpdate 0 16384', 'windowUpdate 0 16384', 'windowUpdate 0 16384'])
  t.equal(server.h2.unreadBytes, 0)
  t.strictSame(server.feed(frame(data, END, 1, big(10)), pingFrame), ['ping ack'])
  t.equal(server.h2.streams.size, 0)
})

const frameBytes = fc.oneof(
  fc.constantFrom(...cases.flatMap(({ send }) => send)).map((bytes) => Buffer.from(bytes)),
  fc
    .tuple(fc.nat(10), fc.nat(63), fc.nat(6), fc.uint8Array({ maxLength: 40 }))
    .map(([type, flags, id, payload]) => frame(type, flags, id, payload)),
)
const conversation = fc.tuple(fc.array(frameBytes, { maxLength: 8 }), fc.array(fc.nat(300), { maxLength: 12 }))

test('of a DATA frame that does not fit its content-length not a byte is handed on, however it is cut', (t) => {
  const long = headers(1, [...POST, 'content-length: 7'], OPEN)
  for (const [what, bytes] of [
    ['too long', frame(data, 0, 1, big(100))],
    ['too long, in padding', frame(data, 8, 1, Buffer.concat([Buffer.of(5), big(100), Buffer.alloc(5)]))],
    ['ends too early', frame(data, END, 1, big(3))],
  ] as const)
    for (const cut of [bytes.length, 10, 11, 12, bytes.length - 1]) {
      const server = answering()
      server.feed(preface, long)
      const out = [bytes.subarray(0, cut), bytes.subarray(cut)].flatMap((piece) => server.feed(piece))
      t.strictSame(out, ['rstStream 1 PROTOCOL_ERROR'], `${what}, cut at ${cut}`)
      t.notOk(
        server.events.some((line) => line.startsWith('data')),
        `${what}, cut at ${cut}`,
      )
    }
  t.end()
})

for (const role of ['server', 'client'] as const)
  test(`as ${role}, any split of any bytes gives the same events and answers, and throws only ProtocolError`, async () => {
    fc.assert(
      fc.property(conversation, ([frames, cuts]) => {
        const bytes = Buffer.concat([role === 'server' ? preface : settings(), ...frames])
        const run = (pieces: readonly Buffer[]): string => {
          const peer = answering({}, role)
          if (role === 'client')
            sendRequest(
              peer.h2,
              { method: 'POST', scheme: 'http', authority: 'a', target: '/', fields: [] },
              false,
              undefined,
            )
          const out = pieces.flatMap((piece) => peer.feed(piece))
          return [...peer.events, ...out].join('\n')
        }
        const places = [...new Set(cuts)].sort((a, b) => a - b)
        const pieces = [0, ...places].map((from, at) => bytes.subarray(from, places[at] ?? bytes.length))
        return run([bytes]) === run(pieces)
      }),
      { numRuns: 300 },
    )
  })

test('any bytes at all throw only ProtocolError', async (t) => {
  let refused = 0
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      const server = answering()
      try {
        server.feed(Buffer.concat([preface, bytes]))
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error
      }
      refused += server.h2.failure === undefined ? 0 : 1
    }),
    { numRuns: 500 },
  )
  t.ok(refused > 0)
})
