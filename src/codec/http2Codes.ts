import { ProtocolError } from '../net/protocolError.ts'
import { CLIENT_PREFACE } from './http2Preface.ts'

/** Frame types (RFC 9113 6). */
export const FRAME = {
  data: 0,
  headers: 1,
  priority: 2,
  rstStream: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const

/** Frame flags (RFC 9113 6). END_STREAM and ACK share a bit. */
export const FLAG = { endStream: 1, ack: 1, endHeaders: 4, padded: 8, priority: 32 } as const

/** Settings (RFC 9113 6.5.2, RFC 8441 3). */
export const SETTING = {
  headerTableSize: 1,
  enablePush: 2,
  maxConcurrentStreams: 3,
  initialWindowSize: 4,
  maxFrameSize: 5,
  maxHeaderListSize: 6,
  enableConnectProtocol: 8,
} as const

/** Error codes (RFC 9113 7). */
export const ERROR = {
  NO_ERROR: 0,
  PROTOCOL_ERROR: 1,
  INTERNAL_ERROR: 2,
  FLOW_CONTROL_ERROR: 3,
  SETTINGS_TIMEOUT: 4,
  STREAM_CLOSED: 5,
  FRAME_SIZE_ERROR: 6,
  REFUSED_STREAM: 7,
  CANCEL: 8,
  COMPRESSION_ERROR: 9,
  CONNECT_ERROR: 10,
  ENHANCE_YOUR_CALM: 11,
  INADEQUATE_SECURITY: 12,
  HTTP_1_1_REQUIRED: 13,
} as const

export type ErrorName = keyof typeof ERROR

const NAMES = Object.keys(ERROR) as ErrorName[]

/** `CANCEL` for 8; `0x1f` for a code that has no name. */
export const errorName = (code: number): string => NAMES[code] ?? `0x${code.toString(16)}`

/** An error of the connection as a value to throw; its code is the RFC's name behind `HTTP2_`. */
export const connectionError = (name: ErrorName, what: string): ProtocolError =>
  new ProtocolError(`HTTP2_${name}`, what)

/** The number to put into GOAWAY for such an error. */
export const errorCode = (error: ProtocolError): number =>
  ERROR[error.code.slice('HTTP2_'.length) as ErrorName] ?? ERROR.INTERNAL_ERROR

/** What a client sends first (RFC 9113 3.4). */
export const PREFACE: Buffer = Buffer.from(CLIENT_PREFACE, 'latin1')

export const FRAME_HEAD_BYTES = 9
/** The size both sides start with (RFC 9113 6.5.2), and the largest frame we send. */
export const FRAME_BYTES = 16_384
export const FRAME_BYTES_MAX = 16_777_215
/** The window every stream and connection starts with (RFC 9113 6.9.2). */
export const WINDOW_BYTES = 65_535
export const WINDOW_BYTES_MAX = 2_147_483_647
