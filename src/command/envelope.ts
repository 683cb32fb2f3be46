import { type CommandFailure, failure } from './failure.ts'
import type { Done } from './run.ts'

/** What every command answers, whatever happened (version 2 of the contract). */
export interface Envelope {
  readonly command_response: {
    readonly body: unknown
    readonly mimetype: 'application/json'
    readonly http_status: number
    readonly headers?: Readonly<Record<string, string>>
  }
  readonly command_response_version: 2
  readonly error: { readonly error_code: string; readonly message: string } | null
  readonly spiff__logs: readonly string[]
}

/** The envelope of a command that has ended. `mimetype` is that of `body` as it stands here, so always JSON. */
export const envelopeOf = (done: Done): Envelope => {
  if ('failed' in done) return failedEnvelope(done.failed, done.logs)
  const { body, http_status = 200, headers, error = null } = done.result
  return {
    command_response: {
      body: body ?? null,
      mimetype: 'application/json',
      http_status,
      ...(headers === undefined ? {} : { headers }),
    },
    command_response_version: 2,
    error,
    spiff__logs: done.logs,
  }
}

/** The envelope of a command that failed: no upstream's words, our code and message. */
export const failedEnvelope = ({ code, message, status }: CommandFailure, logs: readonly string[] = []): Envelope => ({
  command_response: { body: {}, mimetype: 'application/json', http_status: status },
  command_response_version: 2,
  error: { error_code: code, message },
  spiff__logs: logs,
})

/** An envelope as text. A value that JSON cannot hold (a cycle, a BigInt from a module, depth) is the command's failure. */
export const envelopeText = (envelope: Envelope): string => {
  try {
    return JSON.stringify(envelope)
  } catch (thrown) {
    const { message } = thrown as Error
    return JSON.stringify(failedEnvelope(failure('command_failed', `the body cannot be written as JSON: ${message}`)))
  }
}
