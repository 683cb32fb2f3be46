import type { Duplex } from 'node:stream'

/** A bug of ours that one connection has brought to light. It costs that connection, and no other one notices. */
export class Fault extends Error {
  readonly code = 'INTERNAL'

  constructor(cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause })
    this.name = 'Fault'
  }
}

let tell: ((text: string) => void) | undefined

/**
 * From now on faults are told, with their stack, and lived on with. Until somebody listens they are thrown as ever, so that
 * no test overlooks one. Undefined: nobody listens any longer.
 */
export const tellFaults = (listener: typeof tell): void => {
  tell = listener
}

/** Dealing with this connection has failed, by our fault: what is known of it can no longer be relied on. */
export const faulted = (stream: Duplex, error: unknown): void => {
  if (tell === undefined) throw error
  tell(`a bug in sluice ended a connection, please report it: ${(error as Error)?.stack ?? error}`)
  // Said and not only done, so that whoever owns the stream may reset it: half an answer must not look like a whole one.
  stream.emit('error', new Fault(error))
  stream.destroy()
}

/** Takes a step for a connection that pays for it if the step throws. */
export const guarded = (stream: Duplex, step: () => void): void => {
  try {
    step()
  } catch (error) {
    faulted(stream, error)
  }
}
