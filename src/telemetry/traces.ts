import type { IncomingHttpHeaders } from 'node:http'
import type { Context, Span } from '@opentelemetry/api'
import type { SpanExporter } from '@opentelemetry/sdk-trace'
import type { RequestOutcome } from './outcome.ts'
import { redactedTarget } from './redact.ts'

/** Where traces go. */
export interface TraceOptions {
  /** The collector, for example `http://collector:4318` (http/protobuf) or `http://collector:4317` (grpc). */
  readonly endpoint: string
  readonly protocol: 'grpc' | 'http/protobuf'
  readonly serviceName: string
  readonly version: string
  /** The part of the traces begun here that is kept, from 0 to 1; what a parent has decided is kept to. */
  readonly ratio: number
}

/** A request as a trace sees it. */
export interface TracedRequest {
  readonly method: string
  readonly authority: string
  readonly target: string
  readonly direction: 'inbound' | 'outbound'
  readonly peer: { readonly host: string; readonly port: number }
  readonly fields: readonly string[]
}

/** The two spans of a request under way: the one of being asked, and the one of asking. */
export interface RequestTrace {
  /** The fields to send on: those given, with the place in the trace that this proxy takes. */
  readonly fields: string[]
  readonly end: (outcome: RequestOutcome) => void
}

/** Traces requests until it is closed. */
export interface Traces {
  readonly begin: (request: TracedRequest) => RequestTrace
  /** Runs a request of one of our own servers inside a span; `onward` gives the fields for what it asks of others. */
  readonly inside: <T>(
    name: string,
    headers: IncomingHttpHeaders,
    run: (onward: () => Readonly<Record<string, string>>) => Promise<T>,
  ) => Promise<T>
  /** Sends what is still held, for at most `ms`. Never rejects: a collector that is down is no error of ours. */
  readonly close: (ms: number) => Promise<void>
}

const QUEUE_MAX = 2048 // spans held while the collector is slow; more are dropped
const EXPORT_MS_MAX = 5_000

/** Loads the OpenTelemetry SDK, 15 packages that only those pay for who configure it, and begins to trace. */
export const openTraces = async (options: TraceOptions): Promise<Traces> => {
  const { ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } = await import('@opentelemetry/api')
  const sdk = await import('@opentelemetry/sdk-trace')
  const { resourceFromAttributes } = await import('@opentelemetry/resources')
  const { CompositePropagator, W3CTraceContextPropagator } = await import('@opentelemetry/core')
  const { B3InjectEncoding, B3Propagator } = await import('@opentelemetry/propagator-b3')
  const provider = new sdk.TracerProvider({
    resource: resourceFromAttributes({ 'service.name': options.serviceName, 'service.version': options.version }),
    sampler: new sdk.ParentBasedSampler({ root: new sdk.TraceIdRatioBasedSampler(options.ratio) }),
    spanProcessors: [
      new sdk.BatchSpanProcessor({
        exporter: await exporterOf(options),
        maxQueueSize: QUEUE_MAX,
        exportTimeoutMillis: EXPORT_MS_MAX,
      }),
    ],
  })
  const tracer = provider.getTracer('sluice', options.version)
  const w3c = new W3CTraceContextPropagator()
  const b3 = new B3Propagator()
  const b3Multi = new B3Propagator({ injectEncoding: B3InjectEncoding.MULTI_HEADER })
  // The last one that finds something counts, so W3C wins where both came.
  const incoming = new CompositePropagator({ propagators: [b3, w3c] })

  /** The fields, with a place in the trace written in the words they came in; W3C where they spoke of no trace. */
  const goOn = (fields: readonly string[], place: Context): string[] => {
    const sent = fields.slice()
    const speaks = (name: string) => READ.get(fields, name) !== undefined
    if (speaks('b3')) b3.inject(place, sent, WRITE)
    if (speaks('x-b3-traceid')) b3Multi.inject(place, sent, WRITE)
    if (speaks('traceparent') || !(speaks('b3') || speaks('x-b3-traceid'))) w3c.inject(place, sent, WRITE)
    return sent
  }

  return {
    async inside(name, headers, run) {
      const fields = Object.entries(headers).flatMap(([key, value]) => (typeof value === 'string' ? [key, value] : []))
      const parent = incoming.extract(ROOT_CONTEXT, fields, READ)
      const span = tracer.startSpan(name, { kind: SpanKind.SERVER }, parent)
      const context = fields.filter((_, i) => CONTEXT.has(fields[i - (i % 2)]!))
      const onward = goOn(context, trace.setSpan(parent, span))
      try {
        return await run(() => Object.fromEntries(pairs(onward)))
      } catch (error) {
        span.setStatus({ code: SpanStatusCode.ERROR })
        span.setAttribute('error.type', (error as Error).name)
        throw error
      } finally {
        span.end()
      }
    },
    begin({ method, authority, target, direction, peer, fields }) {
      const parent = incoming.extract(ROOT_CONTEXT, fields, READ)
      const [path = '', query] = redactedTarget(target).split('?', 2)
      const attributes = {
        'http.request.method': method,
        'server.address': authority,
        'url.path': path,
        'url.scheme': 'http',
        'client.address': peer.host,
        'client.port': peer.port,
        'sluice.direction': direction,
        ...(query !== undefined && { 'url.query': query }),
      }
      const server = tracer.startSpan(method, { kind: SpanKind.SERVER, attributes }, parent)
      const inside = trace.setSpan(parent, server)
      const client = tracer.startSpan(
        method,
        { kind: SpanKind.CLIENT, attributes: { 'http.request.method': method, 'server.address': authority } },
        inside,
      )
      const sent = goOn(fields, trace.setSpan(inside, client))
      return {
        fields: sent,
        end: (outcome) => {
          describe(client, outcome)
          describe(server, outcome)
          if (outcome.upstream) {
            client.setAttribute('network.peer.address', outcome.upstream.host)
            client.setAttribute('network.peer.port', outcome.upstream.port)
          }
          if (outcome.attempts > 1) client.setAttribute('http.request.resend_count', outcome.attempts - 1)
          const isServersFault = outcome.status === 0 || outcome.status >= 500
          if (isServersFault) server.setStatus({ code: SpanStatusCode.ERROR })
          if (isServersFault || outcome.status >= 400) client.setStatus({ code: SpanStatusCode.ERROR })
          client.end()
          server.end()
        },
      }
    },
    close: async (ms) => {
      const over = new Promise((resolve) => setTimeout(resolve, ms).unref())
      await Promise.race([provider.shutdown().catch(() => {}), over])
    },
  }
}

const exporterOf = async ({ endpoint, protocol }: TraceOptions): Promise<SpanExporter> => {
  if (protocol === 'grpc') {
    const { OTLPTraceExporter } = await import('@opentelemetry/exporter-trace-otlp-grpc')
    return new OTLPTraceExporter({ url: endpoint, timeoutMillis: EXPORT_MS_MAX })
  }
  const { OTLPTraceExporter } = await import('@opentelemetry/exporter-trace-otlp-proto')
  const url = /\/v1\/traces\/?$/.test(endpoint) ? endpoint : `${endpoint.replace(/\/$/, '')}/v1/traces`
  return new OTLPTraceExporter({ url, timeoutMillis: EXPORT_MS_MAX })
}

/** Semantic conventions for HTTP spans, and which rule decided what. */
const describe = (span: Span, { status, error, rules }: RequestOutcome): void => {
  if (status !== 0) span.setAttribute('http.response.status_code', status)
  if (error !== undefined) span.setAttribute('error.type', error)
  else if (status >= 500) span.setAttribute('error.type', String(status))
  for (const [aspect, { name, file, line }] of Object.entries(rules)) {
    if (line > 0) span.setAttribute(`sluice.rule.${aspect}`, `${name} (${file}:${line})`)
  }
}

/** What goes on to strangers: not baggage, which may hold business data. */
const CONTEXT = new Set([
  'traceparent',
  'tracestate',
  'b3',
  'x-b3-traceid',
  'x-b3-spanid',
  'x-b3-sampled',
  'x-b3-flags',
])

const pairs = (fields: readonly string[]): [string, string][] =>
  READ.keys(fields).map((key, index) => [key, fields[2 * index + 1]!])

/** Flat header fields as OpenTelemetry reads and writes carriers. */
const READ = {
  get: (fields: readonly string[], key: string): string | undefined => {
    for (let i = 0; i < fields.length; i += 2) if (fields[i]!.toLowerCase() === key.toLowerCase()) return fields[i + 1]
    return undefined
  },
  keys: (fields: readonly string[]): string[] => fields.filter((_, index) => index % 2 === 0),
}

const WRITE = {
  set: (fields: string[], key: string, value: string): void => {
    for (let i = fields.length - 2; i >= 0; i -= 2) {
      if (fields[i]!.toLowerCase() === key.toLowerCase()) fields.splice(i, 2)
    }
    fields.push(key, value)
  },
}
