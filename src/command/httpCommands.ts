import type { Arguments, Command, Parameter, Result, Tools } from './command.ts'
import { contentType, decodeText } from './decode.ts'
import { parseJson } from './exactJson.ts'
import { type CommandFailure, failure, failureOf } from './failure.ts'
import { bodyOf, headersOf, urlOf } from './httpQuestion.ts'
import { fieldOf, type Question, type Reply } from './send.ts'

const ATTEMPTS_MAX = 10
const REDIRECTS_MAX = 10
const RETRY_PAUSE_MS = 1_000
/** A server may ask for more patience than a call has; the total timeout ends it in any case. */
const RETRY_PAUSE_MS_MAX = 30_000

const URL_PARAMETER: Parameter = { id: 'url', type: 'str', required: true, summary: 'Target URL, http or https' }
const optional = (id: string, type: Parameter['type'], summary: string): Parameter => ({
  id,
  type,
  required: false,
  summary,
})
const HEADERS = optional('headers', 'any', 'Request headers: an object of names and values')
const PARAMS = optional('params', 'any', 'Query parameters: an object, a list of pairs or a string; added to the URL')
const DATA = optional('data', 'any', 'Request body, sent as body_format says')
const BASIC_AUTH = [
  optional('basic_auth_username', 'str', 'User name for basic authentication; used only together with a password'),
  optional('basic_auth_password', 'str', 'Password for basic authentication'),
]
const ATTEMPTS = optional('attempts', 'int', '1 to 10: repeats after a 5xx or a broken connection; anything else is 1')
const BODY_FORMAT = optional('body_format', 'str', 'json (the default), form, raw, base64 or none')
const INCLUDE_HEADERS = optional('include_response_headers', 'bool', 'Adds the response headers to the answer')
const RESPONSE_FORMAT = optional('response_format', 'str', 'auto (the default), text, or base64 for binary bodies')

/** Which methods send `params` and which send `data`, as the lists of version 1 and version 2 have it. */
interface Method {
  readonly name: string
  readonly method: string
  readonly reads: boolean
  readonly first: readonly Parameter[]
  readonly second: readonly Parameter[]
}

const METHODS: readonly Method[] = [
  { name: 'Delete', method: 'DELETE', reads: false, first: [DATA], second: [PARAMS, DATA] },
  { name: 'Get', method: 'GET', reads: true, first: [PARAMS], second: [PARAMS] },
  { name: 'Head', method: 'HEAD', reads: true, first: [PARAMS], second: [PARAMS] },
  { name: 'Patch', method: 'PATCH', reads: false, first: [DATA], second: [DATA] },
  { name: 'Post', method: 'POST', reads: false, first: [DATA], second: [DATA] },
  { name: 'Put', method: 'PUT', reads: false, first: [DATA], second: [DATA] },
]

/** The listed parameters of the first six are a contract: what came later they accept and do not list. */
const firstVersion = ({ name, method, reads, first }: Method): Command => {
  const parameters = [URL_PARAMETER, HEADERS, ...first, ...BASIC_AUTH]
  const later = [PARAMS, INCLUDE_HEADERS, RESPONSE_FORMAT, ...(reads ? [] : [BODY_FORMAT])]
  return {
    id: `http/${name}Request`,
    summary: `Makes an HTTP ${method} request; redirects are not followed`,
    reads,
    parameters,
    accepts: later.filter(({ id }) => !parameters.some((parameter) => parameter.id === id)),
    run: async (args, tools) => {
      const reply = await tools.send(questionOf(method, reads, args, 0))
      return resultOf(args, reply, 300)
    },
  }
}

const secondVersion = ({ name, method, reads, second }: Method): Command => ({
  id: `http/${name}RequestV2`,
  summary: `Makes an HTTP ${method} request and follows redirects`,
  reads,
  parameters: [
    URL_PARAMETER,
    HEADERS,
    ...second,
    ...BASIC_AUTH,
    ...(reads ? [ATTEMPTS] : [BODY_FORMAT]),
    INCLUDE_HEADERS,
    RESPONSE_FORMAT,
  ],
  ...(second.includes(PARAMS) ? {} : { accepts: [PARAMS] }),
  run: async (args, tools) => {
    const question = questionOf(method, reads, args, REDIRECTS_MAX)
    const reply = reads ? await repeated(question, attemptsOf(args), tools) : await tools.send(question)
    return resultOf(args, reply, 400)
  },
})

/** `http/DeleteRequest` to `http/PutRequest`, then the same with V2, in the order the first server listed them. */
export const HTTP_COMMANDS: readonly Command[] = [...METHODS.map(firstVersion), ...METHODS.map(secondVersion)]

const questionOf = (method: string, reads: boolean, args: Arguments, redirects: number): Question => {
  checkChoice(args, 'response_format', ['', 'auto', 'text', 'base64'])
  const url = urlOf(args)
  const { body, type } = reads ? { body: undefined, type: undefined } : bodyOf(args)
  return { method, url: url.href, headers: headersOf(args, url, type), body, redirects }
}

const checkChoice = (args: Arguments, id: string, choices: readonly string[]): void => {
  const value = args[id]
  if (typeof value === 'string' && !choices.includes(value.toLowerCase()))
    throw failure('invalid_parameters', `${id} is one of ${choices.filter(Boolean).join(', ')}`)
}

const attemptsOf = ({ attempts }: Arguments): number =>
  typeof attempts === 'number' && attempts >= 1 && attempts <= ATTEMPTS_MAX ? attempts : 1

/** What may be different the next time: never what the policy, the certificate or the request itself decided. */
const TRANSIENT = new Set(['dns_failed', 'connection_refused', 'connection_reset', 'unreachable', 'connect_timeout'])

/** Repeats a GET or a HEAD, and only those: nothing is done twice that changes something. */
const repeated = async (question: Question, attempts: number, tools: Tools): Promise<Reply> => {
  for (let attempt = 1; ; attempt++) {
    const outcome = await attemptOf(question, tools)
    const isLast = attempt === attempts
    if ('reply' in outcome) {
      if (outcome.reply.status < 500 || isLast) return outcome.reply
      tools.log(`attempt ${attempt} of ${attempts}: HTTP ${outcome.reply.status}`)
    } else {
      if (!TRANSIENT.has(outcome.failed.code) || isLast) throw outcome.failed
      tools.log(`attempt ${attempt} of ${attempts}: ${outcome.failed.code}`)
    }
    await tools.wait('reply' in outcome ? pauseOf(outcome.reply) : RETRY_PAUSE_MS)
  }
}

const attemptOf = async (
  question: Question,
  { send }: Tools,
): Promise<{ reply: Reply } | { failed: CommandFailure }> => {
  try {
    return { reply: await send(question) }
  } catch (thrown) {
    return { failed: failureOf(thrown) }
  }
}

/** Retry-After in seconds (RFC 9110 10.2.3); a date or nonsense is the usual pause. */
const pauseOf = (reply: Reply): number => {
  const seconds = fieldOf(reply, 'retry-after') ?? ''
  return /^\d{1,6}$/.test(seconds) ? Math.min(Number(seconds) * 1_000, RETRY_PAUSE_MS_MAX) : RETRY_PAUSE_MS
}

/** The upstream's status never becomes the status of our own answer: it is data, and an error from `errorFrom` on. */
const resultOf = (args: Arguments, reply: Reply, errorFrom: number): Result => {
  const { type, charset } = contentType(fieldOf(reply, 'content-type') ?? '')
  const format = String(args.response_format ?? '').toLowerCase()
  const isJson =
    format !== 'text' &&
    format !== 'base64' &&
    (fieldOf(reply, 'content-type') ?? '').toLowerCase().includes('application/json')
  const text = format === 'base64' ? '' : decodeText(reply.body, isJson && charset === 'utf-8' ? 'utf-8' : charset)
  const read: Read =
    format === 'base64'
      ? { body: base64Body(reply, type) }
      : isJson && text !== ''
        ? readJson(text)
        : { body: { raw_response: text } }
  const httpError = reply.status >= errorFrom ? httpErrorOf(reply, text) : null
  return {
    body: read.body,
    http_status: reply.status,
    error: httpError ?? read.error ?? null,
    ...(args.include_response_headers === true ? { headers: headersObject(reply) } : {}),
  }
}

const base64Body = (reply: Reply, type: string): unknown => ({
  base64_response: reply.body.toString('base64'),
  content_type: type === '' ? 'application/octet-stream' : type,
})

interface Read {
  readonly body: unknown
  readonly error?: Result['error']
}

const readJson = (text: string): Read => {
  try {
    return { body: parseJson(text) }
  } catch (thrown) {
    const { message } = thrown as Error
    return {
      body: { raw_response: text },
      error: { error_code: 'invalid_json', message: `the answer is not JSON: ${message}` },
    }
  }
}

/** Enough of the body to see what the server meant, and no more: the whole of it is in `body`. */
const EXCERPT_CHARS = 2_000

const httpErrorOf = ({ status }: Reply, text: string): Result['error'] => ({
  error_code: `HttpError${status}`,
  message: `HTTP ${status} error from service. Response: ${text.length > EXCERPT_CHARS ? `${text.slice(0, EXCERPT_CHARS)}…` : text}`,
})

const headersObject = (reply: Reply): Record<string, string> => {
  const all = new Map<string, string>()
  for (const [name, value] of reply.headers) all.set(name, all.has(name) ? `${all.get(name)}, ${value}` : value)
  return Object.fromEntries(all)
}
