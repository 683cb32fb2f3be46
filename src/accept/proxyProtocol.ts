import type { Duplex } from 'node:stream'
import { type ProxyHeader, proxyHeader } from '../codec/proxyHeader.ts'
import type { Clock } from '../net/clock.ts'
import { ProtocolError } from '../net/protocolError.ts'

/** `accept`: a header may come; `require`: a connection without one is refused. */
export type ProxyProtocol = 'none' | 'accept' | 'require'

const HEADER_MS_MAX = 5_000 // the sender writes it as soon as it is connected; haproxy gives it as long

/**
 * Takes the PROXY protocol header off the beginning of a stream; what follows it stays. Resolves with undefined when
 * there is none. Rejects with ProtocolError for a malformed one, or one that is required and does not come.
 */
export const takeProxyHeader = (stream: Duplex, way: ProxyProtocol, clock: Clock): Promise<ProxyHeader | undefined> =>
  new Promise((resolve, reject) => {
    let held: Buffer = Buffer.alloc(0)
    const done = (settle: () => void) => {
      cancel()
      stream.off('readable', read).off('close', absent)
      settle()
    }
    const absent = () =>
      done(() => {
        if (held.length > 0 && !stream.destroyed) stream.unshift(held)
        if (way === 'accept') resolve(undefined)
        else reject(new ProtocolError('PROXY_HEADER_MISSING', 'the listener requires a PROXY protocol header'))
      })
    const read = () => {
      // Readable with nothing to read is the end, which stays unread for whoever comes next.
      if (stream.readableLength === 0) return absent()
      held = Buffer.concat([held, stream.read() as Buffer])
      try {
        const found = proxyHeader(held)
        if (found.is === 'no') return absent()
        if (found.is === 'more') return undefined
        const rest = held.subarray(found.value.length)
        return done(() => {
          if (rest.length > 0) stream.unshift(rest)
          resolve(found.value)
        })
      } catch (error) {
        return done(() => reject(error))
      }
    }
    // A silent client may be waiting for a server that speaks first; where the header is optional, it has none.
    const cancel = clock.after(way === 'accept' ? OPTIONAL_MS : HEADER_MS_MAX, absent)
    stream.on('readable', read).once('close', absent)
    if (stream.readableLength > 0) read()
  })

const OPTIONAL_MS = 1_000
