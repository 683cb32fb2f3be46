import { ProtocolError } from '../net/protocolError.ts'

/** Every way a peer can break HTTP/1, and the status a client is told. From an upstream each of them is a 502. */
export const HTTP1_STATUS = {
  HTTP1_REQUEST_LINE: 400,
  HTTP1_TARGET: 400,
  HTTP1_VERSION: 505,
  HTTP1_STATUS_LINE: 502,
  HTTP1_FIELD_NAME: 400,
  HTTP1_FIELD_VALUE: 400,
  HTTP1_FOLDED: 400,
  HTTP1_LINE_END: 400,
  HTTP1_HEAD_BYTES: 431,
  HTTP1_HEAD_FIELDS: 431,
  HTTP1_TARGET_BYTES: 414,
  HTTP1_HEAD_TIMEOUT: 408,
  HTTP1_LENGTH: 400,
  HTTP1_TWO_LENGTHS: 400,
  HTTP1_LENGTH_AND_CODING: 400,
  HTTP1_CODING: 400,
  HTTP1_CODING_UNKNOWN: 501,
  HTTP1_CHUNK_SIZE: 400,
  HTTP1_CHUNK_EXTENSION: 400,
  HTTP1_CHUNK_END: 400,
  HTTP1_TRAILER: 400,
  HTTP1_HOST: 400,
  HTTP1_HOST_MISSING: 400,
  HTTP1_TWO_HOSTS: 400,
  HTTP1_CONNECT: 400,
  HTTP1_UPGRADE: 400,
  HTTP1_CUT_SHORT: 400,
  HTTP1_UNASKED: 502,
} as const

export type Http1Code = keyof typeof HTTP1_STATUS

/** Throws the ProtocolError of that code. */
export const fail = (code: Http1Code, message: string): never => {
  throw new ProtocolError(code, message)
}
