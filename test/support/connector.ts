import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { type Connector, type ConnectorOptions, startConnector } from '../../src/command/connector.ts'
import type { Envelope } from '../../src/command/envelope.ts'
import { readEnvironment } from '../../src/command/environment.ts'
import type { Address } from '../../src/net/address.ts'
import { systemClock } from '../../src/net/clock.ts'
import { tcpDialer } from '../../src/net/dial.ts'
import { createLedger } from '../../src/telemetry/ledger.ts'
import type { Outcome } from '../../src/telemetry/outcome.ts'
import { policyFrom } from './policy.ts'

/** Lets commands reach the servers that tests run. */
export const OPEN_LOOPBACK =
  '- { name: tests, when: { source: command, destination: 127.0.0.1 }, then: { deny: false } }'

/** A connector on a free port, everything it said, and every connection it opened or was denied. */
export interface TestConnector {
  readonly connector: Connector
  readonly url: string
  readonly outcomes: readonly Outcome[]
  readonly dialled: readonly Address[]
  readonly said: readonly string[]
  readonly errors: readonly string[]
  readonly get: (path: string, headers?: Record<string, string>) => Promise<Response>
  readonly post: (path: string, body: unknown, headers?: Record<string, string>) => Promise<Response>
  /** Runs a command; the answer must be an envelope. */
  readonly run: (id: string, args: unknown, headers?: Record<string, string>) => Promise<Envelope>
}

interface Given extends Partial<Omit<ConnectorOptions, 'policy' | 'settings' | 'environment'>> {
  readonly rules?: string
  /** The `commands` section, as it would be written on one line. */
  readonly commands?: string
  readonly environment?: Record<string, string>
}

/** Starts a connector and closes it with the test. */
export const startTestConnector = async (t: Pick<Test, 'teardown'>, given: Given = {}): Promise<TestConnector> => {
  const { rules = OPEN_LOOPBACK, commands = '', environment = {}, ...options } = given
  const policy = policyFrom(`apiVersion: sluice/v1\ncommands: { ${commands} }\nrules:\n  ${rules}\n`)
  const clock = options.clock ?? systemClock
  const ledger = createLedger(clock)
  const outcomes: Outcome[] = []
  const dialled: Address[] = []
  const said: string[] = []
  const errors: string[] = []
  ledger.subscribe((outcome) => outcomes.push(outcome))
  const read = readEnvironment({ HASURA_CONNECTOR_HOST: '127.0.0.1', HASURA_CONNECTOR_PORT: '0', ...environment })
  if (read.mistakes.length > 0) throw new Error(read.mistakes.join('\n'))
  const dial = options.dial ?? tcpDialer()
  const connector = await startConnector({
    settings: policy.sections.commands,
    environment: read.environment,
    env: environment,
    configurationDirectory: mkdtempSync(join(tmpdir(), 'sluice-empty-')),
    policy: () => policy,
    ledger,
    clock,
    log: { info: (text) => said.push(text), error: (text) => errors.push(text) },
    version: '0.0.0',
    ...options,
    dial: (to, signal) => {
      dialled.push(to)
      return dial(to, signal)
    },
  })
  t.teardown(() => connector.close(0))
  const url = `http://127.0.0.1:${connector.address.port}`
  const post: TestConnector['post'] = (path, body, headers = {}) =>
    fetch(`${url}${path}`, {
      method: 'POST',
      body: typeof body === 'string' ? body : JSON.stringify(body),
      headers: { 'content-type': 'application/json', ...headers },
    })
  return {
    connector,
    url,
    outcomes,
    dialled,
    said,
    errors,
    get: (path, headers = {}) => fetch(`${url}${path}`, { headers }),
    post,
    run: async (id, args, headers) => (await (await post(`/v1/do/${id}`, args, headers)).json()) as Envelope,
  }
}
