import { ProtocolError } from '../net/protocolError.ts'

/** One field of a message: a number for varint and fixed32, a bigint for fixed64, bytes for all that has a length. */
export interface Field {
  readonly number: number
  readonly value: number | bigint | Uint8Array
}

const VARINT_BYTES_MAX = 10 // what 64 bits take
const VARINT = 0
const FIXED64 = 1
const LENGTH = 2
const FIXED32 = 5

const fail = (message: string): never => {
  throw new ProtocolError('PROTOBUF', message)
}

/**
 * The fields of a message, in the order they were written (protobuf.dev, "Encoding"). Varints are read as
 * unsigned numbers, exact up to 53 bits, and no field we read is larger. Groups, which no proto3 message has, are an error. Throws ProtocolError.
 */
export function* fields(bytes: Uint8Array): Generator<Field> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let at = 0
  const varint = (): number => {
    let value = 0
    for (let i = 0, scale = 1; i < VARINT_BYTES_MAX; i++, scale *= 128) {
      const byte = bytes[at++] ?? fail('it ends within a number')
      value += (byte & 127) * scale
      if (byte < 128) return value
    }
    return fail('a number of more than ten bytes')
  }
  const take = (length: number): number => {
    if (length > bytes.length - at) fail('it ends within a field')
    at += length
    return at - length
  }
  while (at < bytes.length) {
    const tag = varint()
    const number = Math.floor(tag / 8)
    const kind = tag % 8
    if (number === 0 || number > 536_870_911) fail(`there is no field number ${number}`)
    if (kind === VARINT) yield { number, value: varint() }
    else if (kind === FIXED64) yield { number, value: view.getBigUint64(take(8), true) }
    else if (kind === FIXED32) yield { number, value: view.getUint32(take(4), true) }
    else if (kind === LENGTH) {
      const length = varint()
      const start = take(length)
      yield { number, value: bytes.subarray(start, start + length) }
    } else fail(`there is no wire type ${kind}`)
  }
}

const text = new TextDecoder()

/** The value of a field that has to be bytes: a message, a text, bytes. */
export const bytesOf = ({ number, value }: Field): Uint8Array =>
  value instanceof Uint8Array ? value : fail(`field ${number} is a number, not a message or a text`)

/** The value of a field that has to be text. */
export const textOf = (field: Field): string => text.decode(bytesOf(field))

/** The value of a field that has to be a number of at most 32 bits, or a boolean. */
export const numberOf = ({ number, value }: Field): number =>
  typeof value === 'number' ? value : fail(`field ${number} is not a number`)

/** A message of texts, which is all that we send: each pair is the number of a field and its value; empty ones are left out. */
export const encodeTexts = (parts: readonly (readonly [number: number, value: string])[]): Uint8Array => {
  const encoder = new TextEncoder()
  const out: number[] = []
  const varint = (value: number): void => {
    for (; value > 127; value = Math.floor(value / 128)) out.push((value % 128) | 128)
    out.push(value)
  }
  for (const [number, value] of parts) {
    if (value === '') continue
    const encoded = encoder.encode(value)
    varint(number * 8 + LENGTH)
    varint(encoded.length)
    out.push(...encoded)
  }
  return Uint8Array.from(out)
}
