import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer as createTcp, type Server as TcpServer } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { openTls } from '../../src/forward/tlsWorld.ts'
import { systemClock } from '../../src/net/clock.ts'
import type { Outcome } from '../../src/telemetry/outcome.ts'
import { type Front, front } from './front.ts'
import { policyOf } from './world.ts'

/** openssl s_client: what it prints after it has said `said` and got an answer, or the end. */
export const sClient = (port: number, args: readonly string[], said = 'hello\n'): Promise<string> =>
  new Promise((resolve) => {
    const all = ['s_client', '-connect', `127.0.0.1:${port}`, '-ign_eof', ...args]
    const child = spawn('openssl', all, { stdio: 'pipe' })
    let text = ''
    const hear = (chunk: Buffer) => {
      text += chunk
      if (text.includes(`\necho ${said}`)) child.stdin.end()
    }
    child.stdout.on('data', hear)
    child.stderr.on('data', hear)
    child.stdin.on('error', () => {})
    child.stdin.write(said)
    child.on('close', () => resolve(text))
  })

/** Says back each line, once. */
export const echo = async (): Promise<TcpServer> => {
  const server = createTcp((socket) => {
    socket.on('error', () => {})
    socket.once('data', (chunk) => socket.end(`\necho ${chunk}`))
  })
  return listening(server)
}

/** The server, once it listens on a port of its own. */
export const listening = async <S extends TcpServer>(server: S): Promise<S> => {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server
}
/** Where it listens. */
export const portOf = (server: TcpServer): number => (server.address() as { port: number }).port

/** Sluice, its port, and what it says of the last connection once that is over. */
export interface Fronted extends Front {
  readonly port: number
  readonly last: () => Promise<Outcome>
}

/** Sluice with TLS in front of a server, which ends with it. */
export const sluice = async (
  server: TcpServer,
  document: string,
  direction: 'inbound' | 'outbound' = 'inbound',
): Promise<Fronted> => {
  const tls = await openTls(policyOf(document).sections, systemClock, () => {})
  const made = await front({ host: '127.0.0.1', port: portOf(server) }, document, { tls }, { direction })
  return {
    ...made,
    port: made.address.port,
    close: () => {
      made.close()
      tls.close()
      server.close()
    },
    last: async () => {
      while (made.world.ledger.open.size > 0) await turn()
      return made.outcomes.at(-1)!
    },
  }
}
