import type { Address } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import { checkArguments } from './arguments.ts'
import type { Command, Result, Tools } from './command.ts'
import type { Egress } from './egress.ts'
import { CommandFailure, failure, failureOf } from './failure.ts'
import { createFetch } from './fetch.ts'
import { createSend, type Hop, type SendParts } from './send.ts'

/** Who asked for a command, and what ends it early. */
export interface Caller {
  readonly address: Address
  readonly signal: AbortSignal
  /** Trace context to hand on with every request of the command. */
  readonly traceFields?: () => Readonly<Record<string, string>>
}

/** How a command ended: with a result, or with a failure. Never an exception. */
export type Done = { readonly logs: readonly string[] } & (
  | { readonly result: Result }
  | { readonly failed: CommandFailure }
)

/** One line of the log, one sample of the metrics. */
export interface CommandRecord {
  readonly command: string
  readonly caller: Address
  /** `http_status` of the answer. */
  readonly status: number
  /** `error_code` of the answer, `ok` without one. */
  readonly outcome: string
  readonly hops: readonly Hop[]
  readonly ms: number
}

/** What running needs. */
export interface RunParts {
  readonly egress: Egress
  readonly sending: Omit<SendParts, 'egress' | 'hopEnded' | 'clock' | 'traceFields'>
  readonly clock: Clock
  readonly timeoutMs: number
  readonly inFlightMax: number
  readonly env: Readonly<Record<string, string | undefined>>
  readonly commandEnded: (record: CommandRecord) => void
}

/** Runs commands; `inFlight` is how many are being run. */
export interface Runner {
  readonly run: (command: Command, body: Readonly<Record<string, unknown>>, caller: Caller) => Promise<Done>
  readonly inFlight: () => number
}

const LOG_LINES_MAX = 100
const LOG_CHARS_MAX = 1_000
const MESSAGE_CHARS_MAX = 4_000

/** A runner that gives every call its own tools, its own deadline and its own connections. */
export const createRunner = (parts: RunParts): Runner => {
  let inFlight = 0
  const run: Runner['run'] = async (command, body, caller) => {
    const call = createCall(parts, command, caller)
    if (inFlight >= parts.inFlightMax)
      return call.end({ failed: failure('busy', `${parts.inFlightMax} commands are running already`) })
    inFlight++
    try {
      const { args, unknown } = checkArguments(command, body)
      for (const name of unknown) call.tools.log(`ignored the unknown parameter '${name.slice(0, 100)}'`)
      return call.end({ result: checkResult(command, await call.unlessAborted(() => command.run(args, call.tools))) })
    } catch (thrown) {
      return call.end({ failed: call.failureFrom(thrown) })
    } finally {
      inFlight--
      call.close()
    }
  }
  return { run, inFlight: () => inFlight }
}

interface Call {
  readonly tools: Tools
  readonly unlessAborted: <T>(run: () => Promise<T>) => Promise<T>
  readonly failureFrom: (thrown: unknown) => CommandFailure
  readonly end: (how: { result: Result } | { failed: CommandFailure }) => Done
  readonly close: () => void
}

const createCall = (parts: RunParts, command: Command, caller: Caller): Call => {
  const began = parts.clock.now()
  const logs: string[] = []
  const hops: Hop[] = []
  const secrets = new Set<string>()
  const deadline = new AbortController()
  const finished = new AbortController()
  const stop = parts.clock.after(parts.timeoutMs, () =>
    deadline.abort(failure('timeout', `${command.id} took longer than ${parts.timeoutMs} ms`)),
  )
  const signal = AbortSignal.any([caller.signal, deadline.signal, finished.signal])
  const masked = (text: string): string =>
    [...secrets].reduce((masking, secret) => masking.replaceAll(secret, '***'), text)
  const sendUntil = (until: AbortSignal): Tools['send'] =>
    createSend(
      {
        ...parts.sending,
        egress: parts.egress,
        clock: parts.clock,
        traceFields: caller.traceFields,
        hopEnded: (hop) => void hops.push(hop),
      },
      caller.address,
      until,
    )
  const send = sendUntil(signal)
  const tools: Tools = {
    send,
    fetch: createFetch((own) => sendUntil(AbortSignal.any([signal, own]))),
    connect: async (host, port) =>
      (await parts.egress({ scheme: 'tcp', host, port, request: null }, caller.address, signal)).stream,
    secret: (name) => {
      const value = command.secrets?.includes(name) ? parts.env[name] : undefined
      if (value === undefined || value === '')
        throw failure('missing_secret', `${command.id} needs the environment variable ${name}`)
      secrets.add(value)
      return value
    },
    fail: (code, message, status) => {
      throw new CommandFailure(code, message, status)
    },
    signal,
    log: (line) => void (logs.length < LOG_LINES_MAX && logs.push(masked(line).slice(0, LOG_CHARS_MAX))),
    wait: (ms) => wait(parts.clock, ms, signal),
  }
  return {
    tools,
    unlessAborted: (run) => unlessAborted(run, signal),
    // Once the time is up, or the caller gone, that is the cause, whatever broke because of it.
    failureFrom: (thrown) => {
      const cause = signal.aborted ? signal.reason : thrown
      const failed = failureOf(cause, 'command_failed')
      return new CommandFailure(failed.code, masked(failed.message).slice(0, MESSAGE_CHARS_MAX), failed.status)
    },
    end: (how) => {
      const status = 'failed' in how ? how.failed.status : (how.result.http_status ?? 200)
      const outcome = 'failed' in how ? how.failed.code : (how.result.error?.error_code ?? 'ok')
      parts.commandEnded({
        command: command.id,
        caller: caller.address,
        status,
        outcome,
        hops,
        ms: parts.clock.now() - began,
      })
      return { logs, ...how }
    },
    close: () => {
      stop()
      finished.abort(failure('cancelled', 'the command is over'))
    },
  }
}

/** A command that does not listen to its signal is left behind, not waited for. */
const unlessAborted = async <T>(run: () => Promise<T>, signal: AbortSignal): Promise<T> => {
  signal.throwIfAborted()
  const aborted = Promise.withResolvers<never>()
  signal.addEventListener('abort', () => aborted.reject(signal.reason), { once: true })
  aborted.promise.catch(() => {}) // Also fires when the command is over, with nobody waiting any more.
  const running = run()
  running.catch(() => {})
  return await Promise.race([running, aborted.promise])
}

const wait = async (clock: Clock, ms: number, signal: AbortSignal): Promise<void> => {
  signal.throwIfAborted()
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const stop = clock.after(ms, resolve)
  const abort = (): void => reject(signal.reason)
  signal.addEventListener('abort', abort, { once: true })
  try {
    await promise
  } finally {
    stop()
    signal.removeEventListener('abort', abort)
  }
}

/** Modules are written by others, in JavaScript: what they return is checked before it is passed on. */
const checkResult = (command: Command, result: Result): Result => {
  const is = (what: boolean, said: string): void => {
    if (!what) throw failure('command_failed', `${command.id} returned ${said}`)
  }
  is(typeof result === 'object' && result !== null && 'body' in result, 'something that is not { body, … }')
  const { http_status: status = 200, error = null } = result
  is(Number.isInteger(status) && status >= 100 && status <= 599, 'an http_status that is not 100 to 599')
  is(
    error === null || (typeof error.error_code === 'string' && typeof error.message === 'string'),
    'an error without error_code and message',
  )
  return result
}
