import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type Address, unmapped } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import { type Locks, type Missing, missing } from './auth.ts'
import { type Cors, corsFields, isForeignPage, preflight } from './cors.ts'
import { CommandFailure, failure, failureOf } from './failure.ts'
import { NdcError } from './ndcError.ts'
import { versionMistake } from './ndcSchema.ts'
import { type Answer, DO, type Family, failedAnswer, familyOf, jsonAnswer, type Route } from './routes.ts'
import type { Trace } from './trace.ts'

/** What the server needs. */
export interface ServerParts {
  readonly routes: ReadonlyMap<string, Route>
  readonly locks: Locks
  readonly cors: Cors
  readonly requestBytesMax: number
  readonly connectionsMax: number
  readonly clock: Clock
  readonly trace: Trace
  /** A defect of ours; nothing a peer can do comes here. */
  readonly broke: (error: Error) => void
}

/** The connector's HTTP server. */
export interface ConnectorServer {
  /** Listens; when the host is `::` and this machine has no IPv6, on IPv4. Rejects with the system's error. */
  readonly listen: (at: Address) => Promise<Address>
  /** Takes no more, lets requests in flight finish for so long, then cancels them. */
  readonly close: (drainMs: number) => Promise<void>
}

const HEAD_BYTES_MAX = 65_536
const HEAD_MS_MAX = 10_000 // As for the proxy itself.
const BODY_MS_MAX = 60_000
const LINGER_MS = 2_000

/** Creates the server; it does not listen yet. */
export const createConnectorServer = (parts: ServerParts): ConnectorServer => {
  const ending = new AbortController()
  const server = createServer(
    {
      maxHeaderSize: HEAD_BYTES_MAX,
      headersTimeout: HEAD_MS_MAX,
      requestTimeout: BODY_MS_MAX,
      connectionsCheckingInterval: 5_000,
      keepAliveTimeout: 60_000,
    },
    (request, response) => {
      handle(parts, request, response, { ending: ending.signal, isClosing: () => !server.listening }).catch(
        (thrown: Error) => {
          parts.broke(thrown)
          response.destroy()
        },
      )
    },
  )
  // `100 Continue` is sent once somebody wants the body, so a caller without a key never sends it.
  server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) =>
    server.emit('request', request, response),
  )
  server.maxConnections = parts.connectionsMax
  server.on('error', () => {}) // Errors of listening are told to whoever called listen.
  return {
    listen: (at) => listenOrFallBack(server, at),
    close: async (drainMs) => {
      if (!server.listening) return
      const { promise, resolve } = Promise.withResolvers<void>()
      server.close(() => resolve())
      server.closeIdleConnections()
      const cancel = parts.clock.after(drainMs, () => {
        ending.abort(failure('cancelled', 'Sluice is shutting down'))
        server.closeAllConnections()
      })
      await promise
      cancel()
    },
  }
}

const listenOrFallBack = async (server: Server, at: Address): Promise<Address> => {
  try {
    return await listen(server, at)
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException
    if (at.host !== '::' || (code !== 'EAFNOSUPPORT' && code !== 'EADDRNOTAVAIL')) throw thrown
    return await listen(server, { host: '0.0.0.0', port: at.port })
  }
}

const listen = (server: Server, at: Address): Promise<Address> =>
  new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(at.port, at.host, () => {
      server.off('error', reject)
      const bound = server.address()
      resolve(typeof bound === 'object' && bound !== null ? { host: bound.address, port: bound.port } : at)
    })
  })

/** Whether the server is on its way out: taking no more, and then cancelling what runs. */
interface Life {
  readonly isClosing: () => boolean
  readonly ending: AbortSignal
}

const handle = async (
  parts: ServerParts,
  request: IncomingMessage,
  response: ServerResponse,
  life: Life,
): Promise<void> => {
  request.on('error', () => {})
  response.on('error', () => {})
  const path = (request.url ?? '/').split('?', 1)[0] || '/'
  const answer = await answerOf(parts, request, response, path, life.ending)
  if (response.destroyed) return
  if (!request.complete) discardRest(parts.clock, request, response)
  response.writeHead(answer.status, {
    'content-type': answer.type,
    'content-length': Buffer.byteLength(answer.text),
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    ...corsFields(parts.cors, request.headers.origin),
    ...answer.headers,
    // A connection kept open would hold up the end.
    ...(life.isClosing() ? { connection: 'close' } : {}),
  })
  response.end(request.method === 'HEAD' ? undefined : answer.text)
}

/** A client that is still sending reads no answer, and a reset would take it away: the rest is thrown away, for a moment. */
const discardRest = (clock: Clock, request: IncomingMessage, response: ServerResponse): void => {
  request.resume()
  response.once('finish', () => {
    const cancel = clock.after(LINGER_MS, () => request.socket.destroy())
    request.once('end', cancel)
    request.once('close', cancel)
  })
}

const answerOf = async (
  parts: ServerParts,
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
  ending: AbortSignal,
): Promise<Answer> => {
  const route = parts.routes.get(path) ?? (path.startsWith(DO) ? parts.routes.get(DO) : undefined)
  const family = route?.family ?? familyOf(path)
  try {
    const early = preflight(parts.cors, request) ?? turnedAway(parts, request, route, family)
    if (early !== undefined) return early
    return await parts.trace(
      `${request.method} ${route === parts.routes.get(DO) ? `${DO}*` : path}`,
      request.headers,
      async (fields) => {
        const caller = {
          address: { host: unmapped(request.socket.remoteAddress ?? ''), port: request.socket.remotePort ?? 0 },
          signal: AbortSignal.any([ending, hangUp(response)]),
          traceFields: fields,
        }
        return await route!.answer({ path, caller, body: () => readBody(request, response, parts.requestBytesMax) })
      },
    )
  } catch (thrown) {
    if (!(thrown instanceof NdcError) && !(thrown instanceof CommandFailure)) parts.broke(thrown as Error)
    return errorAnswer(family, thrown)
  }
}

/** Everything that is decided by the head alone, in this order: the locks, the route, its method, the page, the version. */
const turnedAway = (
  { locks, cors }: ServerParts,
  { headers, method }: IncomingMessage,
  route: Route | undefined,
  family: Family,
): Answer | undefined => {
  const lacks = route?.lock === 'open' ? undefined : missing(locks, route?.lock === 'tokenAndKey', headers)
  if (lacks !== undefined) return unauthorized(family, lacks)
  if (route === undefined)
    return family === 'command'
      ? jsonAnswer(404, { error: 'Not Found' })
      : ndcAnswer(404, 'there is nothing at this path')
  if (method !== route.method && !(method === 'HEAD' && route.method === 'GET')) {
    const allow = { allow: route.method === 'GET' ? 'GET, HEAD' : 'POST' }
    if (family === 'command') return jsonAnswer(405, { error: 'Method Not Allowed' }, allow)
    return ndcAnswer(405, `only ${allow.allow} here`, {}, allow)
  }
  if (route.method === 'POST' && isForeignPage(cors, headers)) {
    const said = `the origin ${String(headers.origin).slice(0, 200)} is not among commands.cors`
    return family === 'command' ? jsonAnswer(403, { error: said }) : ndcAnswer(403, said)
  }
  const version = headers['x-hasura-ndc-version']
  const wrongVersion =
    family === 'ndc' && route.lock !== 'open'
      ? versionMistake(Array.isArray(version) ? version.join(', ') : version)
      : undefined
  if (wrongVersion !== undefined) return ndcAnswer(400, wrongVersion)
  return undefined
}

const ndcAnswer = (status: number, message: string, details: object = {}, headers = {}): Answer =>
  jsonAnswer(status, { message, details }, headers)

const unauthorized = (family: Family, lacks: Missing): Answer => {
  const challenge: Record<string, string> = lacks === 'token' ? { 'www-authenticate': 'Bearer' } : {}
  if (family === 'command') return jsonAnswer(401, { error: 'Unauthorized' }, challenge)
  return ndcAnswer(401, 'Unauthorized', { cause: 'the bearer token is missing or wrong' }, challenge)
}

const errorAnswer = (family: Family, thrown: unknown): Answer => {
  if (thrown instanceof NdcError) return ndcAnswer(thrown.status, thrown.message, thrown.details)
  const failed =
    thrown instanceof CommandFailure ? thrown : failure('internal_error', 'a defect of Sluice; its log says more')
  return family === 'command'
    ? failedAnswer(failed)
    : ndcAnswer(failed.status, failed.message, { error_code: failed.code })
}

/** Fires when the connection goes before the answer is written: nobody is waiting for the command any more. */
const hangUp = (response: ServerResponse): AbortSignal => {
  const gone = new AbortController()
  response.once('close', () => {
    if (!response.writableFinished) gone.abort(failure('cancelled', 'the caller hung up'))
  })
  return gone.signal
}

const readBody = async (request: IncomingMessage, response: ServerResponse, bytesMax: number): Promise<Buffer> => {
  const tooLarge = (): CommandFailure => failure('request_too_large', `the body is larger than ${bytesMax} bytes`)
  if ((request.headers['content-encoding'] ?? 'identity') !== 'identity')
    throw new CommandFailure('invalid_parameters', 'the body must come without a content encoding', 415)
  if (Number(request.headers['content-length'] ?? 0) > bytesMax) throw tooLarge()
  if (request.headers.expect !== undefined) response.writeContinue()
  const chunks: Buffer[] = []
  let bytes = 0
  try {
    // Stops reading at the limit, and leaves the rest unread: leaving the loop must not destroy the socket of the answer.
    for await (const chunk of request.iterator({ destroyOnReturn: false })) {
      bytes += chunk.length
      if (bytes > bytesMax) throw tooLarge()
      chunks.push(chunk)
    }
  } catch (thrown) {
    throw thrown instanceof CommandFailure ? thrown : failureOf(thrown, 'cancelled')
  }
  return Buffer.concat(chunks, bytes)
}
