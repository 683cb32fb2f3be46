import type { Address } from '../net/address.ts'
import type { Endpoint } from '../net/endpoint.ts'
import { absolute } from './searchPath.ts'
import type { Answer, Question } from './source.ts'

/** Endpoints by name, as a policy or a file has them. Port 0 stands for the port that was asked for. */
export type NamedEndpoints = Readonly<
  Record<string, readonly (Omit<Endpoint, 'address'> & { readonly address: Address })[]>
>

/** Endpoints by absolute name, perhaps with a port: `orders.` and `orders.:8080`. */
export type EndpointTable = ReadonlyMap<string, readonly Endpoint[]>

/** Names as they are asked for: absolute. */
export const tableOf = (written: NamedEndpoints): EndpointTable =>
  new Map(
    Object.entries(written).map(([key, endpoints]) => {
      const [name = '', port] = key.split(':')
      return [port === undefined ? absolute(name) : `${absolute(name)}:${Number(port)}`, endpoints]
    }),
  )

/** What a table knows: of each name in turn, first for the port that is asked for, then for any. */
export const answerFrom = (table: EndpointTable, { names, port }: Question, source: string): Answer => {
  for (const name of names) {
    const found = table.get(`${name}:${port}`) ?? table.get(name)
    if (found !== undefined) {
      const endpoints = found.map((endpoint) => withPort(endpoint, port))
      return { is: 'endpoints', name, source, endpoints: withoutTwins(endpoints), isStale: false }
    }
  }
  return { is: 'absent', source, tried: names, forbidden: [] }
}

const withPort = (endpoint: Endpoint, port: number): Endpoint =>
  endpoint.address.port === 0 ? { ...endpoint, address: { ...endpoint.address, port } } : endpoint

/** Of endpoints at the same address the first. */
export const withoutTwins = (endpoints: readonly Endpoint[]): readonly Endpoint[] => {
  const seen = new Set<string>()
  return endpoints.filter(({ address: { host, port } }) => {
    const key = `${host} ${port}`
    const isNew = !seen.has(key)
    seen.add(key)
    return isNew
  })
}
