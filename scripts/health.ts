/** The health check of the image: exits 0 when the connector answers /health on its port, and 1 when it does not. */
const port = process.env.HASURA_CONNECTOR_PORT || '8080'
const isHealthy = await fetch(`http://127.0.0.1:${port}/health`, { signal: AbortSignal.timeout(2_500) }).then(
  ({ ok }) => ok,
  () => false,
)
process.exitCode = isHealthy ? 0 : 1

export {}
