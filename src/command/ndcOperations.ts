import { checkArguments } from './arguments.ts'
import type { Command } from './command.ts'
import { envelopeOf } from './envelope.ts'
import { isRecord } from './exactJson.ts'
import { explainCall } from './explainCall.ts'
import { failureOf } from './failure.ts'
import { NdcError, ndcErrorOf } from './ndcError.ts'
import { ERROR_FIELDS, RESULT_FIELDS } from './ndcSchema.ts'
import type { Registry } from './registry.ts'
import type { Caller, Runner } from './run.ts'

/** What the operations need. */
export interface NdcParts {
  readonly registry: Registry
  readonly runner: Runner
}

type Json = Readonly<Record<string, unknown>>

/** Sets of variables that run at once: enough to be quick, and one query cannot take all the places there are. */
const PARALLEL_MAX = 8
const VARIABLE_SETS_MAX = 10_000

/** POST /query: one function, once for each set of variables, in their order. */
export const query = async (parts: NdcParts, body: unknown, caller: Caller): Promise<unknown> => {
  const { command, selection, sets, isWanted } = readQuery(parts.registry, body)
  const rowSets: unknown[] = []
  for (let at = 0; at < sets.length; at += PARALLEL_MAX) {
    const batch = sets.slice(at, at + PARALLEL_MAX).map(async (args) => {
      if (selection === undefined) return {}
      if (!isWanted) return { rows: [] }
      const value = await call(parts, command, args, caller)
      return { rows: [project(selection, { __value: value })] }
    })
    rowSets.push(...(await Promise.all(batch)))
  }
  return rowSets
}

/** POST /query/explain: what would be called; nothing is. */
export const explainQuery = (parts: NdcParts, body: unknown): unknown => {
  const { command, sets } = readQuery(parts.registry, body)
  return { details: explainCall(command, checked(command, sets[0] ?? {})) }
}

/** POST /mutation: one procedure. */
export const mutation = async (parts: NdcParts, body: unknown, caller: Caller): Promise<unknown> => {
  const found = readMutation(parts.registry, body)
  if (found === undefined) return { operation_results: [] }
  const value = await call(parts, found.command, found.args, caller)
  const result = found.fields === null ? value : projectNested(found.fields, value)
  return { operation_results: [{ type: 'procedure', result }] }
}

/** POST /mutation/explain. */
export const explainMutation = (parts: NdcParts, body: unknown): unknown => {
  const found = readMutation(parts.registry, body)
  return { details: found === undefined ? {} : explainCall(found.command, checked(found.command, found.args)) }
}

const bad = (message: string): NdcError => new NdcError(400, message)

const UNSUPPORTED = ['aggregates', 'order_by', 'predicate', 'groups', 'relational']

interface Query {
  readonly command: Command
  /** Undefined: no rows are asked for, so the function is not called. */
  readonly selection: Json | undefined
  readonly sets: readonly Json[]
  /** Whether the one row is within offset and limit. */
  readonly isWanted: boolean
}

const readQuery = (registry: Registry, body: unknown): Query => {
  if (!isRecord(body)) throw bad('the body must be an object')
  const command = typeof body.collection === 'string' ? registry.named(body.collection) : undefined
  if (command?.reads !== true) throw bad(`there is no function '${String(body.collection).slice(0, 200)}'`)
  if (!isRecord(body.query)) throw bad('query must be an object')
  const { fields, limit = null, offset = null } = body.query
  for (const name of UNSUPPORTED)
    if (body.query[name] !== undefined && body.query[name] !== null)
      throw new NdcError(501, `query.${name} is not supported: see the capabilities`)
  if (fields !== undefined && fields !== null && !isRecord(fields)) throw bad('query.fields must be an object')
  for (const [name, value] of Object.entries({ limit, offset }))
    if (value !== null && !(Number.isInteger(value) && (value as number) >= 0))
      throw bad(`query.${name} must be 0 or more`)
  const selection = isRecord(fields) ? fields : undefined
  if (selection !== undefined) checkSelection(selection, ROW_TYPE, 'query.fields')
  const given = isRecord(body.arguments) ? body.arguments : {}
  return {
    command,
    selection,
    sets: argumentSets(command, given, body.variables),
    isWanted: limit !== 0 && (offset ?? 0) === 0,
  }
}

const argumentSets = (command: Command, given: Json, variables: unknown): Json[] => {
  if (variables === undefined || variables === null) return [argumentsOf(command, given, {})]
  if (!Array.isArray(variables) || !variables.every(isRecord)) throw bad('variables must be a list of objects')
  if (variables.length > VARIABLE_SETS_MAX) throw bad(`more than ${VARIABLE_SETS_MAX} sets of variables`)
  return variables.map((set) => argumentsOf(command, given, set))
}

const argumentsOf = (command: Command, given: Json, variables: Json): Json =>
  Object.fromEntries(
    Object.entries(given).map(([name, argument]) => {
      checkKnown(command, name)
      if (!isRecord(argument)) throw bad(`arguments.${name} must be an object`)
      if (argument.type === 'literal') return [name, argument.value]
      if (argument.type !== 'variable') throw bad(`arguments.${name}.type must be literal or variable`)
      if (typeof argument.name !== 'string' || !Object.hasOwn(variables, argument.name))
        throw bad(`arguments.${name}: there is no variable '${String(argument.name).slice(0, 200)}'`)
      return [name, variables[argument.name]]
    }),
  )

const checkKnown = ({ id, parameters, accepts = [] }: Command, name: string): void => {
  if (![...parameters, ...accepts].some((parameter) => parameter.id === name))
    throw bad(`${id} has no argument '${name.slice(0, 200)}'`)
}

interface Mutation {
  readonly command: Command
  readonly args: Json
  readonly fields: unknown
}

const readMutation = (registry: Registry, body: unknown): Mutation | undefined => {
  if (!isRecord(body) || !Array.isArray(body.operations)) throw bad('operations must be a list')
  const [operation] = body.operations as unknown[]
  if (body.operations.length > 1)
    throw new NdcError(501, 'one operation a request: mutation.transactional is not among the capabilities')
  if (operation === undefined) return undefined
  if (!isRecord(operation) || operation.type !== 'procedure') throw bad('operations[0].type must be procedure')
  const command = typeof operation.name === 'string' ? registry.named(operation.name) : undefined
  if (command === undefined || command.reads)
    throw bad(`there is no procedure '${String(operation.name).slice(0, 200)}'`)
  if (!isRecord(operation.arguments)) throw bad('operations[0].arguments must be an object')
  for (const name of Object.keys(operation.arguments)) checkKnown(command, name)
  const fields = operation.fields ?? null
  if (fields !== null) checkNested(fields, RESULT_TYPE, 'operations[0].fields')
  return { command, args: operation.arguments, fields }
}

const call = async ({ runner }: NdcParts, command: Command, args: Json, caller: Caller): Promise<Json> => {
  const done = await runner.run(command, args, caller)
  if ('failed' in done) throw ndcErrorOf(done.failed)
  const { command_response: response, error } = envelopeOf(done)
  const { body, mimetype, http_status, headers = null } = response
  return { body, mimetype, http_status, headers, error, logs: done.logs }
}

const checked = (command: Command, args: Json): Json => {
  try {
    return checkArguments(command, args).args
  } catch (thrown) {
    throw ndcErrorOf(failureOf(thrown))
  }
}

/** A type as selections see it: an object with named columns, or a leaf that nothing can be selected from. */
type Selectable = { readonly [column: string]: Selectable } | 'scalar'

const columnsOf = (fields: object): Record<string, Selectable> =>
  Object.fromEntries(Object.keys(fields).map((name) => [name, 'scalar' as Selectable]))

const RESULT_TYPE: Selectable = { ...columnsOf(RESULT_FIELDS), error: columnsOf(ERROR_FIELDS) }
const ROW_TYPE: Selectable = { __value: RESULT_TYPE }

const checkSelection = (fields: Json, type: Selectable, where: string): void => {
  for (const [alias, field] of Object.entries(fields)) {
    const place = `${where}.${alias}`
    if (!isRecord(field)) throw bad(`${place} must be an object`)
    if (field.type === 'relationship') throw new NdcError(501, `${place}: relationships are not supported`)
    if (field.type !== 'column') throw bad(`${place}.type must be column`)
    const column =
      typeof field.column === 'string' && type !== 'scalar' && Object.hasOwn(type, field.column)
        ? type[field.column]
        : undefined
    if (column === undefined) throw bad(`${place}: there is no column '${String(field.column).slice(0, 200)}'`)
    if (field.fields !== undefined && field.fields !== null) checkNested(field.fields, column, `${place}.fields`)
  }
}

const checkNested = (nested: unknown, type: Selectable, where: string): void => {
  if (!isRecord(nested) || nested.type !== 'object' || !isRecord(nested.fields))
    throw bad(`${where} must be { type: object, fields }`)
  if (type === 'scalar') throw bad(`${where}: there is nothing to select from a scalar`)
  checkSelection(nested.fields, type, `${where}.fields`)
}

/** Selections are checked before anything runs, so here each column is there; what is null stays null. */
const project = (fields: Json, value: Json): Json =>
  Object.fromEntries(
    Object.entries(fields).map(([alias, field]) => {
      const { column, fields: nested } = field as { column: string; fields?: unknown }
      const own = value[column]
      return [alias, isRecord(nested) && isRecord(own) ? projectNested(nested, own) : own]
    }),
  )

const projectNested = (nested: unknown, value: Json): Json => project((nested as { fields: Json }).fields, value)
