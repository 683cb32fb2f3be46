import type { Command, Parameter, ParameterType } from './command.ts'
import { ndcName, type Registry } from './registry.ts'

/** The version of the NDC specification that this connector answers to. */
export const NDC_VERSION = '0.2.13'

/** Only what we do: several rowsets for several sets of variables, and explaining. No transactions: HTTP has none. */
export const CAPABILITIES = {
  version: NDC_VERSION,
  capabilities: { query: { variables: {}, explain: {} }, mutation: { explain: {} } },
} as const

const named = (name: string) => ({ type: 'named', name }) as const
const nullable = (name: string) => ({ type: 'nullable', underlying_type: named(name) }) as const
const scalar = (representation: string) =>
  ({ representation: { type: representation }, aggregate_functions: {}, comparison_operators: {} }) as const

const SCALAR_OF: Readonly<Record<ParameterType, string>> = { str: 'String', int: 'Int', bool: 'Boolean', any: 'JSON' }

/** The object type every command returns; its fields are what a selection may name. */
export const RESULT_FIELDS = {
  body: {
    type: nullable('JSON'),
    description: 'What the command returned; for HTTP the parsed JSON, or { raw_response }',
  },
  mimetype: { type: named('String'), description: 'Of body as it stands here: always application/json' },
  http_status: { type: named('Int'), description: "The upstream's status" },
  headers: { type: nullable('JSON'), description: 'Response headers, where include_response_headers asked for them' },
  error: { type: nullable('CommandError'), description: 'Set when the upstream answered with an error' },
  logs: { type: { type: 'array', element_type: named('String') }, description: 'Lines the command logged' },
} as const

/** The fields of CommandError. */
export const ERROR_FIELDS = {
  error_code: { type: named('String'), description: 'Stable: see the list of codes' },
  message: { type: named('String'), description: 'For a person' },
} as const

const OBJECT_TYPES = {
  CommandResult: { description: 'What a command returned', fields: RESULT_FIELDS, foreign_keys: {} },
  CommandError: { description: 'An error by its code', fields: ERROR_FIELDS, foreign_keys: {} },
} as const

/** The answer of `/schema`: commands that only read are functions, the others procedures. */
export const schemaOf = (registry: Registry): object => ({
  scalar_types: { String: scalar('string'), Int: scalar('int64'), Boolean: scalar('boolean'), JSON: scalar('json') },
  object_types: OBJECT_TYPES,
  collections: [],
  functions: registry.list.filter(({ reads }) => reads).map(operation),
  procedures: registry.list.filter(({ reads }) => !reads).map(operation),
})

const operation = (command: Command): object => ({
  name: ndcName(command.id),
  description: command.summary,
  arguments: Object.fromEntries(
    [...command.parameters, ...(command.accepts ?? [])].map((parameter) => [parameter.id, argument(parameter)]),
  ),
  result_type: named('CommandResult'),
})

const argument = ({ type, required, summary }: Parameter): object => ({
  type: required ? named(SCALAR_OF[type]) : nullable(SCALAR_OF[type]),
  ...(summary === undefined ? {} : { description: summary }),
})

/** semver 2.0.0, in full. */
const SEMVER = /^(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?$/

/**
 * Whether a caller that speaks `wanted` (the header X-Hasura-NDC-Version) can talk to us: our version must satisfy
 * `^wanted`, which before 1.0 means the same minor version and a patch no older. Undefined: it can.
 */
export const versionMistake = (wanted: string | undefined): string | undefined => {
  if (wanted === undefined) return undefined
  const found = SEMVER.exec(wanted.trim())
  if (found === null) return `X-Hasura-NDC-Version is not a semantic version: '${wanted.slice(0, 100)}'`
  const [major, minor, patch] = found.slice(1, 4).map(Number) as [number, number, number]
  const [ownMajor, ownMinor, ownPatch] = NDC_VERSION.split('.').map(Number) as [number, number, number]
  const isCompatible = major === ownMajor && minor === ownMinor && patch <= ownPatch
  return isCompatible ? undefined : `this connector speaks NDC ${NDC_VERSION}, which does not satisfy ^${wanted.trim()}`
}
