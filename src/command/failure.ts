/**
 * Every way a command can fail, by its stable code. Processes match on these codes (BPMN boundary events do),
 * so a code may be added here and never renamed. `status` is what `http_status` becomes: callers repeat 5xx and 429,
 * so what will fail again in the same way is a 4xx.
 */
export const FAILURES = {
  invalid_parameters: {
    status: 400,
    says: 'a parameter is missing, has the wrong type or a value that cannot be sent',
  },
  invalid_url: { status: 400, says: 'the URL cannot be read, or is neither http nor https' },
  blocked_by_policy: {
    status: 403,
    says: 'the policy, or the list of closed address ranges, forbids this destination',
  },
  command_not_found: { status: 404, says: 'no command has this id' },
  request_too_large: { status: 413, says: 'the request to Sluice is larger than commands.maxRequest' },
  cancelled: { status: 499, says: 'the caller hung up, or Sluice is shutting down, before the command was done' },
  missing_secret: { status: 500, says: 'an environment variable the command needs is not set' },
  command_failed: { status: 500, says: 'the code of a command threw an error of its own' },
  internal_error: { status: 500, says: 'a defect of Sluice: please report it' },
  dns_failed: { status: 502, says: 'the host name does not resolve' },
  connection_refused: { status: 502, says: 'nothing listens at the destination' },
  unreachable: { status: 502, says: 'there is no route to the destination' },
  connection_reset: { status: 502, says: 'the connection broke before the answer was complete' },
  tls_failed: { status: 502, says: 'the TLS handshake failed, or the certificate is not trusted for this name' },
  invalid_response: { status: 502, says: 'the answer is not HTTP, or its content encoding is damaged' },
  invalid_json: { status: 502, says: 'the answer says application/json and is not JSON' },
  response_too_large: { status: 502, says: 'the answer, decompressed, is larger than commands.maxResponse' },
  too_many_redirects: { status: 502, says: 'more redirects than are followed' },
  mail_rejected: { status: 502, says: 'the mail server refused the sender, a recipient, the message or the password' },
  busy: { status: 503, says: 'commands.maxInFlight commands are running, or the memory for answers is used up' },
  connect_timeout: {
    status: 504,
    says: 'resolving, connecting and the TLS handshake took longer than commands.connectTimeout',
  },
  timeout: { status: 504, says: 'the command took longer than commands.timeout' },
} as const

/** A code of the table. */
export type FailureCode = keyof typeof FAILURES

/** How a command fails: a code a process can match on, and a message for a person. */
export class CommandFailure extends Error {
  /** One of FAILURES, or a code of a module's own. */
  readonly code: string
  readonly status: number

  constructor(code: string, message: string, status?: number) {
    super(message)
    this.name = 'CommandFailure'
    this.code = code
    this.status = status ?? (Object.hasOwn(FAILURES, code) ? FAILURES[code as FailureCode].status : 500)
  }
}

/** A failure with a code of the table. */
export const failure = (code: FailureCode, message: string): CommandFailure => new CommandFailure(code, message)

/** What the system, the TLS and the HTTP libraries call it, and what we do. */
const CODES: Readonly<Record<string, FailureCode>> = {
  ENOTFOUND: 'dns_failed',
  EAI_AGAIN: 'dns_failed',
  EAI_FAIL: 'dns_failed',
  EAI_NODATA: 'dns_failed',
  EAI_NONAME: 'dns_failed',
  ENODATA: 'dns_failed',
  ESERVFAIL: 'dns_failed',
  ECONNREFUSED: 'connection_refused',
  EHOSTUNREACH: 'unreachable',
  ENETUNREACH: 'unreachable',
  EADDRNOTAVAIL: 'unreachable',
  EACCES: 'unreachable',
  EPERM: 'unreachable',
  ECONNRESET: 'connection_reset',
  EPIPE: 'connection_reset',
  ECONNABORTED: 'connection_reset',
  ERR_STREAM_PREMATURE_CLOSE: 'connection_reset',
  CONNECT_TIMEOUT: 'connect_timeout',
  ETIMEDOUT: 'connect_timeout',
  ABORT_ERR: 'cancelled',
}

/** The failure behind whatever was thrown by a library; `otherwise` where its code says nothing. */
export const failureOf = (thrown: unknown, otherwise: FailureCode = 'internal_error'): CommandFailure => {
  if (thrown instanceof CommandFailure) return thrown
  const { code, message, cause } = errorParts(thrown)
  if (cause instanceof CommandFailure) return cause
  if (code.startsWith('HPE_')) return failure('invalid_response', `the answer is not HTTP: ${message} (${code})`)
  if (code.startsWith('Z_') || code === 'ERR_BUFFER_TOO_LARGE' || code.startsWith('ZSTD_'))
    return failure('invalid_response', `the answer's content encoding is damaged: ${message}`)
  const known = CODES[code]
  if (known === undefined && cause !== undefined) return failureOf(cause, otherwise)
  return failure(known ?? otherwise, code === '' ? message : `${message} (${code})`)
}

const errorParts = (thrown: unknown): { code: string; message: string; cause: unknown } => {
  if (!(thrown instanceof Error)) return { code: '', message: String(thrown), cause: undefined }
  const code = 'code' in thrown && typeof thrown.code === 'string' ? thrown.code : ''
  return { code, message: thrown.message || thrown.name, cause: thrown.cause }
}
