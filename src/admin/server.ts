import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { type Address, formatAddress, isLoopback, unmapped } from '../net/address.ts'
import { isSecret } from '../net/secret.ts'

/** What a route is given, and what it may answer with. */
export interface AdminRequest {
  readonly method: string
  readonly url: URL
  readonly message: IncomingMessage
  readonly body: () => Promise<string>
}

export interface WholeAnswer {
  readonly status: number
  readonly type: string
  readonly body: string | Buffer
  readonly headers?: Readonly<Record<string, string>>
}

/** A whole answer, or a function that writes one as long as it takes (server-sent events). */
export type AdminAnswer = WholeAnswer | ((response: ServerResponse) => void)

/** By method and path: `GET /metrics`. */
export type AdminRoutes = Readonly<Record<string, (request: AdminRequest) => AdminAnswer | Promise<AdminAnswer>>>

export interface AdminOptions {
  readonly address: Address
  readonly routes: AdminRoutes
  /** Needed by everyone who does not come from loopback, as `Authorization: Bearer`. */
  readonly token?: string | undefined
}

export interface AdminServer {
  readonly address: Address
  close(): void
}

const BODY_BYTES_MAX = 65_536 // a log level, a form of the page: nothing that is posted here is long

// What this server sends may only load what it serves itself; nothing may frame it or guess its types.
const SECURITY = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-store',
}

/** A plain answer in words. */
export const text = (status: number, body: string): WholeAnswer => ({ status, type: 'text/plain; charset=utf-8', body })

/** An answer for programs. */
export const json = (status: number, value: unknown): WholeAnswer => ({
  status,
  type: 'application/json',
  body: `${JSON.stringify(value, null, 2)}\n`,
})

/** Opens the admin server. Rejects with an Error that names the address. */
export const startAdmin = (options: AdminOptions): Promise<AdminServer> =>
  new Promise((resolve, reject) => {
    const server = createServer({ requestTimeout: 10_000, headersTimeout: 5_000 }, (message, response) => {
      handle(message, response, options).catch((error: Error) => {
        if (!response.headersSent) send(response, text(500, `${error.message}\n`), false)
        response.destroy()
      })
    })
    const { address } = options
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(new Error(`the admin server cannot listen on ${formatAddress(address)}: ${error.code}`)),
    )
    server.listen({ host: address.host, port: address.port, ipv6Only: true }, () => {
      const { port } = server.address() as { port: number }
      resolve({
        address: { host: address.host, port },
        close: () => {
          server.close()
          server.closeAllConnections()
        },
      })
    })
  })

const handle = async (message: IncomingMessage, response: ServerResponse, options: AdminOptions): Promise<void> => {
  const isHead = message.method === 'HEAD'
  const refusal = refused(message, options)
  if (refusal !== undefined) return send(response, refusal, isHead)
  const url = new URL(message.url ?? '/', 'http://admin')
  const method = isHead ? 'GET' : (message.method ?? 'GET')
  const route = options.routes[`${method} ${url.pathname}`]
  if (route === undefined) {
    const others = Object.keys(options.routes).filter((key) => key.endsWith(` ${url.pathname}`))
    if (others.length === 0) return send(response, text(404, `there is no ${url.pathname} here\n`), isHead)
    const allow = others.map((key) => key.split(' ')[0]).join(', ')
    return send(response, { ...text(405, `${url.pathname} takes ${allow}\n`), headers: { allow } }, isHead)
  }
  const answer = await route({ method, url, message, body: () => readBody(message) })
  if (typeof answer !== 'function') return send(response, answer, isHead)
  for (const [name, value] of Object.entries(SECURITY)) response.setHeader(name, value)
  answer(response)
}

/**
 * A web page that someone in this pod's reach looks at must not be able to drive the proxy: the Host has to be one of
 * ours (DNS rebinding) and an Origin, which browsers send with whatever can change something, has to be this server.
 */
const refused = ({ headers, socket }: IncomingMessage, { address, token }: AdminOptions): AdminAnswer | undefined => {
  const peer = unmapped(socket.remoteAddress ?? '')
  if (!isLoopback(peer)) {
    if (token === undefined)
      return text(403, 'from elsewhere this server answers only when admin.token is configured\n')
    if (!isSecret(headers.authorization, `Bearer ${token}`))
      return text(401, 'this needs Authorization: Bearer with the admin token\n')
  }
  const host = headers.host ?? ''
  const name = host.replace(/:\d+$/, '').toLowerCase()
  const isOurs =
    name === 'localhost' || /^127(\.\d{1,3}){3}$/.test(name) || name === '[::1]' || name === unbracketed(address)
  if (!isOurs && token === undefined) return text(421, `'${host.slice(0, 100)}' is not a name of this server\n`)
  const { origin } = headers
  if (origin !== undefined && origin !== `http://${host}`)
    return text(403, 'a page of another site may not call this server\n')
  return undefined
}

const unbracketed = ({ host }: Address): string => (host.includes(':') ? `[${host}]` : host)

const send = (response: ServerResponse, answer: AdminAnswer, isHead: boolean): void => {
  if (typeof answer === 'function') return answer(response)
  response.writeHead(answer.status, {
    ...SECURITY,
    'content-type': answer.type,
    'content-length': Buffer.byteLength(answer.body),
    ...answer.headers,
  })
  response.end(isHead ? undefined : answer.body)
}

const readBody = async (message: IncomingMessage): Promise<string> => {
  let body = ''
  for await (const chunk of message.setEncoding('utf8')) {
    body += chunk
    if (body.length > BODY_BYTES_MAX) throw new Error(`the body is over ${BODY_BYTES_MAX} bytes`)
  }
  return body
}
