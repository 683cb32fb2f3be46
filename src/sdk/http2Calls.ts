import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  constants,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2'
import type { Duplex } from 'node:stream'
import { unanswered } from './http1Calls.ts'
import type { Call } from './serveChannel.ts'
import { endWith, wasCut } from './streamEnd.ts'

const WINDOW_BYTES = 1_048_576
const SESSION_WINDOW_BYTES = 16_777_216
const SESSION_MEMORY_MB = 512

/** How the HTTP/2 server is reached. */
export interface Http2Server {
  readonly connect: () => Duplex
  readonly name: string
}

/** Carries calls to another HTTP/2 server, on one connection that is opened when it is needed: gRPC of all four kinds. */
export const http2Calls = (server: Http2Server): ((call: Call) => void) => {
  let link: Link | undefined
  return (call) => {
    if (link === undefined || link.session.closed || link.session.destroyed) link = open(server)
    carry(call, link, server.name)
  }
}

interface Link {
  readonly session: ClientHttp2Session
  /** Why it broke, if it did. */
  lost: string
}

const open = (server: Http2Server): Link => {
  const session = connect('http://app', {
    createConnection: server.connect,
    maxSessionMemory: SESSION_MEMORY_MB,
    settings: { initialWindowSize: WINDOW_BYTES, enablePush: false },
  })
  const link: Link = { session, lost: '' }
  session.on('error', (error) => (link.lost = error.message))
  session.once('connect', () => session.destroyed || session.setLocalWindowSize(SESSION_WINDOW_BYTES))
  return link
}

const carry = ({ stream, flags, rawHeaders }: Call, link: Link, name: string): void => {
  const endStream = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0
  let upstream: ClientHttp2Stream
  try {
    upstream = link.session.request(collected(rawHeaders), { endStream, waitForTrailers: !endStream })
  } catch (error) {
    return unanswered(stream, 502, `${name} does not take the call: ${(error as Error).message}`)
  }
  upstream.on('error', (error) => (link.lost ||= error.message)) // 'close' follows
  requestOn(stream, upstream, endStream)
  answerOn(upstream, stream)
  upstream.on('close', () => {
    if (stream.destroyed || stream.closed) return
    if (!stream.headersSent && (link.session.destroyed || upstream.rstCode === constants.NGHTTP2_NO_ERROR))
      return unanswered(
        stream,
        /ECONNREFUSED/.test(link.lost) ? 503 : 502,
        `${name} does not answer: ${link.lost || 'it closed the connection'}`,
      )
    if (upstream.rstCode !== constants.NGHTTP2_NO_ERROR) stream.close(upstream.rstCode)
    else if (!upstream.readableEnded) stream.close(constants.NGHTTP2_INTERNAL_ERROR)
  })
  stream.on('close', () => {
    if (!upstream.destroyed && !upstream.closed) upstream.close(stream.rstCode || constants.NGHTTP2_NO_ERROR)
  })
}

const requestOn = (stream: ServerHttp2Stream, upstream: ClientHttp2Stream, isEnded: boolean): void => {
  if (isEnded) return
  let trailers: OutgoingHttpHeaders = {}
  stream.on('trailers', (headers) => (trailers = { ...headers }))
  endWith(upstream, () => trailers)
  stream.on('end', () => wasCut(stream) || upstream.end())
  stream.pipe(upstream, { end: false })
}

const answerOn = (upstream: ClientHttp2Stream, stream: ServerHttp2Stream): void => {
  let trailers: OutgoingHttpHeaders = {}
  upstream.on('headers', (headers) => {
    if (stream.writable && !stream.headersSent) stream.additionalHeaders({ ...headers })
  })
  upstream.on('trailers', (headers) => (trailers = { ...headers }))
  upstream.on('response', (headers, flags) => {
    if (stream.destroyed || stream.closed) return
    const isEnded = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0
    stream.respond({ ...headers }, { endStream: isEnded, waitForTrailers: !isEnded })
    if (isEnded) return void upstream.resume()
    endWith(stream, () => trailers)
    upstream.on('end', () => wasCut(upstream) || stream.end())
    upstream.pipe(stream, { end: false }) // not earlier: data may be told before the head that came with it
  })
}

/** Header fields as Node sends them: values of one name together. */
const collected = (rawHeaders: readonly string[]): OutgoingHttpHeaders => {
  const headers: Record<string, string | string[]> = {}
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]!
    const value = rawHeaders[at + 1]!
    const before = headers[name]
    headers[name] = before === undefined ? value : [...(Array.isArray(before) ? before : [before]), value]
  }
  return headers
}
