import type { ListenerOptions } from './accept/listen.ts'
import type { Direction } from './net/connection.ts'
import type { Sections } from './policy/sections.ts'

/** One listener for each address that the document names; the name is what the log shows. */
export const listenersOf = ({ listeners, sockets }: Sections): ListenerOptions[] =>
  (['outbound', 'inbound'] satisfies Direction[]).flatMap((direction) => {
    const { address, maxConnections, proxyProtocol, destination } = listeners[direction]
    return address.map((each) => ({
      name: direction,
      direction,
      address: each,
      maxConnections,
      proxyProtocol,
      sockets,
      ...(destination && { destination }),
    }))
  })
