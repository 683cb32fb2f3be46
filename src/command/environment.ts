/** Where spans go, and under which name. What sends them is not our business here. */
export interface Otlp {
  /** The root URL of the collector, without `/v1/traces`. */
  readonly endpoint: string
  readonly protocol: 'grpc' | 'http/protobuf'
  readonly serviceName: string
}

/** What the packaging contract says through environment variables. */
export interface ConnectorEnvironment {
  readonly configurationDirectory: string | undefined
  /** Undefined: not set, so that the connector's server runs only where the configuration has a `commands` section. */
  readonly port: number | undefined
  readonly host: string | undefined
  /** Bearer token of the NDC routes. Never empty. */
  readonly serviceToken: string | undefined
  /** Key of the command routes. Never empty. */
  readonly apiKey: string | undefined
  readonly otlp: Otlp | undefined
}

/** The environment, what keeps us from starting, and what is worth a warning. */
export interface EnvironmentRead {
  readonly environment: ConnectorEnvironment
  readonly mistakes: readonly string[]
  readonly warnings: readonly string[]
}

type Variables = Readonly<Record<string, string | undefined>>

const KNOWN = new Set([
  'HASURA_CONFIGURATION_DIRECTORY',
  'HASURA_CONNECTOR_HOST',
  'HASURA_CONNECTOR_PORT',
  'HASURA_OTEL_SERVICE_NAME',
  'HASURA_OTLP_ENDPOINT',
  'HASURA_SERVICE_TOKEN_SECRET',
])

/** The port the packaging contract names. */
export const CONNECTOR_PORT = 8080

/** Reads the reserved variables. Empty is the same as not set, except for a key that must never be empty. */
export const readEnvironment = (env: Variables): EnvironmentRead => {
  const mistakes: string[] = []
  const value = (name: string): string | undefined => (env[name] === '' ? undefined : env[name])
  const portText = value('HASURA_CONNECTOR_PORT')
  const port = portText === undefined ? undefined : Number(portText)
  if (port !== undefined && !(/^\d{1,5}$/.test(portText ?? '') && port <= 65_535))
    mistakes.push(`HASURA_CONNECTOR_PORT must be a port from 0 to 65535, not '${portText}'`)
  if (env.CONNECTOR_PROXY_API_KEY === '')
    mistakes.push('CONNECTOR_PROXY_API_KEY is set and empty: give it a value, or unset it to leave the commands open')
  return {
    environment: {
      configurationDirectory: value('HASURA_CONFIGURATION_DIRECTORY'),
      port,
      host: value('HASURA_CONNECTOR_HOST'),
      serviceToken: value('HASURA_SERVICE_TOKEN_SECRET'),
      apiKey: value('CONNECTOR_PROXY_API_KEY'),
      otlp: readOtlp(value, mistakes),
    },
    mistakes,
    warnings: Object.keys(env)
      .filter((name) => name.startsWith('HASURA_') && !KNOWN.has(name))
      .sort()
      .map((name) => `${name} is reserved and not one that Sluice knows: it is not used`),
  }
}

/** The later names win: `OTEL_*` replaced `HASURA_*` in the packaging contract. Without an endpoint nothing is sent. */
const readOtlp = (value: (name: string) => string | undefined, mistakes: string[]): Otlp | undefined => {
  const isLater = value('OTEL_EXPORTER_OTLP_ENDPOINT') !== undefined
  const variable = isLater ? 'OTEL_EXPORTER_OTLP_ENDPOINT' : 'HASURA_OTLP_ENDPOINT'
  const endpoint = value(variable)
  const protocol = value('OTEL_EXPORTER_OTLP_PROTOCOL')
  if (protocol !== undefined && protocol !== 'grpc' && protocol !== 'http/protobuf')
    mistakes.push(`OTEL_EXPORTER_OTLP_PROTOCOL must be grpc or http/protobuf, not '${protocol}'`)
  if (endpoint === undefined) return undefined
  const url = URL.parse(endpoint)
  if (url === null || !/^https?:$/.test(url.protocol)) {
    mistakes.push(`${variable} must be an http or https URL, not '${endpoint}'`)
    return undefined
  }
  return {
    endpoint: endpoint.replace(/\/$/, ''),
    protocol:
      protocol === 'http/protobuf' || (protocol === undefined && url.port === '4318') ? 'http/protobuf' : 'grpc',
    serviceName: value('OTEL_SERVICE_NAME') ?? value('HASURA_OTEL_SERVICE_NAME') ?? 'sluice',
  }
}
