import type { RequestRead } from './http1.ts'
import { fail } from './http1Error.ts'

/**
 * VCHAR but `#`. RFC 3986 allows less, but quotes, bars and braces are sent by many and read alike by all. A fragment never
 * goes to a server (RFC 9112 section 3.2): some cut it off and some do not, so that it could dodge rules about paths.
 * Octets above 127 no URI has (RFC 9113 section 8.3.1), and node and haproxy refuse them too.
 */
export const isTargetCharacter = (code: number): boolean => code > 32 && code < 127 && code !== 35

/** Where an HTTP/1 request wants to go, in the words of RFC 9110 section 7.1. */
export interface Target {
  readonly scheme: 'http' | 'https'
  /** Lower case, with the port where the client wrote one; empty for HTTP/1.0 without Host. */
  readonly authority: string
  /** Path and query, or `*`; for CONNECT the authority. */
  readonly target: string
  /** The client wrote the whole URI, as it does to a proxy it knows of. */
  readonly absolute: boolean
}

/** What the target and Host of a request say together (RFC 9112 sections 3.2 and 3.3). Throws ProtocolError. */
export const targetOf = (head: RequestRead): Target => {
  const { target, method, minor } = head
  if (head.hosts > 1) return fail('HTTP1_TWO_HOSTS', 'more than one Host')
  if (head.hosts === 0 && minor > 0) return fail('HTTP1_HOST_MISSING', 'HTTP/1.1 without Host')
  const authority = hostOf(head)
  if (method === 'CONNECT') return connectTarget(head)
  if (target.charCodeAt(0) === 47) return { scheme: 'http', authority, target, absolute: false }
  if (target === '*' && method === 'OPTIONS') return { scheme: 'http', authority, target, absolute: false }
  return absoluteTarget(target, method)
}

const hostOf = ({ host, minor }: RequestRead): string => {
  if (host === undefined || (host === '' && minor === 0)) return ''
  return authorityOf(host) ?? fail('HTTP1_HOST', 'Host is not a host with an optional port')
}

const connectTarget = (head: RequestRead): Target => {
  if (head.minor === 0) return fail('HTTP1_CONNECT', 'CONNECT on HTTP/1.0')
  if (head.framing !== 'none') return fail('HTTP1_CONNECT', 'CONNECT with a body')
  const authority = authorityOf(head.target)
  if (authority === undefined || !/:\d+$/.test(authority)) {
    return fail('HTTP1_CONNECT', 'the target of CONNECT is a host and a port, and nothing else')
  }
  return { scheme: 'http', authority, target: authority, absolute: false }
}

const absoluteTarget = (text: string, method: string): Target => {
  const found = /^(https?):\/\/([^/?#]*)(.*)$/i.exec(text)
  if (found === null) return fail('HTTP1_TARGET', 'neither a path nor a whole http URI')
  const authority = authorityOf(found[2]!)
  if (authority === undefined) return fail('HTTP1_TARGET', 'the URI has no valid authority')
  const rest = found[3]!
  const bare = rest === '' && method === 'OPTIONS' ? '*' : rest.startsWith('/') ? rest : `/${rest}`
  return { scheme: found[1]!.toLowerCase() === 'https' ? 'https' : 'http', authority, target: bare, absolute: true }
}

let lastText = ''
let lastAuthority: string | undefined

/**
 * `uri-host [ ":" port ]` (RFC 3986 section 3.2), lower case; undefined when it is not, or when it is empty or has user
 * information, which RFC 9110 section 4.2.4 tells us to treat as an error.
 */
export const authorityOf = (text: string): string | undefined => {
  if (text === lastText) return lastAuthority
  lastText = text
  lastAuthority = readAuthority(text)
  return lastAuthority
}

const readAuthority = (text: string): string | undefined => {
  const found = /^(\[[^\]]*\]|[A-Za-z0-9\-._~!$&'()*+,;=%]+)(?::(\d{0,5}))?$/.exec(text)
  if (found === null || text.length > 300) return undefined
  const host = found[1]!.toLowerCase()
  const port = found[2]
  if (host.startsWith('[') ? !isIp6(host.slice(1, -1)) : /%(?![0-9a-f]{2})/.test(host)) return undefined
  if (port === undefined || port === '') return host
  return Number(port) > 0 && Number(port) <= 65_535 ? `${host}:${Number(port)}` : undefined
}

/** An IPv6 address as RFC 4291 section 2.2 writes it, without a zone. */
const isIp6 = (text: string): boolean => {
  const dotted = /^(.*:)(\d{1,3}(?:\.\d{1,3}){3})$/.exec(text)
  if (dotted !== null && dotted[2]!.split('.').some((part) => Number(part) > 255)) return false
  const halves = (dotted === null ? text : `${dotted[1]}0:0`).split('::')
  const groups = halves.flatMap((half) => (half === '' ? [] : half.split(':')))
  if (!groups.every((group) => /^[0-9a-f]{1,4}$/.test(group))) return false
  return halves.length === 2 ? groups.length < 8 : halves.length === 1 && groups.length === 8
}
