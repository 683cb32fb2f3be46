import { writeProxyHeader } from '../codec/proxyHeader.ts'
import type { Connection, Dial } from '../net/connection.ts'

/** Dials upstreams that ask to be told who calls: a PROXY protocol header is the first thing they hear. */
export const announcing = (dial: Dial, version: 'none' | 'v1' | 'v2', { peer, destination }: Connection): Dial => {
  if (version === 'none') return dial
  return async (to, signal) => {
    const upstream = await dial(to, signal)
    upstream.write(writeProxyHeader(version, peer, destination))
    return upstream
  }
}
