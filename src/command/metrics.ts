import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import type { MetricsRegistry } from '../telemetry/registry.ts'
import type { CommandRecord } from './run.ts'

const SECONDS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40]

/** Counts commands in a registry. Labels are bounded: the commands there are, and our codes; a module's own are one. */
export const countCommands = (
  metrics: MetricsRegistry,
  inFlight: () => number,
  isKnown: (outcome: string) => boolean,
): ((record: CommandRecord) => void) => {
  const registers = [metrics as unknown as Registry]
  const ended = new Counter({
    name: 'sluice_commands_total',
    help: 'Commands that ended, by command and outcome: ok, http_error, or the error code',
    labelNames: ['command', 'outcome'],
    registers,
  })
  const seconds = new Histogram({
    name: 'sluice_command_duration_seconds',
    help: 'How long commands took',
    labelNames: ['command'],
    buckets: SECONDS,
    registers,
  })
  const requests = new Counter({
    name: 'sluice_command_requests_total',
    help: 'HTTP requests that commands made, redirects and repeats included, by class of the answer',
    labelNames: ['class'],
    registers,
  })
  new Gauge({
    name: 'sluice_commands_in_flight',
    help: 'Commands that are running',
    registers,
    collect() {
      this.set(inFlight())
    },
  })
  return ({ command, outcome, hops, ms }) => {
    const kind = /^HttpError\d+$/.test(outcome)
      ? 'http_error'
      : outcome === 'ok' || isKnown(outcome)
        ? outcome
        : 'other'
    ended.inc({ command, outcome: kind })
    seconds.observe({ command }, ms / 1_000)
    for (const hop of hops)
      requests.inc({ class: hop.status === undefined ? 'failed' : `${Math.floor(hop.status / 100)}xx` })
  }
}
