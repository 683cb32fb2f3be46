import { isIPv6 } from 'node:net'
import { hasHostBits, type Network, parseNetwork } from '../ip.ts'
import { type Mistake, mistake, readText } from '../shape.ts'

/** A network with the port that may follow a single address. */
export interface Endpoints extends Network {
  readonly port?: number
}

const readNetwork = (text: string): Network | Mistake => {
  const found = parseNetwork(text)
  if (found === undefined) return mistake(`"${text}" is not an IP address or network, such as 10.0.0.0/8 or fd00::/8`)
  if (!hasHostBits(found)) return found
  return mistake(`"${text}" has bits set after its prefix; write the network's first address, or the address alone`)
}

/** An IP address, or a network in CIDR form. */
export const network = readText('an IP address or network', readNetwork)

/** The same, or a single address with a port: `10.0.0.5:5432`, `[fd00::5]:5432`. */
export const endpoints = readText('an IP address, network, or address:port', (text): Endpoints | Mistake => {
  const found = /^(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(text)
  if (found === null || isIPv6(text)) return readNetwork(text.replace(/^\[(.*)\]$/, '$1'))
  const port = Number(found[3])
  const host = found[1] ?? found[2] ?? ''
  const address = host.includes('/') ? undefined : parseNetwork(host)
  if (port < 1 || port > 65_535) return mistake(`"${text}": a port is a number from 1 to 65535`)
  if (address !== undefined) return { ...address, port }
  return mistake(`"${text}" is not address:port; for names, use sni or authority`)
})
