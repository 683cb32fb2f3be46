import { randomBytes } from 'node:crypto'
import { type Agent, type ClientRequest, type IncomingMessage, request } from 'node:http'
import { constants, type ServerHttp2Stream } from 'node:http2'
import type { Duplex } from 'node:stream'
import { type Http1Request, toHttp1, toHttp2 } from './http1Fields.ts'
import { joinStreams } from './joinStreams.ts'
import type { Call } from './serveChannel.ts'
import { endEarly, endWith, wasCut } from './streamEnd.ts'

/** How the HTTP/1 server is reached. */
export interface Http1Server {
  readonly agent: Agent
  /** What the caller is told when it does not answer. */
  readonly name: string
  readonly target: { readonly host: string; readonly port: number } | undefined
}

/**
 * Carries calls of HTTP/2 to a server of HTTP/1: bodies stream both ways with back-pressure, trailers, interim responses
 * and upgrades are kept, and each side learns when the other gives up.
 */
export const http1Calls =
  (server: Http1Server) =>
  ({ stream, flags, rawHeaders }: Call): void => {
    const isEnded = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0
    send(server, stream, toHttp1(rawHeaders, isEnded, webSocketKey), true)
  }

const webSocketKey = (): string => randomBytes(16).toString('base64')

const send = (server: Http1Server, stream: ServerHttp2Stream, wanted: Http1Request, mayRepeat: boolean): void => {
  const upstream = request({
    ...server.target,
    agent: server.agent,
    method: wanted.method,
    path: wanted.path,
    headers: wanted.fields,
    setHost: false,
  })
  let isAnswered = false
  const gaveUp = () => upstream.destroy()
  stream.once('close', gaveUp)

  upstream.on('information', ({ statusCode, rawHeaders }) => {
    if (statusCode !== 101 && stream.writable && !stream.headersSent)
      stream.additionalHeaders({ ':status': statusCode, ...toHttp2(rawHeaders) })
  })
  upstream.on('response', (response) => {
    isAnswered = true
    answer(stream, upstream, response, wanted.method)
  })
  upstream.on('upgrade', (response, socket, head) => {
    isAnswered = true
    stream.off('close', gaveUp)
    upgraded(stream, response, socket, head)
  })
  upstream.on('error', (error: NodeJS.ErrnoException) => {
    if (stream.destroyed || stream.closed) return
    if (isAnswered || stream.headersSent) return stream.close(constants.NGHTTP2_INTERNAL_ERROR)
    // A server may close an idle connection just when it is used again: then it has not read the request (RFC 9112 9.3.1).
    if (upstream.reusedSocket && wanted.body === 'none' && mayRepeat && error.code === 'ECONNRESET') {
      stream.off('close', gaveUp)
      return send(server, stream, wanted, false)
    }
    unanswered(stream, error.code === 'ECONNREFUSED' ? 503 : 502, `${server.name} does not answer: ${error.message}`)
  })

  if (wanted.body === 'none') upstream.end()
  else sendBody(stream, upstream)
}

const sendBody = (stream: ServerHttp2Stream, upstream: ClientRequest): void => {
  let trailers: readonly string[] = []
  stream.on('trailers', (_headers, _flags, raw: string[] | undefined) => (trailers = raw ?? []))
  stream.on('end', () => {
    if (wasCut(stream)) return
    const pairs: [string, string][] = []
    for (let at = 0; at + 1 < trailers.length; at += 2) pairs.push([trailers[at]!, trailers[at + 1]!])
    if (pairs.length > 0) upstream.addTrailers(pairs)
    upstream.end()
  })
  stream.pipe(upstream, { end: false })
}

const answer = (
  stream: ServerHttp2Stream,
  upstream: ClientRequest,
  response: IncomingMessage,
  method: string,
): void => {
  const status = response.statusCode!
  const hasNoBody = method === 'HEAD' || status === 204 || status === 304
  const hasLength = response.headers['content-length'] !== undefined
  if (stream.destroyed || stream.closed) return void response.resume()
  try {
    const headers = { ':status': status, ...toHttp2(response.rawHeaders) }
    stream.respond(headers, { endStream: hasNoBody, waitForTrailers: !hasLength && !hasNoBody })
  } catch (error) {
    upstream.destroy()
    return unanswered(stream, 502, `HTTP/2 cannot carry the answer of the app: ${(error as Error).message}`)
  }
  if (!hasLength) endWith(stream, () => toHttp2(response.rawTrailers))
  response.on('error', () => stream.close(constants.NGHTTP2_INTERNAL_ERROR))
  response.on('end', () => {
    if (!upstream.writableEnded) endEarly(stream)
    if (!hasNoBody) stream.end()
  })
  if (hasNoBody) response.resume()
  else response.pipe(stream, { end: false })
}

const upgraded = (stream: ServerHttp2Stream, response: IncomingMessage, socket: Duplex, head: Buffer): void => {
  if (stream.destroyed || stream.closed) return void socket.destroy()
  const { 'sec-websocket-accept': _, ...headers } = toHttp2(response.rawHeaders)
  stream.respond({ ':status': 200, ...headers }, { waitForTrailers: true })
  if (head.length > 0) socket.unshift(head)
  joinStreams(stream, socket)
}

/** An answer of ours. Its text is for whoever reads the proxy's log or the response. */
export const unanswered = (stream: ServerHttp2Stream, status: number, text: string): void => {
  if (stream.destroyed || stream.closed || stream.headersSent) return
  stream.respond({ ':status': status, 'content-type': 'text/plain; charset=utf-8' })
  endEarly(stream)
  stream.end(`${text}\n`)
  stream.resume()
}
