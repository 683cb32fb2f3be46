import { taskHash } from './taskHash.ts'

/** A TCP port of a workload that the world may call. */
export interface ExposedPort {
  readonly port: number
  /** Anybody may call it, with any protocol; otherwise only requests with a token, by HTTP. */
  readonly isPublic: boolean
  /** The one ALPN protocol id to agree on; without it HTTP/2 and HTTP/1.1 are offered. */
  readonly protocol?: string
}

/** A label: labels of one name may have several values. */
export type Label = readonly [name: string, value: string]

/** What is wrong, in words for the operator. */
export interface Wrong {
  readonly wrong: string
}

export const isWrong = (value: object): value is Wrong => 'wrong' in value

const HOSTNAME = 'estuary.dev/hostname'
const EXPOSE = 'estuary.dev/expose-port'
const PUBLIC = 'estuary.dev/port-public/'
const PROTOCOL = 'estuary.dev/port-proto/'

const PROTOCOL_BYTES_MAX = 255 // RFC 7301 section 3.1: a length of one byte

/** A port in decimal, or nothing. */
export const readPort = (text: string): number | undefined => {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0
  return port >= 1 && port <= 65_535 ? port : undefined
}

/** Whether a protocol id is one whose requests can show a token. */
export const isHttpProtocol = (protocol: string | undefined): boolean =>
  protocol === undefined || protocol === 'http/1.1' || protocol === 'h2'

/** What keeps a port from being served; `labels` say where its two settings are written. */
export const portProblem = (
  { port, isPublic, protocol }: ExposedPort,
  labels: { readonly protocol: string; readonly makePublic: string },
): string | undefined => {
  if (protocol !== undefined && Buffer.byteLength(protocol) > PROTOCOL_BYTES_MAX)
    return `${labels.protocol}: a protocol id has at most ${PROTOCOL_BYTES_MAX} bytes`
  if (protocol !== undefined && !/^[\w.+/=%-]+$/.test(protocol))
    return `${labels.protocol}: '${protocol}' cannot be the value of a shard label: letters, digits and -_+/.=% can`
  if (isPublic || isHttpProtocol(protocol)) return undefined
  return `${labels.protocol} is '${protocol}', but port ${port} is not public: only requests by http/1.1 or h2 can show a token. Add ${labels.makePublic}, or use one of these two`
}

/** The labels that make up the run-time configuration of a task's ports, sorted by name and value. */
export const shardLabels = (task: string, ports: readonly ExposedPort[]): Label[] => {
  const labels: Label[] = ports.flatMap(({ port, isPublic, protocol }): Label[] => [
    [EXPOSE, `${port}`],
    ...(isPublic ? [[`${PUBLIC}${port}`, 'true'] as const] : []),
    ...(protocol ? [[`${PROTOCOL}${port}`, protocol] as const] : []),
  ])
  if (ports.length > 0) labels.push([HOSTNAME, taskHash(task)])
  return labels.sort(([a, x], [b, y]) => order(a, b) || order(x, y))
}

const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

/** The ports that shard labels stand for. Labels of other kinds, and those of ports that are not exposed, count for nothing. */
export const portsOfLabels = (task: string, labels: readonly Label[]): readonly ExposedPort[] | Wrong => {
  const values = (name: string) => labels.filter(([key]) => key === name).map(([, value]) => value)
  const ports: ExposedPort[] = []
  for (const hash of values(HOSTNAME)) {
    const expected = taskHash(task)
    if (hash !== expected) return { wrong: `${HOSTNAME} is '${hash}', but that of ${task} is '${expected}'` }
  }
  for (const text of new Set(values(EXPOSE))) {
    const port = readPort(text)
    if (port === undefined) return { wrong: `${EXPOSE}: '${text}' is not a port from 1 to 65535` }
    const isPublic = one(`${PUBLIC}${text}`, values(`${PUBLIC}${text}`))
    const protocol = one(`${PROTOCOL}${text}`, values(`${PROTOCOL}${text}`))
    if (typeof isPublic === 'object') return isPublic
    if (typeof protocol === 'object') return protocol
    if (isPublic !== undefined && isPublic !== 'true' && isPublic !== 'false')
      return { wrong: `${PUBLIC}${text}: '${isPublic}' must be either 'true' or 'false'` }
    const found = { port, isPublic: isPublic === 'true', ...(protocol && { protocol }) }
    const problem = portProblem(found, {
      protocol: `${PROTOCOL}${port}`,
      makePublic: `the label ${PUBLIC}${port}=true`,
    })
    if (problem !== undefined) return { wrong: problem }
    ports.push(found)
  }
  return ports
}

const one = (name: string, values: readonly string[]): string | undefined | Wrong =>
  values.length > 1 ? { wrong: `${name} has ${values.length} values, and can have one` } : values[0]
