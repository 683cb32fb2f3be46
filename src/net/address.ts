import { isIP, isIPv6 } from 'node:net'

/** An IP address (IPv4-mapped IPv6 already unmapped) or a host name, and a TCP port. */
export interface Address {
  readonly host: string
  readonly port: number
}

/** `10.0.0.5:80` or `[fd00::5]:80`. */
export const formatAddress = ({ host, port }: Address): string =>
  isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`

/** Reads what formatAddress writes; undefined when it is not `host:port` with a port from 0 to 65535. */
export const parseAddress = (text: string): Address | undefined => {
  const found = /^(?:\[([^\]]+)\]|([^:\s[\]]+)):(\d{1,5})$/.exec(text)
  const host = found?.[1] ?? found?.[2]
  const port = Number(found?.[3])
  if (host === undefined || port > 65_535) return undefined
  if (found?.[1] !== undefined && !isIPv6(host)) return undefined
  return { host: unmapped(host), port }
}

/** `::ffff:10.0.0.5`, as a dual-stack socket shows an IPv4 peer, is `10.0.0.5`. */
export const unmapped = (host: string): string => {
  const tail = host.toLowerCase().startsWith('::ffff:') ? host.slice(7) : ''
  return isIP(tail) === 4 ? tail : host
}

/** Same host, as text, and same port. Hosts are compared in the form the system prints them. */
export const sameAddress = (a: Address, b: Address): boolean => a.port === b.port && a.host === b.host

/** 127.0.0.0/8 and ::1. */
export const isLoopback = (host: string): boolean => host.startsWith('127.') || host === '::1'

/** 0.0.0.0 and ::, which listen on every address. */
export const isWildcard = (host: string): boolean => host === '0.0.0.0' || host === '::'
