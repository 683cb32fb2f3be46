import type { IncomingHttpHeaders } from 'node:http'

/** Trace context as header fields, for the requests a command makes. */
export type TraceFields = () => Readonly<Record<string, string>>

/**
 * Runs one request of the connector's server inside a span. `fields` gives the context to hand on. This is the seam for
 * an exporter: it reads the context that came in (W3C, B3), names the span, and records how `run` ended.
 */
export type Trace = <T>(
  name: string,
  headers: IncomingHttpHeaders,
  run: (fields: TraceFields) => Promise<T>,
) => Promise<T>

/** Not baggage: it may hold business data, and a command calls strangers. */
const HANDED_ON = [
  'traceparent',
  'tracestate',
  'b3',
  'x-b3-traceid',
  'x-b3-spanid',
  'x-b3-parentspanid',
  'x-b3-sampled',
  'x-b3-flags',
]

/** Without an exporter the context that came in goes on as it is, so that a trace has no hole where we are. */
export const untraced: Trace = (_name, headers, run) =>
  run(() =>
    Object.fromEntries(HANDED_ON.flatMap((name) => (typeof headers[name] === 'string' ? [[name, headers[name]]] : []))),
  )
