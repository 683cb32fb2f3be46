import { isIP } from 'node:net'
import { writeProxyHeader } from '../codec/proxyHeader.ts'
import type { Connection, Dial } from '../net/connection.ts'

/**
 * Dials upstreams that ask to be told who calls: a PROXY protocol header is the first thing they hear. A name has no place
 * in it: where the destination is one, the address that was found for it is told instead.
 */
export const announcing = (dial: Dial, version: 'none' | 'v1' | 'v2', { peer, destination }: Connection): Dial => {
  if (version === 'none') return dial
  return async (to, signal) => {
    const upstream = await dial(to, signal)
    upstream.write(writeProxyHeader(version, peer, isIP(destination.host) === 0 ? to : destination))
    return upstream
  }
}
