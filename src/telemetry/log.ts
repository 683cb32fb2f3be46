import pino from 'pino'
import type { Outcome } from './outcome.ts'
import { outcomeText } from './outcomeText.ts'

/** `text` is for people, `json` for machines. */
export type LogFormat = 'text' | 'json' | 'common' | 'combined'
export type LogLevel = 'silent' | 'error' | 'warn' | 'info' | 'debug'

/** Writes whole lines to standard output (1) or standard error (2). */
export type WriteLine = (to: 1 | 2, line: string) => void

/** Information goes to standard output, errors to standard error. */
export interface Log {
  readonly info: (message: string, facts?: object) => void
  readonly warn: (message: string, facts?: object) => void
  readonly error: (message: string, facts?: object) => void
  /** The access log: one line for each connection. */
  readonly outcome: (outcome: Outcome) => void
  level: LogLevel
  /** Writes out what is still held. Synchronous, for the way out. */
  readonly flush: () => void
}

/** A log that holds lines for at most `HOLD_MS`, so that a busy proxy writes many at once. */
export const createLog = (options: { format: LogFormat; level: LogLevel; write?: WriteLine }): Log => {
  const write = options.write ?? buffered()
  const sink = (to: 1 | 2) => ({ write: (line: string) => write(to, line) })
  const settings = { base: null, formatters: { level: (level: string) => ({ level }) }, level: options.level }
  const information = pino(settings, sink(1))
  const trouble = pino(settings, sink(2))
  const json = options.format === 'json'
  const say = (to: 1 | 2, level: 'info' | 'warn' | 'error', message: string, facts?: object) => {
    const logger = to === 1 ? information : trouble
    if (json) logger[level](facts ?? {}, message)
    else if (logger.isLevelEnabled(level)) write(to, `${level === 'info' ? '' : `${level}: `}${message}\n`)
  }
  return {
    info: (message, facts) => say(1, 'info', message, facts),
    warn: (message, facts) => say(2, 'warn', message, facts),
    error: (message, facts) => say(2, 'error', message, facts),
    outcome: (outcome) => {
      if (json) information.info(outcome, 'connection')
      else if (information.isLevelEnabled('info')) write(1, `${outcomeText(outcome)}\n`)
    },
    get level() {
      return information.level as LogLevel
    },
    set level(level) {
      information.level = level
      trouble.level = level
    },
    flush: () => write(1, ''),
  }
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
