import pino from 'pino'
import { combinedLine, commonLine } from './commonLog.ts'
import type { Outcome, RequestOutcome } from './outcome.ts'
import { outcomeText, requestText } from './outcomeText.ts'

/** `text` is for people, `json` for machines. */
export type LogFormat = 'text' | 'json' | 'common' | 'combined'
export type LogLevel = 'silent' | 'error' | 'warn' | 'info' | 'debug'

/** Writes whole lines to standard output (1) or standard error (2). */
export type WriteLine = (to: 1 | 2, line: string) => void

export interface LogOptions {
  readonly format: LogFormat
  readonly level: LogLevel
  /** One of so many connections and requests that went well is written; what did not go well always is. */
  readonly sample?: number
  readonly write?: WriteLine
}

/** Information goes to standard output, errors to standard error. */
export interface Log {
  readonly info: (message: string, facts?: object) => void
  readonly warn: (message: string, facts?: object) => void
  readonly error: (message: string, facts?: object) => void
  /** One line for each connection. The formats of web servers have no words for it, and write none. */
  readonly outcome: (outcome: Outcome) => void
  /** One line for each request, on the connection that carried it; `time` is milliseconds since 1970. */
  readonly request: (request: RequestOutcome, on: On, time: number) => void
  /** Whether connections that went as they should are written at all. */
  readonly writesOutcomes: () => boolean
  level: LogLevel
  /** Goes on as other options say, such as those of a new policy. Where lines go stays. */
  readonly use: (options: Omit<LogOptions, 'write'>) => void
  /** Writes out what is still held. Synchronous, for the way out. */
  readonly flush: () => void
}

type On = Pick<Outcome, 'id' | 'direction' | 'peer' | 'destination'> & { readonly identity?: string | undefined }

/** A log that holds lines for at most `HOLD_MS`, so that a busy proxy writes many at once. */
export const createLog = (options: LogOptions): Log => {
  const write = options.write ?? buffered()
  const sink = (to: 1 | 2) => ({ write: (line: string) => write(to, line) })
  const settings = { base: null, formatters: { level: (level: string) => ({ level }) }, level: options.level }
  const information = pino(settings, sink(1))
  const trouble = pino(settings, sink(2))
  let { format, sample = 1 } = options
  let well = 0
  const isSpared = (wentWell: boolean): boolean => wentWell && sample > 1 && ++well % sample !== 0
  const say = (to: 1 | 2, level: 'info' | 'warn' | 'error', message: string, facts?: object) => {
    const logger = to === 1 ? information : trouble
    if (format === 'json') logger[level](facts ?? {}, message)
    else if (logger.isLevelEnabled(level)) write(to, `${level === 'info' ? '' : `${level}: `}${message}\n`)
  }
  return {
    info: (message, facts) => say(1, 'info', message, facts),
    warn: (message, facts) => say(2, 'warn', message, facts),
    error: (message, facts) => say(2, 'error', message, facts),
    outcome: (outcome) => {
      if (!information.isLevelEnabled('info') || isSpared(outcome.result === 'forwarded')) return
      if (format === 'json') information.info(outcome, 'connection')
      else if (format === 'text') write(1, `${outcomeText(outcome)}\n`)
    },
    writesOutcomes: () => information.isLevelEnabled('info') && (format === 'json' || format === 'text'),
    request: (request, on, time) => {
      if (!information.isLevelEnabled('info') || isSpared(request.status < 500 && request.error === undefined)) return
      const { id, direction, peer, destination } = on
      if (format === 'json') information.info({ connection: id, direction, peer, destination, ...request }, 'request')
      else write(1, `${LINES[format as keyof typeof LINES](request, on, time)}\n`)
    },
    get level() {
      return information.level as LogLevel
    },
    set level(level) {
      information.level = level
      trouble.level = level
    },
    use: (next) => {
      ;({ format, sample = 1 } = next)
      information.level = next.level
      trouble.level = next.level
    },
    flush: () => write(1, ''),
  }
}

const LINES = {
  text: (request: RequestOutcome, on: On, time: number) =>
    `${new Date(time).toISOString()}  ${requestText(request, on)}`,
  common: commonLine,
  combined: combinedLine,
}

const HOLD_MS = 20 // short enough to follow by eye, long enough to share a write between a burst of connections
const HOLD_BYTES = 65_536

/** Lines for standard output are gathered for a moment; errors, and an empty line, flush at once. */
const buffered = (): WriteLine => {
  const out = pino.destination({ dest: 1, sync: true })
  const err = pino.destination({ dest: 2, sync: true })
  let held = ''
  let timer: NodeJS.Timeout | undefined
  const flush = () => {
    clearTimeout(timer)
    timer = undefined
    if (held !== '') out.write(held)
    held = ''
  }
  return (to, line) => {
    if (to === 2 || line === '') {
      flush()
      if (to === 2) err.write(line)
      return
    }
    held += line
    if (held.length > HOLD_BYTES) flush()
    else timer ??= setTimeout(flush, HOLD_MS).unref()
  }
}
