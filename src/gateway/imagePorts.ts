import { type ExposedPort, isWrong, portProblem, readPort, type Wrong } from '../codec/exposedPort.ts'

/** What an image says of itself: the keys of ExposedPorts, and its labels. */
export interface ImageConfig {
  readonly exposed: readonly string[]
  readonly labels: Readonly<Record<string, string>>
}

/** Reads what `docker inspect` or `podman inspect` prints for one image. */
export const readInspected = (text: string): ImageConfig | Wrong => {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (error) {
    return { wrong: `failed to parse \`docker inspect\` output: ${(error as Error).message}` }
  }
  if (!Array.isArray(parsed)) return { wrong: 'failed to parse `docker inspect` output: it is not a list' }
  if (parsed.length !== 1) return { wrong: `expected 1 image, got ${parsed.length}` }
  const { Config: config } = mapping(parsed[0]) ?? {}
  const found = mapping(config)
  if (found === undefined) return { wrong: 'failed to parse `docker inspect` output: the image has no Config' }
  const exposed = mapping(found.ExposedPorts ?? {})
  const labels = mapping(found.Labels ?? {})
  if (exposed === undefined) return { wrong: 'Config.ExposedPorts is not a mapping' }
  if (labels === undefined) return { wrong: 'Config.Labels is not a mapping' }
  const odd = Object.entries(labels).find(([, value]) => typeof value !== 'string')
  if (odd !== undefined) return { wrong: `the value of the label '${odd[0]}' is not a text` }
  return { exposed: Object.keys(exposed), labels: labels as Record<string, string> }
}

const mapping = (value: unknown): Record<string, unknown> | undefined =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined

/** The ports an image exposes, in the order of its keys as texts. UDP counts for nothing, nor do labels of other ports. */
export const portsOfImage = ({ exposed, labels }: ImageConfig): readonly ExposedPort[] | Wrong => {
  const ports = new Map<number, ExposedPort>()
  for (const key of [...exposed].sort()) {
    if (key.endsWith('/udp')) continue
    const port = readPort(key.replace(/\/tcp$/, ''))
    if (port === undefined)
      return { wrong: `invalid key in inspected Config.ExposedPorts '${key}': it is not a port from 1 to 65535` }
    const found = portOf(port, labels)
    if (isWrong(found)) return found
    ports.set(port, found)
  }
  return [...ports.values()]
}

const portOf = (port: number, labels: Readonly<Record<string, string>>): ExposedPort | Wrong => {
  const value = (name: string) => (Object.hasOwn(labels, name) ? labels[name] : undefined)
  const publicLabel = `dev.estuary.port-public.${port}`
  const protocolLabel = `dev.estuary.port-proto.${port}`
  const isPublic = value(publicLabel)
  const protocol = value(protocolLabel)
  if (isPublic !== undefined && isPublic !== 'true' && isPublic !== 'false')
    return { wrong: `invalid '${publicLabel}' label value: '${isPublic}', must be either 'true' or 'false'` }
  const found = { port, isPublic: isPublic === 'true', ...(protocol && { protocol }) }
  const problem = portProblem(found, { protocol: protocolLabel, makePublic: `LABEL ${publicLabel}=true` })
  return problem === undefined ? found : { wrong: problem }
}
