import type { Target } from '../codec/authority.ts'
import type { RequestRead } from '../codec/http1.ts'
import type { Fields, RequestHead } from './exchange.ts'
import { endToEnd } from './hopByHop.ts'

/** What a client wrote in HTTP/1, in the words that both versions share. */
export const requestHead = (read: RequestRead, target: Target, scheme: string): RequestHead => {
  const { method, minor } = read
  const fields = endToEnd(read)
  return {
    method,
    scheme: target.absolute ? target.scheme : scheme,
    authority: target.authority,
    target: target.target,
    version: minor === 1 ? '1.1' : '1.0',
    absolute: target.absolute,
    // The target says where it goes; a Host that disagrees must not pass (RFC 9112 section 3.2.2).
    fields: target.absolute || method === 'CONNECT' ? withHost(fields, target.authority) : fields,
    length: read.framing === 'chunked' ? undefined : Math.max(0, read.length),
  }
}

const withHost = (fields: Fields, authority: string): Fields => {
  const copy = [...fields]
  for (let i = 0; i < copy.length; i += 2) {
    if (copy[i]!.toLowerCase() !== 'host') continue
    copy[i + 1] = authority
    return copy
  }
  return ['Host', authority, ...copy]
}
