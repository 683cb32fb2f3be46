import type { CommandFailure } from './failure.ts'

/** An error as NDC has it: `{message, details}`, both always there. */
export class NdcError extends Error {
  readonly status: number
  readonly details: Readonly<Record<string, unknown>>

  constructor(status: number, message: string, details: Readonly<Record<string, unknown>> = {}) {
    super(message)
    this.name = 'NdcError'
    this.status = status
    this.details = details
  }
}

/** 400 to NDC is a request of the wrong form; a value we cannot use is 422, and an upstream's failure 502. */
export const ndcErrorOf = (failed: CommandFailure): NdcError => {
  const status = failed.status === 400 ? 422 : failed.status === 504 ? 502 : failed.status
  return new NdcError(status, failed.message, { error_code: failed.code })
}
