import { envelopeOf, envelopeText, failedEnvelope } from './envelope.ts'
import { isRecord, parseJson } from './exactJson.ts'
import { type CommandFailure, failure } from './failure.ts'
import { NdcError } from './ndcError.ts'
import { explainMutation, explainQuery, mutation, query } from './ndcOperations.ts'
import { CAPABILITIES, schemaOf } from './ndcSchema.ts'
import { openApi } from './openapi.ts'
import { listed, type Registry } from './registry.ts'
import type { Caller, Runner } from './run.ts'

/** A request that has been let in. `body` reads it, at most once, and throws a CommandFailure when it is too large. */
export interface Asked {
  readonly path: string
  readonly caller: Caller
  readonly body: () => Promise<Buffer>
}

/** What is written back. */
export interface Answer {
  readonly status: number
  readonly type: string
  readonly text: string
  readonly headers?: Readonly<Record<string, string>>
}

/** Whose words errors on a route are written in. */
export type Family = 'ndc' | 'command'

/** One route: its method, who may come in, and what it answers. */
export interface Route {
  readonly method: 'GET' | 'POST'
  readonly family: Family
  /** Open: no token either. */
  readonly lock: 'open' | 'token' | 'tokenAndKey'
  readonly answer: (asked: Asked) => Promise<Answer> | Answer
}

/** What the routes need. */
export interface RouteParts {
  readonly registry: Registry
  readonly runner: Runner
  readonly metrics: () => Promise<{ readonly type: string; readonly text: string }>
  readonly version: string
}

const JSON_TYPE = 'application/json'

/** An answer in JSON. */
export const jsonAnswer = (status: number, value: unknown, headers: Readonly<Record<string, string>> = {}): Answer => ({
  status,
  type: JSON_TYPE,
  text: JSON.stringify(value),
  headers,
})

/** The routes by path; `/v1/do/` stands for every path below it. */
export const createRoutes = (parts: RouteParts): ReadonlyMap<string, Route> => {
  const { registry } = parts
  const fixed = (value: unknown) => {
    const text = JSON.stringify(value)
    return () => ({ status: 200, type: JSON_TYPE, text })
  }
  const ndcGet = (value: unknown): Route => ({ method: 'GET', family: 'ndc', lock: 'token', answer: fixed(value) })
  const ndcPost = (run: (body: unknown, caller: Caller) => Promise<unknown> | unknown): Route => ({
    method: 'POST',
    family: 'ndc',
    lock: 'token',
    answer: async ({ body, caller }) => jsonAnswer(200, await run(readNdcBody(await body()), caller)),
  })
  const command = (lock: Route['lock'], value: unknown): Route => ({
    method: 'GET',
    family: 'command',
    lock,
    answer: fixed(value),
  })
  const isLive = { ok: true, status: 'ok' }
  return new Map<string, Route>([
    [
      '/',
      {
        method: 'GET',
        family: 'ndc',
        lock: 'token',
        answer: () => ({ status: 200, type: 'text/plain', text: WELCOME }),
      },
    ],
    ['/capabilities', ndcGet(CAPABILITIES)],
    ['/schema', ndcGet(schemaOf(registry))],
    ['/query', ndcPost((body, caller) => query(parts, body, caller))],
    ['/query/explain', ndcPost((body) => explainQuery(parts, body))],
    ['/mutation', ndcPost((body, caller) => mutation(parts, body, caller))],
    ['/mutation/explain', ndcPost((body) => explainMutation(parts, body))],
    [
      '/health',
      { method: 'GET', family: 'ndc', lock: 'open', answer: () => ({ status: 200, type: 'text/plain', text: '' }) },
    ],
    [
      '/metrics',
      {
        method: 'GET',
        family: 'ndc',
        lock: 'token',
        answer: async () => ({ status: 200, ...(await parts.metrics()) }),
      },
    ],
    ['/openapi.json', ndcGet(openApi(registry, parts.version))],
    ['/liveness', command('token', isLive)],
    ['/v1/liveness', command('token', isLive)],
    ['/v1/commands', command('tokenAndKey', listed(registry))],
    ['/v1/auths', command('tokenAndKey', [])],
    [DO, { method: 'POST', family: 'command', lock: 'tokenAndKey', answer: (asked) => execute(parts, asked) }],
  ])
}

const WELCOME = 'Sluice: a connector. See /openapi.json, /v1/commands and /capabilities.\n'

/** The prefix below which commands are run. */
export const DO = '/v1/do/'

/** The family of a path that no route has: process engines know only what is below /v1. */
export const familyOf = (path: string): Family => (path.startsWith('/v1/') ? 'command' : 'ndc')

const execute = async ({ registry, runner }: RouteParts, { path, body, caller }: Asked): Promise<Answer> => {
  const command = registry.get(path.slice(DO.length))
  if (command === undefined)
    return failedAnswer(failure('command_not_found', `there is no command '${path.slice(DO.length, 200)}'`))
  const done = await runner.run(command, readCommandBody(await body()), caller)
  const text = envelopeText(envelopeOf(done))
  // What is wrong with the request itself is told by our own status, and what became of the command never.
  const isBusy = 'failed' in done && done.failed.code === 'busy'
  const isMisfit = 'failed' in done && done.failed.code === 'invalid_parameters'
  return {
    status: isBusy ? 503 : isMisfit ? 400 : 200,
    type: JSON_TYPE,
    text,
    headers: isBusy ? { 'retry-after': '1' } : {},
  }
}

/** A failure outside a command, in the words of commands. */
export const failedAnswer = (failed: CommandFailure): Answer => jsonAnswer(failed.status, failedEnvelope(failed))

/** Content-Type is not asked for: the first callers do not always send one. */
const readCommandBody = (bytes: Buffer): Record<string, unknown> => {
  const value = readJson(bytes)
  if (value === undefined) throw failure('invalid_parameters', 'the body is not JSON')
  if (!isRecord(value)) throw failure('invalid_parameters', 'the body must be a JSON object')
  return value
}

const readNdcBody = (bytes: Buffer): unknown => {
  const value = readJson(bytes)
  if (value === undefined) throw new NdcError(400, 'the body is not JSON')
  return value
}

/** JSON is UTF-8 (RFC 8259 8.1); undefined when it is not JSON. */
const readJson = (bytes: Buffer): unknown => {
  try {
    return parseJson(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch {
    return undefined
  }
}
