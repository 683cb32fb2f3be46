import type { Command, Parameter, ParameterType } from './command.ts'
import { FAILURES } from './failure.ts'
import { NDC_VERSION } from './ndcSchema.ts'
import type { Registry } from './registry.ts'

/** The OpenAPI document of this server: every route, and for each command the schema of its parameters. */
export const openApi = (registry: Registry, version: string): object => ({
  openapi: '3.1.0',
  info: {
    title: 'Sluice: commands',
    version,
    description:
      'Commands for process engines (routes under /v1) and for NDC callers (the other routes). Which routes ask for ' +
      'the API key or the bearer token depends on the configuration.',
  },
  paths: {
    ...commandPaths(registry),
    ...ndcPaths,
    ...servicePaths,
  },
  components: {
    securitySchemes: {
      apiKey: { type: 'apiKey', in: 'header', name: 'Spiff-Connector-Proxy-Api-Key' },
      bearer: { type: 'http', scheme: 'bearer' },
    },
    schemas: SCHEMAS,
  },
})

const ref = (name: string) => ({ $ref: `#/components/schemas/${name}` }) as const
const answer = (description: string, schema: object) =>
  ({ description, content: { 'application/json': { schema } } }) as const
const KEY_OR_TOKEN = [{}, { apiKey: [] }, { bearer: [] }, { apiKey: [], bearer: [] }]
const TOKEN = [{}, { bearer: [] }]
const UNAUTHORIZED = answer('The API key or the bearer token is missing or wrong', ref('Unauthorized'))

const TYPES: Readonly<Record<ParameterType, object>> = {
  str: { type: ['string', 'number', 'null'] },
  int: { type: ['integer', 'string', 'null'], pattern: '^-?\\d{1,15}$' },
  bool: { enum: [true, false, 'true', 'false', null] },
  any: {},
}

const REQUIRED_TYPES: Readonly<Record<ParameterType, object>> = {
  str: { type: ['string', 'number'] },
  int: { type: ['integer', 'string'], pattern: '^-?\\d{1,15}$' },
  bool: { enum: [true, false, 'true', 'false'] },
  any: { not: { type: 'null' } },
}

const requestSchema = ({ parameters, accepts = [] }: Command): object => ({
  type: 'object',
  required: parameters.filter(({ required }) => required).map(({ id }) => id),
  properties: Object.fromEntries(
    [...parameters, ...accepts].map((parameter) => [parameter.id, parameterSchema(parameter)]),
  ),
  description:
    'Keys that begin with spiff__ are accepted, and neither forwarded nor logged; other unknown keys are ignored.',
})

const parameterSchema = ({ type, required, summary }: Parameter): object => ({
  ...(required ? REQUIRED_TYPES : TYPES)[type],
  ...(summary === undefined ? {} : { description: summary }),
})

const commandPaths = (registry: Registry): object => ({
  '/v1/commands': {
    get: {
      operationId: 'listCommands',
      security: KEY_OR_TOKEN,
      responses: { 200: answer('The commands and their parameters', ref('Commands')), 401: UNAUTHORIZED },
    },
  },
  '/v1/auths': {
    get: {
      operationId: 'listAuths',
      security: KEY_OR_TOKEN,
      responses: { 200: answer('Always empty', { type: 'array', maxItems: 0 }), 401: UNAUTHORIZED },
    },
  },
  ...Object.fromEntries(registry.list.map((command) => [`/v1/do/${command.id}`, { post: commandOperation(command) }])),
})

const commandOperation = (command: Command): object => ({
  operationId: command.id.replace('/', '_'),
  summary: command.summary,
  security: KEY_OR_TOKEN,
  requestBody: { required: true, content: { 'application/json': { schema: requestSchema(command) } } },
  responses: {
    200: answer("The command ran: see http_status and error for how the upstream's side went", ref('Envelope')),
    400: answer('The body is not JSON, not an object, or does not fit the parameters', ref('FailedEnvelope')),
    401: UNAUTHORIZED,
    403: answer('A web page of an origin that is not allowed sent this', ref('Refused')),
    413: answer('The body is too large', ref('FailedEnvelope')),
    415: answer('The body has a content encoding', ref('FailedEnvelope')),
    503: answer('Too many commands are running', ref('FailedEnvelope')),
  },
})

const ndcOperation = (operationId: string, schema: object, hasBody: boolean): object => ({
  operationId,
  security: TOKEN,
  ...(hasBody
    ? { requestBody: { required: true, content: { 'application/json': { schema: { type: 'object' } } } } }
    : {}),
  responses: {
    200: answer(`As the NDC specification ${NDC_VERSION} has it`, schema),
    ...Object.fromEntries(
      [400, 401, ...(hasBody ? [403, 413, 422, 501, 502] : [])].map((status) => [
        status,
        answer('Error', ref('NdcError')),
      ]),
    ),
  },
})

const NDC_OBJECT = { type: 'object' }
const ndcPaths = {
  '/capabilities': { get: ndcOperation('getCapabilities', NDC_OBJECT, false) },
  '/schema': { get: ndcOperation('getSchema', NDC_OBJECT, false) },
  '/query': { post: ndcOperation('query', { type: 'array', items: NDC_OBJECT }, true) },
  '/query/explain': { post: ndcOperation('explainQuery', NDC_OBJECT, true) },
  '/mutation': { post: ndcOperation('mutation', NDC_OBJECT, true) },
  '/mutation/explain': { post: ndcOperation('explainMutation', NDC_OBJECT, true) },
}

const live = (operationId: string) => ({
  get: { operationId, security: TOKEN, responses: { 200: answer('The server answers', ref('Live')) } },
})

const servicePaths = {
  '/health': {
    get: {
      operationId: 'getHealth',
      security: [],
      responses: { 200: { description: 'Ready. No body, no authentication' } },
    },
  },
  '/liveness': live('getLiveness'),
  '/v1/liveness': live('getLivenessV1'),
  '/metrics': {
    get: {
      operationId: 'getMetrics',
      security: TOKEN,
      responses: {
        200: { description: 'Prometheus metrics', content: { 'text/plain': { schema: { type: 'string' } } } },
        401: answer('Error', ref('NdcError')),
      },
    },
  },
  '/openapi.json': {
    get: {
      operationId: 'getOpenApi',
      security: TOKEN,
      responses: { 200: answer('This document', { type: 'object' }), 401: answer('Error', ref('NdcError')) },
    },
  },
}

const ERROR = {
  type: 'object',
  required: ['error_code', 'message'],
  additionalProperties: false,
  properties: {
    error_code: {
      type: 'string',
      description: `HttpError<status>, a module's own code, or one of: ${Object.keys(FAILURES).join(', ')}`,
    },
    message: { type: 'string' },
  },
}

const envelope = (error: object): object => ({
  type: 'object',
  required: ['command_response', 'command_response_version', 'error', 'spiff__logs'],
  additionalProperties: false,
  properties: {
    command_response: {
      type: 'object',
      required: ['body', 'mimetype', 'http_status'],
      additionalProperties: false,
      properties: {
        body: {
          description: 'Parsed JSON, { raw_response }, { base64_response, content_type }, or what a module returns',
        },
        mimetype: { const: 'application/json' },
        http_status: { type: 'integer', minimum: 100, maximum: 599 },
        headers: { type: 'object', additionalProperties: { type: 'string' } },
      },
    },
    command_response_version: { const: 2 },
    error,
    spiff__logs: { type: 'array', items: { type: 'string' } },
  },
})

const SCHEMAS = {
  Envelope: envelope({ anyOf: [{ type: 'null' }, ERROR] }),
  FailedEnvelope: envelope(ERROR),
  Commands: {
    type: 'array',
    items: {
      type: 'object',
      required: ['id', 'parameters'],
      additionalProperties: false,
      properties: {
        id: { type: 'string', pattern: '^[A-Za-z][\\w-]*/[A-Za-z][\\w-]*$' },
        parameters: {
          type: 'array',
          items: {
            type: 'object',
            required: ['id', 'type', 'required'],
            additionalProperties: false,
            properties: {
              id: { type: 'string' },
              type: { enum: ['str', 'any', 'int', 'bool'] },
              required: { type: 'boolean' },
            },
          },
        },
      },
    },
  },
  Unauthorized: {
    type: 'object',
    required: ['error'],
    additionalProperties: false,
    properties: { error: { const: 'Unauthorized' } },
  },
  Refused: {
    type: 'object',
    required: ['error'],
    additionalProperties: false,
    properties: { error: { type: 'string' } },
  },
  Live: { type: 'object', required: ['ok', 'status'], properties: { ok: { const: true }, status: { const: 'ok' } } },
  NdcError: {
    type: 'object',
    required: ['message', 'details'],
    additionalProperties: false,
    properties: { message: { type: 'string' }, details: {} },
  },
}
