/** An endpoint, as it is shown: what was learned of it, and whether it gets anything. Times are milliseconds. */
export interface EndpointRow {
  readonly address: string
  readonly weight: number
  readonly protocol?: string
  readonly identity?: string
  readonly zone?: string
  readonly labels: Readonly<Record<string, string>>
  /** The estimate of its latency by now. */
  readonly latencyMs: number
  readonly inFlight: number
  readonly chosen: number
  readonly failed: number
  readonly state: 'ready' | 'resting' | 'probing'
  /** Why it is left alone, and for how long; without the time until a check finds it well. */
  readonly because?: string
  readonly leftMs?: number
}

/** A name, or a list of addresses, with its endpoints. */
export interface NameRow {
  readonly asked: string
  readonly algorithm: string
  /** The name that matched, and who knew it; absent for a list of addresses of the policy. */
  readonly name?: string
  readonly source: string
  readonly isStale: boolean
  /** What else there is to say: that nobody has answered yet, that the name does not exist. */
  readonly note?: string
  readonly isFailfast: boolean
  readonly waiting: number
  readonly endpoints: readonly EndpointRow[]
}

const WHY: Readonly<Record<string, string>> = {
  connect: 'it cannot be connected to',
  failures: 'it failed too often in a row',
  successRate: 'too few of its answers were good',
  healthCheck: 'its health check fails',
}

/** Names and their endpoints as lines for a person. */
export const endpointsText = (names: readonly NameRow[]): string =>
  names.length === 0 ? 'no name is in use\n' : names.map(nameText).join('\n')

const nameText = (row: NameRow): string => {
  const { asked, name, source, algorithm, note, waiting, isStale, isFailfast } = row
  const head = [
    `${asked}${name === undefined ? '' : ` is ${name}`}, from ${source}`,
    isStale ? 'which cannot be reached: this is the last it said' : '',
    note ?? '',
    `balanced by ${algorithm}`,
    waiting > 0 ? `${waiting} wait for an endpoint` : '',
    isFailfast ? 'failing fast: no endpoint was ready for too long' : '',
  ].filter((part) => part !== '')
  return `${head.join('; ')}\n${row.endpoints.map((it) => `  ${endpointText(it)}\n`).join('')}`
}

const endpointText = (it: EndpointRow): string => {
  const about = [
    it.zone === undefined ? '' : `zone ${it.zone}`,
    it.protocol ?? '',
    it.identity === undefined ? '' : `as ${it.identity}`,
    ...Object.entries(it.labels).map(([key, value]) => `${key}=${value}`),
  ].filter((part) => part !== '')
  const state =
    it.state === 'ready'
      ? 'ready'
      : `${it.state === 'probing' ? 'being tried again' : `left alone${it.leftMs === undefined ? '' : ` for ${(it.leftMs / 1000).toFixed(1)} s`}`}: ${WHY[it.because ?? ''] ?? it.because}`
  const numbers = `weight ${it.weight}, latency ${it.latencyMs.toFixed(1)} ms, ${it.inFlight} under way, ${it.chosen} chosen, ${it.failed} failed`
  return [it.address, numbers, state, ...about].join(', ')
}
