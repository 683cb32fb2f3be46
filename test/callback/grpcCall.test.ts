import fc from 'fast-check'
import { test } from 'tap'
import { openGrpcCall, timeoutMs } from '../../src/callback/grpcCall.ts'
import type { Answer, Asking } from '../../src/forward/exchange.ts'
import { manualClock } from '../support/manualClock.ts'

const framed = (length: number): Buffer => {
  const message = Buffer.alloc(5 + length, 0xee)
  message[0] = 0
  message.writeUInt32BE(length, 1)
  return message
}

/** A call between a caller and an app that both write down what they are told. */
const scene = (messageBytesMax: number, fields: string[] = []) => {
  const clock = manualClock()
  const toApp: string[] = []
  const toCaller: string[] = []
  const sent: Buffer[] = []
  let app: Answer | undefined
  const asking: Asking = {
    data: (chunk) => void sent.push(chunk),
    trailers: () => void toApp.push('trailers'),
    abort: (code) => void toApp.push(`abort ${code}`),
    consumed: () => {},
  }
  const answer: Answer = {
    information: () => {},
    head: ({ fields: found }, last) => void toCaller.push(`head ${found.join(' ')}${last ? ' end' : ''}`),
    data: (chunk, last) => void toCaller.push(`data ${chunk.length}${last ? ' end' : ''}`),
    trailers: (found) => void toCaller.push(`trailers ${found.join(' ')}`),
    abort: (code) => void toCaller.push(`abort ${code}`),
    consumed: () => {},
  }
  const head = { method: 'POST', scheme: 'http', authority: 'a', target: '/a.B/C', version: '2' as const, fields }
  const call = openGrpcCall(
    (_, __, given) => {
      app = given
      return asking
    },
    head,
    false,
    answer,
    { clock, messageBytesMax },
  )
  return { clock, call, app: app!, toApp, toCaller, sent: () => Buffer.concat(sent) }
}

test('however the messages are cut, those that fit pass as they are, and the first that does not ends the call', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 40 }), { maxLength: 8 }),
      fc.array(fc.integer({ min: 1, max: 23 }), { minLength: 1, maxLength: 20 }),
      (lengths, cuts) => {
        const bytes = Buffer.concat(lengths.map(framed))
        const { call, toApp, toCaller, sent } = scene(30)
        for (let at = 0, cut = 0; at < bytes.length; cut += 1) {
          const size = cuts[cut % cuts.length]!
          call.data(bytes.subarray(at, at + size), false)
          at += size
        }
        const tooLarge = lengths.some((length) => length > 30)
        if (tooLarge) return toApp.includes('abort 8') && /grpc-status 8 .* end$/.test(toCaller.join())
        return toCaller.length === 0 && toApp.length === 0 && sent().equals(bytes)
      },
    ),
  )
  t.end()
})

test('a deadline ends the call once, with trailers where the answer has begun', async (t) => {
  const early = scene(100, ['grpc-timeout', '2S'])
  early.clock.advance(1_999)
  t.same([early.toApp, early.toCaller], [[], []])
  early.clock.advance(1)
  t.same(early.toApp, ['abort 8'])
  t.match(early.toCaller, [/^head content-type application\/grpc grpc-status 4 .* end$/])

  const late = scene(100, ['grpc-timeout', '2S'])
  late.app.head({ status: 200, reason: '', fields: [] }, false)
  late.clock.advance(5_000)
  late.app.data(framed(1), false)
  late.app.trailers(['grpc-status', '0'])
  t.match(late.toCaller, ['head ', /^trailers grpc-status 4/])
  t.equal(late.toCaller.length, 2)

  const inTime = scene(100, ['grpc-timeout', '2S'])
  inTime.app.head({ status: 200, reason: '', fields: ['grpc-status', '0'] }, true)
  inTime.clock.advance(5_000)
  t.same([inTime.toApp, inTime.toCaller], [[], ['head grpc-status 0 end']])
  t.equal(inTime.clock.pending(), 0)
})

test('a response that is too large ends the call where it is', async (t) => {
  const begun = scene(10)
  begun.app.head({ status: 200, reason: '', fields: [] }, false)
  begun.app.data(framed(3), false)
  begun.app.data(framed(11), false)
  begun.app.data(framed(3), true)
  t.match(begun.toCaller, ['head ', 'data 8', /^trailers grpc-status 8/])
  t.equal(begun.toCaller.length, 3)
  t.same(begun.toApp, ['abort 8'])
})

test('grpc-timeout is at most eight digits and a unit', async (t) => {
  const cases: readonly (readonly [text: string | undefined, ms: number | undefined])[] = [
    ['1H', 3_600_000],
    ['2M', 120_000],
    ['3S', 3_000],
    ['4m', 4],
    ['5u', 0.005],
    ['7n', 0.000007],
    ['0m', 0],
    ['99999999H', 2_147_483_647],
    ['123456789m', undefined],
    ['m', undefined],
    ['1', undefined],
    ['1s', undefined],
    ['-1S', undefined],
    ['1.5S', undefined],
    ['', undefined],
    [undefined, undefined],
  ]
  for (const [text, ms] of cases) {
    const found = timeoutMs(text)
    if (ms === undefined || found === undefined) t.equal(found, ms, `${text}`)
    else t.ok(Math.abs(found - ms) < 1e-9, `${text}`)
  }
})
