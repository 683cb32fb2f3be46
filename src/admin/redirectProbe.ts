import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { connect, createServer, type Server } from 'node:net'
import { type Address, formatAddress } from '../net/address.ts'

/** One thing to try: a connection to `to` must come out at the listener on `listener`. */
export interface Probe {
  readonly name: string
  readonly to: Address
  readonly listener: Address
}

/** What a probe found, in words for an operator. `skipped`: this host cannot reach that family at all. */
export interface ProbeResult {
  readonly name: string
  readonly result: 'passed' | 'skipped' | 'failed'
  readonly detail: string
}

const TOKEN_BYTES = 32 // enough that no other server says it by chance

/**
 * Sends one probe. Before the proxy runs we listen in its place and a secret must come back; while it runs, its own
 * listener must accept, which at an address that nobody has is only possible through the redirect.
 */
export const sendProbe = async ({ name, to, listener }: Probe, timeoutMs: number): Promise<ProbeResult> => {
  const token = randomBytes(TOKEN_BYTES).toString('hex')
  const found = (result: ProbeResult['result'], detail: string): ProbeResult => ({ name, result, detail })
  const way = `${formatAddress(to)} to ${formatAddress(listener)}`
  if (!(await hasRoute(to))) return found('skipped', `this host has no route to ${to.host}`)
  const stand = await standIn(listener, token)
  if (stand instanceof Error) return found('failed', `cannot listen on ${formatAddress(listener)}: ${stand.message}`)
  try {
    const heard = await hear(to, stand === 'taken' ? 0 : token.length, timeoutMs)
    if (stand === 'taken') return found('passed', `${way}, where the proxy accepted`)
    if (heard === token) return found('passed', `${way}, and our own secret came back`)
    return found('failed', `${formatAddress(to)} was answered by someone else: it is not redirected`)
  } catch (error) {
    return found(
      'failed',
      `${way}: ${(error as Error).message}. Is this user the proxy's own (--proxy-uid), or the port skipped?`,
    )
  } finally {
    if (stand !== 'taken') stand.close()
  }
}

/** Asked of the kernel, without a packet: somebody on the way who answers "unreachable" is no missing route of ours. */
const hasRoute = ({ host, port }: Address): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4')
    const done = (answer: boolean) => {
      socket.close()
      resolve(answer)
    }
    socket.once('error', () => done(false))
    socket.once('connect', () => done(true))
    socket.connect(port, host)
  })

/** Listens where the proxy will and greets each caller with the token; 'taken' when the proxy is there already. */
const standIn = (at: Address, token: string): Promise<Server | 'taken' | Error> =>
  new Promise((resolve) => {
    const server = createServer((socket) => {
      socket.on('error', () => socket.destroy())
      socket.end(token)
    })
    server.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'EADDRINUSE' ? 'taken' : error))
    server.listen({ host: at.host, port: at.port }, () => resolve(server))
  })

const hear = (to: Address, length: number, timeoutMs: number): Promise<string> =>
  new Promise((resolve, reject) => {
    const socket = connect({ host: to.host, port: to.port, autoSelectFamily: false })
    let heard = ''
    const done = (settle: () => void) => {
      clearTimeout(timer)
      socket.destroy()
      settle()
    }
    const timer = setTimeout(() => done(() => reject(new Error(`no answer within ${timeoutMs} ms`))), timeoutMs)
    socket.on('error', (error) => done(() => reject(error)))
    socket.on('connect', () => length === 0 && done(() => resolve('')))
    socket.on('data', (bytes) => {
      heard += bytes.toString('latin1')
      if (heard.length >= length) done(() => resolve(heard))
    })
    socket.on('end', () => done(() => resolve(heard)))
  })
