import fc from 'fast-check'
import { test } from 'tap'
import {
  type ConnectAnswer,
  decodeConnectAnswer,
  EMPTY_GRPC_MESSAGE,
  encodeConnectAnswer,
  grpcMessage,
  NONCE_BYTES,
  unaryMessage,
} from '../../src/callback/wire.ts'
import { ProtocolError } from '../../src/net/protocolError.ts'

const NONCE = Buffer.from(Array.from({ length: NONCE_BYTES }, (_, i) => i))

const same = (a: ConnectAnswer, b: ConnectAnswer): boolean =>
  a.port === b.port && Buffer.from(a.nonce ?? []).equals(Buffer.from(b.nonce ?? []))

test('the answer for port 46021 has the bytes of the reference', async (t) => {
  t.equal(encodeConnectAnswer({ port: 46_021 }).toString('hex'), '08c5e702')
  t.equal(grpcMessage(encodeConnectAnswer({ port: 46_021 })).toString('hex'), '000000000408c5e702')
  t.equal(encodeConnectAnswer({ port: 1, nonce: NONCE }).toString('hex'), `08011220${NONCE.toString('hex')}`)
  t.equal(EMPTY_GRPC_MESSAGE.toString('hex'), '0000000000')
  t.ok(grpcMessage(Buffer.alloc(0)).equals(EMPTY_GRPC_MESSAGE))
})

test('what was encoded is decoded again, behind the prefix of gRPC too', async () => {
  const answers = fc.record(
    {
      port: fc.integer({ min: 1, max: 65_535 }),
      nonce: fc.uint8Array({ minLength: NONCE_BYTES, maxLength: NONCE_BYTES }),
    },
    { requiredKeys: ['port'] },
  )
  fc.assert(
    fc.property(answers, (answer) =>
      same(decodeConnectAnswer(unaryMessage(grpcMessage(encodeConnectAnswer(answer)))), answer),
    ),
  )
})

test('fields that are unknown are skipped, and the last of a field given twice counts', async (t) => {
  const others = Buffer.from('18ffffffffffffffffff01' + '2102030405060708' + '09' + '2a03616263' + '3501020304', 'hex')
  const answer = Buffer.concat([
    others,
    encodeConnectAnswer({ port: 9, nonce: NONCE }),
    others,
    Buffer.from('080a', 'hex'),
  ])
  t.ok(same(decodeConnectAnswer(answer), { port: 10, nonce: NONCE }))
})

test('whatever else comes is a ProtocolError', async (t) => {
  const wrong: Readonly<Record<string, string>> = {
    'no port': '',
    'port 0': '0800',
    'a port above 65535': '08808004',
    'a negative port': '08ffffffffffffffffff01',
    'a number without end': '08ffffffffffffffffffff01',
    'a number cut short': '08c5',
    'a short nonce': '080112021234',
    'a nonce cut short': '0801122000',
    'the end of a group': '08010c',
  }
  for (const [what, hex] of Object.entries(wrong))
    t.throws(() => decodeConnectAnswer(Buffer.from(hex, 'hex')), { code: 'CALLBACK_MESSAGE' }, what)
  for (const hex of ['', '00000000', '0100000000', '0000000001', '000000000008', '0000100000'])
    t.throws(() => unaryMessage(Buffer.from(hex, 'hex')), { code: 'CALLBACK_MESSAGE' }, `body ${hex}`)
})

test('no bytes make the decoder throw anything else, and every cut is noticed', async (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      try {
        decodeConnectAnswer(bytes)
      } catch (error) {
        return error instanceof ProtocolError
      }
      return true
    }),
  )
  const whole = encodeConnectAnswer({ port: 46_021, nonce: NONCE })
  for (let length = 0; length < whole.length; length++) {
    if (length === 4) continue // the port alone is a whole answer
    t.throws(() => decodeConnectAnswer(whole.subarray(0, length)), ProtocolError, `${length} bytes`)
  }
})
