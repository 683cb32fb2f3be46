import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls'
import { listen } from '../../src/accept/listen.ts'
import { taskHash } from '../../src/codec/taskHash.ts'
import { gatewayOf } from '../../src/config.ts'
import { openTls } from '../../src/forward/tlsWorld.ts'
import { createGateway } from '../../src/gateway/gateway.ts'
import { keepTokenKeys } from '../../src/gateway/tokenKeys.ts'
import type { Address } from '../../src/net/address.ts'
import { systemClock } from '../../src/net/clock.ts'
import type { World } from '../../src/proxy.ts'
import type { Outcome, RequestOutcome } from '../../src/telemetry/outcome.ts'
import { openWorkshop } from './certificates.ts'
import { policyOf, worldOf } from './world.ts'

export const DOMAIN = 'dp.example.test'
export const TASK = 'acmeCo/in'

const workshop = openWorkshop()
/** The root that clients trust. */
export const root = workshop.make('root', { ca: true, names: [] })
/** The certificate of the gateway. */
export const gate = workshop.make('gate', { issuer: root, chain: true, names: [`DNS:*.${DOMAIN}`, `DNS:${DOMAIN}`] })

/** Removes the certificates. */
export const closeWorkshop = (): void => workshop.close()

/** The server name of a port of the task that tests expose. */
export const nameOf = (port: number, task = TASK): string => `${taskHash(task)}-${port}.${DOMAIN}`

/** A gateway on loopback, with all that it wrote down. */
export interface Gateway {
  readonly address: Address
  readonly outcomes: Outcome[]
  readonly requests: RequestOutcome[]
  readonly world: World
  /** Replaces the policy, as a reload does. */
  readonly use: (sections: string) => void
  readonly close: () => void
}

/** Opens one. `tasks` is the value of that key, in one line; `settings` are further lines of the section. */
export const gateway = async (
  tasks: string,
  { settings = '', keys = '', jwks = '', rules = '', changes = {} as Partial<World> } = {},
): Promise<Gateway> => {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-gateway-'))
  writeFileSync(join(directory, 'keys'), keys)
  writeFileSync(join(directory, 'jwks.json'), jwks)
  const document = (what: string) => `
certificates: { gate: { cert: ${gate.certPath}, key: ${gate.keyPath} } }
gateway:
  address: 127.0.0.1:0
  domain: ${DOMAIN}
  certificate: gate
${keys === '' ? '' : `  keys: { file: ${join(directory, 'keys')} }\n`}${jwks === '' ? '' : `  jwks: { file: ${join(directory, 'jwks.json')} }\n`}${settings === '' ? '' : `  ${settings}\n`}  tasks: ${what}
${rules}`
  let policy = policyOf(document(tasks))
  const tls = await openTls(policy.sections, systemClock, () => {})
  const world = { ...worldOf(document(tasks), { tls, ...changes }), policy: () => policy }
  const requests: RequestOutcome[] = []
  world.ledger.subscribeRequests((request) => requests.push(request))
  const live = await keepTokenKeys(
    () => policy.sections.gateway,
    {},
    systemClock,
    (problem) => {
      throw new Error(problem)
    },
  )
  const [options] = gatewayOf(policy.sections)
  const listening = await listen({ ...options!, serve: createGateway(live.verifier) }, world, undefined)
  return {
    address: listening.address,
    outcomes: world.outcomes,
    requests,
    world,
    use: (what) => {
      policy = policyOf(document(what))
    },
    close: () => {
      listening.close()
      for (const life of world.ledger.open) life.close('drained')
      world.http.pool.close()
      live.close()
      tls.close()
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

/** A TLS client of the gateway whose errors are its own affair. */
export const dialled = async ({ address }: Gateway, options: ConnectionOptions): Promise<TLSSocket> => {
  const socket = connect({ ...address, ca: root.cert, allowHalfOpen: true, ...options } as ConnectionOptions)
  await once(socket, 'secureConnect')
  socket.on('error', () => {})
  return socket
}

/** What an HTTP/1.1 request gets: the whole answer as text. `fields` are lines; Host is the server name where not given. */
export const asked = async (
  to: Gateway,
  servername: string,
  fields: readonly string[] = [],
  line = 'GET / HTTP/1.1',
  options: ConnectionOptions = {},
): Promise<string> => {
  const socket = await dialled(to, { servername, ...options })
  const host = fields.some((field) => /^host:/i.test(field)) ? [] : [`Host: ${servername}`]
  socket.write(`${[line, ...host, 'Connection: close', ...fields].join('\r\n')}\r\n\r\n`)
  let text = ''
  socket.setEncoding('latin1')
  socket.on('data', (chunk) => {
    text += chunk
  })
  await new Promise<void>((resolve) => socket.once('end', resolve).once('close', () => resolve()))
  socket.destroy()
  return text
}
