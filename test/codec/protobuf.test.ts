import fc from 'fast-check'
import { test } from 'tap'
import { bytesOf, encodeTexts, type Field, fields, numberOf, textOf } from '../../src/codec/protobuf.ts'
import { ProtocolError } from '../../src/net/protocolError.ts'
import { destinationMethods } from '../support/destinationServer.ts'

const read = (bytes: readonly number[] | Uint8Array): Field[] => [...fields(Uint8Array.from(bytes))]

test('fields of every wire type that proto3 has', async (t) => {
  t.same(read([0x08, 0x96, 0x01]), [{ number: 1, value: 150 }])
  t.same(read([0x12, 3, 97, 98, 99]), [{ number: 2, value: Buffer.from('abc') }])
  t.same(read([0x0d, 1, 0, 0, 10]), [{ number: 1, value: 0x0a000001 }])
  t.same(read([0x09, 1, 0, 0, 0, 0, 0, 0, 0x80]), [{ number: 1, value: 0x8000000000000001n }])
  t.same(read([]), [])
  t.equal(textOf(read([0x12, 3, 97, 98, 99])[0]!), 'abc')
  t.throws(() => bytesOf(read([0x08, 1])[0]!), /is a number/)
  t.throws(() => numberOf(read([0x12, 0])[0]!), /is not a number/)
  t.throws(() => numberOf(read([0x09, 1, 0, 0, 0, 0, 0, 0, 0])[0]!), /is not a number/)
})

const HOSTILE: readonly (readonly [why: string, bytes: readonly number[]])[] = [
  ['a number that does not end', [0x08, 0x80]],
  ['a number of eleven bytes', [0x08, ...Array(10).fill(0x80), 1]],
  ['a field that does not end', [0x12, 5, 97]],
  ['a length beyond all memory', [0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]],
  ['field 0', [0x00, 1]],
  ['a field number that does not exist', [0xf8, 0xff, 0xff, 0xff, 0xff, 0x7f, 1]],
  ['a group', [0x0b]],
  ['the end of a group', [0x0c]],
  ['wire type 6', [0x0e]],
  ['half a fixed32', [0x0d, 1, 2]],
  ['half a fixed64', [0x09, 1, 2, 3, 4]],
]

test('bytes that are no message are refused', async (t) => {
  for (const [why, bytes] of HOSTILE) t.throws(() => read(bytes), ProtocolError, why)
})

test('whatever the bytes are, they are read or refused', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      try {
        read(bytes)
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error
      }
    }),
    { numRuns: 3000 },
  )
})

test('a message of texts is what another implementation reads', async () => {
  const { requestDeserialize } = destinationMethods().Get
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), fc.string({ maxLength: 400 }), (path, token) => {
      const bytes = encodeTexts([
        [1, ''],
        [2, path],
        [3, token],
      ])
      const found = requestDeserialize(Buffer.from(bytes))
      return found.scheme === '' && found.path === path && found.contextToken === token
    }),
  )
})
