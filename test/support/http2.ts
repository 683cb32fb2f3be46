import { HpackDecoder, HpackEncoder } from '../../src/codec/hpack.ts'
import { receive } from '../../src/codec/http2.ts'
import { ERROR, errorName, FLAG, FRAME, PREFACE } from '../../src/codec/http2Codes.ts'
import { consume, resetStream, start } from '../../src/codec/http2Send.ts'
import {
  HTTP2_LIMITS,
  type Http2,
  type Http2Handler,
  type Http2Limits,
  newHttp2,
  type Role,
  type Stream,
} from '../../src/codec/http2State.ts'
import { ProtocolError } from '../../src/net/protocolError.ts'

/** A raw frame, as wrong as the test wants it. */
export const frame = (type: number, flags: number, stream: number, payload: Uint8Array | number[] = []): Buffer => {
  const bytes = Buffer.alloc(9 + payload.length)
  bytes.writeUIntBE(payload.length, 0, 3)
  bytes[3] = type
  bytes[4] = flags
  bytes.writeUInt32BE(stream, 5)
  bytes.set(payload, 9)
  return bytes
}

export const uint32 = (...values: number[]): Buffer => {
  const bytes = Buffer.alloc(values.length * 4)
  for (const [at, value] of values.entries()) bytes.writeUInt32BE(value >>> 0, at * 4)
  return bytes
}

export const settings = (...pairs: [number, number][]): Buffer => {
  const bytes = Buffer.alloc(pairs.length * 6)
  pairs.forEach(([id, value], at) => {
    bytes.writeUInt16BE(id, at * 6)
    bytes.writeUInt32BE(value >>> 0, at * 6 + 2)
  })
  return frame(FRAME.settings, 0, 0, bytes)
}

export const settingsAck: Buffer = frame(FRAME.settings, FLAG.ack, 0)
export const preface: Buffer = Buffer.concat([PREFACE, settings()])

/** A header block of literals that use no table, so that cases stay independent of each other. */
export const block = (...fields: (string | readonly [string, string])[]): Buffer => {
  const parts: Buffer[] = []
  for (const field of fields) {
    const [name, value] = typeof field === 'string' ? splitField(field) : field
    parts.push(Buffer.from([0]), text(name), text(value))
  }
  return Buffer.concat(parts)
}

const splitField = (field: string): [string, string] => {
  const at = field.indexOf(': ', 1)
  return [field.slice(0, at), field.slice(at + 2)]
}

const text = (value: string): Buffer => {
  const bytes = Buffer.from(value, 'latin1')
  if (bytes.length >= 127) {
    const rest = bytes.length - 127
    return Buffer.concat([Buffer.from([127, (rest & 127) | 128, (rest >> 7) & 127]), bytes])
  }
  return Buffer.concat([Buffer.from([bytes.length]), bytes])
}

export const REQUEST = [':method: GET', ':scheme: http', ':path: /', ':authority: example.com'] as const
export const POST = [':method: POST', ':scheme: http', ':path: /', ':authority: example.com'] as const

export const headers = (
  stream: number,
  fields: readonly string[] = REQUEST,
  flags = FLAG.endStream | FLAG.endHeaders,
) => frame(FRAME.headers, flags, stream, block(...fields))

/** Fields through a real encoder. */
export const encoded = (fields: readonly string[], encoder = new HpackEncoder()): Buffer => {
  const bytes = Buffer.alloc(1_000_000)
  let at = encoder.begin(bytes, 0)
  for (let index = 0; index < fields.length; index += 2)
    at = encoder.field(bytes, at, fields[index]!, fields[index + 1]!)
  return Buffer.from(bytes.subarray(0, at))
}

export interface Seen {
  readonly type: number
  readonly flags: number
  readonly stream: number
  readonly payload: Buffer
}

/** The frames in these bytes, which are whole. */
export const frames = (bytes: Buffer): Seen[] => {
  const found: Seen[] = []
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUIntBE(at, 3)
    const payload = bytes.subarray(at + 9, at + 9 + length)
    found.push({ type: bytes[at + 3]!, flags: bytes[at + 4]!, stream: bytes.readUInt32BE(at + 5), payload })
    at += 9 + length
  }
  return found
}

const TYPES = Object.keys(FRAME)

/** `goaway PROTOCOL_ERROR`, `rstStream 1 CANCEL`, `data 1 5 end`: frames as tests compare them. */
export const describeFrame = ({ type, flags, stream, payload }: Seen): string => {
  const name = TYPES[type] ?? `type ${type}`
  const end = (flags & FLAG.endStream) !== 0 ? ' end' : ''
  switch (type) {
    case FRAME.goaway:
      return `goaway ${errorName(payload.readUInt32BE(4))}`
    case FRAME.rstStream:
      return `rstStream ${stream} ${errorName(payload.readUInt32BE(0))}`
    case FRAME.data:
      return `data ${stream} ${payload.length}${end}`
    case FRAME.headers:
      return `headers ${stream}${end}`
    case FRAME.settings:
    case FRAME.ping:
      return (flags & FLAG.ack) !== 0 ? `${name} ack` : name
    case FRAME.windowUpdate:
      return `windowUpdate ${stream} ${payload.readUInt32BE(0)}`
    default:
      return `${name} ${stream}`
  }
}

/** What a codec told its handler, one line each; DATA of one stream that follows itself is put together. */
export interface Recorded<O> {
  readonly h2: Http2<O>
  readonly events: string[]
  /** Feeds bytes and returns the frames that came out, described. */
  feed(...bytes: Buffer[]): string[]
  /** The frames that came out since, described. */
  out(): string[]
  /** The bytes that came out since. */
  taken(): Buffer
}

const NOTHING = (): void => {}

export interface RecordOptions<O> {
  readonly limits?: Partial<Http2Limits>
  readonly handler?: Partial<Http2Handler<O>>
  /** Whether DATA is consumed at once. */
  readonly consumes?: boolean
}

export const record = <O = undefined>(role: Role, options: RecordOptions<O> = {}): Recorded<O> => {
  const events: string[] = []
  const { handler = {}, consumes = true } = options
  const body = new Map<number, string>()
  const end = (last: boolean): string => (last ? ' end' : '')
  const note = (line: string): void => void events.push(line)
  const dataCame = (stream: Stream<O>, chunk: Buffer, last: boolean): void => {
    const whole = (body.get(stream.id) ?? '') + chunk.toString('latin1')
    const line = `data ${stream.id} ${whole}`
    if (body.has(stream.id) && events.at(-1)?.startsWith(`data ${stream.id} `)) events.pop()
    body.set(stream.id, whole)
    note(line + end(last))
    if (consumes) consume(h2, stream, chunk.length)
  }
  const h2: Http2<O> = newHttp2<O>(
    role,
    {
      requestRead(stream, request, last) {
        const { method, scheme, authority, target, fields, length } = request
        note(
          `request ${stream.id} ${method} ${scheme} ${authority} ${target} ${fields.join('|')} ${length}${end(last)}`,
        )
        handler.requestRead?.(stream, request, last)
      },
      requestTooLarge(stream, last) {
        note(`tooLarge ${stream.id}${end(last)}`)
        handler.requestTooLarge?.(stream, last)
      },
      requestRefused: NOTHING,
      informationRead(stream, { status, fields }) {
        note(`information ${stream.id} ${status} ${fields.join('|')}`)
      },
      responseRead(stream, response, last) {
        note(`response ${stream.id} ${response.status} ${response.fields.join('|')}${end(last)}`)
        handler.responseRead?.(stream, response, last)
      },
      dataRead(stream, chunk, last) {
        dataCame(stream, chunk, last)
        handler.dataRead?.(stream, chunk, last)
      },
      trailersRead(stream, fields) {
        note(`trailers ${stream.id} ${fields.join('|')}`)
        handler.trailersRead?.(stream, fields)
      },
      streamReset(stream, code, why) {
        note(`reset ${stream.id} ${errorName(code)}`)
        handler.streamReset?.(stream, code, why)
      },
      answeredEarly: handler.answeredEarly ?? ((stream) => resetStream(h2, stream, ERROR.NO_ERROR)),
      sent: handler.sent ?? NOTHING,
      goneAway: (last, code) => note(`goneAway ${last} ${errorName(code)}`),
      settingsRead: NOTHING,
      settingsAcknowledged: () => note('settingsAcknowledged'),
      pingAnswered: () => note('pingAnswered'),
    },
    { ...HTTP2_LIMITS, ...options.limits },
  )
  start(h2)
  const taken = (): Buffer => Buffer.concat(h2.output.take())
  const out = (): string[] => frames(skipPreface(taken())).map(describeFrame)
  const feed = (...bytes: Buffer[]): string[] => {
    for (const piece of bytes)
      try {
        receive(h2, piece, 0)
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error
        note(`failed ${error.code}`)
      }
    return out()
  }
  return { h2, events, feed, out, taken }
}

const skipPreface = (bytes: Buffer): Buffer =>
  bytes.subarray(0, PREFACE.length).equals(PREFACE) ? bytes.subarray(PREFACE.length) : bytes

/** The fields of a HEADERS frame's block. */
export const decoded = (block: Buffer, decoder = new HpackDecoder({ listBytesMax: 1e6, fieldsMax: 1e4 })): string[] =>
  decoder.decode(block, 0, block.length)
