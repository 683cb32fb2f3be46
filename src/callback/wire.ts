import { ProtocolError } from '../net/protocolError.ts'

/**
 * What the two ends of a callback channel say to each other before the first call: the app asks its proxy for a channel
 * (ConnectAppCallback), dials the port of the answer, and is called from then on. Nothing here needs a protobuf library:
 * one message is empty, the other has two fields.
 */

/** The paths under which ConnectAppCallback has been published, newest first: an app tries them in this order. */
export const CONNECT_PATHS = [
  '/dapr.proto.runtime.v1.DaprAppChannel/ConnectAppCallback',
  '/dapr.proto.runtime.v1.Dapr/ConnectAppCallback',
] as const

/** A bidirectional stream of Empty, opened by the proxy, on which the app is heard of. */
export const PING_PATH = '/dapr.proto.runtime.v1.DaprAppChannelCallback/Ping'

/** Request metadata, both ways: to the proxy with its API token, to the app with the app's. */
export const TOKEN_HEADER = 'dapr-api-token'
/** Which app asks for a channel. */
export const APP_ID_HEADER = 'sluice-app-id'
/** What an app may call itself: nothing that could break a log line, a label or a path. */
export const APP_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/
/** Says that the asker can send the nonce; value `1`. */
export const CALLBACK_HEADER = 'sluice-callback'

/** What the app writes first on the connection it dialled, where the answer had a nonce: this, then the nonce. */
export const CHANNEL_MAGIC = Buffer.from('SLUICECB', 'latin1')
export const NONCE_BYTES = 32

export const PING_PERIOD_MS = 5_000 // the reference's; so is each of the next two
export const FIRST_PING_MS = 30_000
export const DIAL_MS = 10_000

/** A gRPC message of no bytes: google.protobuf.Empty and ConnectAppCallbackRequest. */
export const EMPTY_GRPC_MESSAGE = Buffer.alloc(5)

const MESSAGE_BYTES_MAX = 4_096 // a port and a nonce take 43; the rest is room for fields to come

/** ConnectAppCallbackResponse. */
export interface ConnectAnswer {
  readonly port: number
  readonly nonce?: Uint8Array
}

/** The message behind gRPC's prefix: not compressed, and its length in four bytes. */
export const grpcMessage = (message: Uint8Array): Buffer => {
  const framed = Buffer.alloc(5 + message.length)
  framed.writeUInt32BE(message.length, 1)
  framed.set(message, 5)
  return framed
}

/**
 * The one message of a unary call, given every byte of its body. Throws ProtocolError when it is cut short, compressed,
 * too long, or not alone.
 */
export const unaryMessage = (body: Buffer): Buffer => {
  if (body.length < 5) throw new ProtocolError('CALLBACK_MESSAGE', 'the body is shorter than the prefix of a message')
  if (body[0] !== 0) throw new ProtocolError('CALLBACK_MESSAGE', 'the message is compressed, which was not agreed on')
  const length = body.readUInt32BE(1)
  if (length > MESSAGE_BYTES_MAX) throw new ProtocolError('CALLBACK_MESSAGE', `a message of ${length} bytes`)
  if (body.length !== 5 + length)
    throw new ProtocolError('CALLBACK_MESSAGE', `${body.length - 5} bytes follow the prefix of a message of ${length}`)
  return body.subarray(5)
}

/** `{int32 port = 1; bytes nonce = 2}`; for port 46021 without a nonce 08 c5 e7 02, as the reference has it. */
export const encodeConnectAnswer = ({ port, nonce }: ConnectAnswer): Buffer =>
  Buffer.concat([
    port === 0 ? Buffer.alloc(0) : Buffer.from([0x08, ...varint(port)]),
    nonce === undefined ? Buffer.alloc(0) : Buffer.from([0x12, ...varint(nonce.length), ...nonce]),
  ])

/** Reads it; unknown fields are skipped, the last of a field given twice counts. Throws ProtocolError. */
export const decodeConnectAnswer = (message: Uint8Array): ConnectAnswer => {
  let port = 0
  let nonce: Uint8Array | undefined
  let at = 0
  const number = (): bigint => {
    let value = 0n
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = message[at++]
      if (byte === undefined) throw cutShort()
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
    throw new ProtocolError('CALLBACK_MESSAGE', 'a number of more than ten bytes')
  }
  const bytes = (length: number): Uint8Array => {
    if (length > message.length - at) throw cutShort()
    at += length
    return message.subarray(at - length, at)
  }
  while (at < message.length) {
    const tag = Number(number())
    const wireType = tag & 7
    if (tag === 0x08) port = Number(BigInt.asIntN(32, number()))
    else if (tag === 0x12) nonce = bytes(Number(number()))
    else if (wireType === 0) number()
    else if (wireType === 1) bytes(8)
    else if (wireType === 2) bytes(Number(number()))
    else if (wireType === 5) bytes(4)
    else throw new ProtocolError('CALLBACK_MESSAGE', `wire type ${wireType}`)
  }
  if (port < 1 || port > 65_535) throw new ProtocolError('CALLBACK_MESSAGE', `port ${port} cannot be dialled`)
  if (nonce !== undefined && nonce.length !== NONCE_BYTES)
    throw new ProtocolError('CALLBACK_MESSAGE', `a nonce of ${nonce.length} bytes, where ${NONCE_BYTES} are agreed on`)
  return { port, ...(nonce && { nonce }) }
}

const cutShort = () => new ProtocolError('CALLBACK_MESSAGE', 'the message is cut short')

const varint = (value: number): number[] => {
  const bytes: number[] = []
  let rest = value
  for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128)
  return [...bytes, rest]
}
