import * as v from 'valibot'
import { type Mistake, mistake, object, oneOf, readText, setting, text } from '../shape.ts'
import { section } from './section.ts'

const ratio = readText('a part from 0 to 1, or a percentage', (written): number | Mistake => {
  const value = written.endsWith('%') ? Number(written.slice(0, -1)) / 100 : Number(written)
  return value >= 0 && value <= 1 ? value : mistake(`"${written}" is not between 0 and 1, or 0% and 100%`)
})

export const traces = section({
  shape: object({
    endpoint: v.pipe(
      v.optional(text('the URL of an OpenTelemetry collector')),
      v.description(
        'where spans are sent by OTLP; without it, and without OTEL_EXPORTER_OTLP_ENDPOINT, nothing is traced',
      ),
    ),
    protocol: setting(oneOf(['grpc', 'http/protobuf']), {
      builtIn: 'grpc',
      says: 'how they are sent; collectors take grpc on port 4317 and http/protobuf on 4318',
      because: 'the default of the OTLP specification for port 4317',
    }),
    serviceName: setting(text('a name'), {
      builtIn: 'sluice',
      says: 'the name of this service in traces',
      because: 'something has to be there; the workload has a better one',
    }),
    ratio: setting(ratio, {
      builtIn: '1',
      says: 'the part of the traces begun here that is kept; what a caller has decided for its trace is kept to',
      because: 'whoever configures a collector wants to see something',
    }),
  }),
  says: 'OpenTelemetry traces of HTTP requests; the variables OTEL_EXPORTER_OTLP_* and OTEL_SERVICE_NAME win over it',
  byName: false,
  onReload: false,
})
