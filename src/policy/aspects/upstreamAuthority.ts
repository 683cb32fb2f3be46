import * as v from 'valibot'
import { type Mistake, mistake, readText } from '../shape.ts'

/** A name, with a port if need be. */
export const readName = (text: string): { name: string; port?: number } | Mistake => {
  const found = /^([a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?)(?::(\d{1,5}))?$/i.exec(text)
  const host = found?.[1]?.toLowerCase()
  const isName = host !== undefined && host.length <= 254 && LABELS.test(host)
  const port = found?.[2] === undefined ? undefined : Number(found[2])
  if (!isName || port === 0 || (port ?? 1) > 65_535)
    return mistake(`"${text}" is not a name such as orders, orders:8080 or orders.farm.svc.cluster.local.`)
  if (/^[\d.]+$/.test(host)) return mistake(`"${text}" is an address, not a name; write it under upstream.address`)
  return port === undefined ? { name: host } : { name: host, port }
}

const name = readText('a name, with a port if need be', readName)

// Underscores as in the names of SRV records.
const LABELS = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\.?$/

/** `upstream.authority`: a name that discovery knows, instead of the one the client asked for. */
export const authority = v.pipe(
  name,
  v.description(
    'a name, which the sources of `discovery` turn into endpoints, whatever the client asked for; without a port 80, or 443 where TLS is spoken to it, and for what is passed as bytes the port that the client asked for; a trailing dot keeps the search paths away',
  ),
  v.transform((it) => ({ is: 'authority', ...it }) as const),
)
