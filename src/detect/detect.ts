import { type ClientHello, clientHello, clientHelloBytes } from '../codec/clientHello.ts'
import { clientPreface, serverPreface } from '../codec/http2Preface.ts'
import { type RequestLine, requestLine } from '../codec/requestLine.ts'
import { type Match, MORE, NO, yes } from '../net/match.ts'

/**
 * Why a connection is passed through as bytes: the policy says so; the bytes are nothing we know; they were still
 * undecided at the byte limit, when the time was up, or when the client closed; or the server spoke first. Inside TLS
 * that ends here: the application protocol agreed on is another one, or the Sluice before us has looked.
 */
export type OpaqueReason = 'policy' | 'unknown' | 'limit' | 'timeout' | 'closed' | 'serverFirst' | 'alpn' | 'mesh'

/** What is being spoken, with what the first bytes tell of it. */
export type Detection =
  | { readonly protocol: 'tls'; readonly hello: ClientHello }
  | { readonly protocol: 'http1'; readonly request: RequestLine }
  | { readonly protocol: 'http2' }
  | { readonly protocol: 'opaque'; readonly because: OpaqueReason }

/** What has happened beside the client's bytes. */
export interface Seen {
  readonly clientClosed: boolean
  readonly serverSpoke: boolean
  readonly timeUp: boolean
}

export interface DetectLimits {
  /** So many of the client's bytes are looked at, and no more. */
  readonly maxBytes: number
}

const HTTP2: Detection = { protocol: 'http2' }

/**
 * Says what a client speaks by its first bytes. A function of these bytes alone, so that no way of cutting them into
 * segments changes the answer: undecided means more, and never opaque because the first segment was short.
 */
export const detect = (bytes: Uint8Array, seen: Seen, { maxBytes }: DetectLimits): Match<Detection> => {
  if (clientHelloBytes(bytes) > maxBytes) return opaque('limit')
  const found = recognise(bytes.length > maxBytes ? bytes.subarray(0, maxBytes) : bytes)
  if (found.is === 'yes') return found
  if (found.is === 'no') return opaque('unknown')
  if (seen.serverSpoke) return opaque('serverFirst')
  if (bytes.length >= maxBytes) return opaque('limit')
  if (seen.clientClosed) return opaque('closed')
  return seen.timeUp ? opaque('timeout') : MORE
}

/**
 * Whether a server's first bytes, before any of the client's, make the connection opaque. They do, unless they are
 * HTTP/2's SETTINGS: such a server only saves a round trip, and the client's preface is still to come.
 */
export const speaksFirst = (bytes: Uint8Array): Match<true> => {
  const settings = serverPreface(bytes)
  return settings.is === 'no' ? yes(true) : settings.is === 'yes' ? NO : MORE
}

const recognise = (bytes: Uint8Array): Match<Detection> => {
  const hello = clientHello(bytes)
  if (hello.is === 'yes') return yes({ protocol: 'tls', hello: hello.value })
  if (hello.is === 'more') return MORE
  const preface = clientPreface(bytes)
  if (preface.is === 'yes') return yes(HTTP2)
  const request = requestLine(bytes)
  if (request.is === 'yes') return yes({ protocol: 'http1', request: request.value })
  return preface.is === 'more' ? MORE : request
}

const opaque = (because: OpaqueReason): Match<Detection> => yes({ protocol: 'opaque', because })
