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

/** The listeners of the gateway: nothing is redirected to them, so they say themselves where a connection was going. */
export const gatewayOf = ({ gateway, sockets }: Sections): ListenerOptions[] =>
  gateway.address.map((address) => ({
    name: 'gateway',
    direction: 'inbound',
    address,
    destination: address,
    maxConnections: gateway.maxConnections,
    sockets,
  }))

/** The listeners of the API of callback channels. */
export const callbackOf = ({ callback, sockets }: Sections): ListenerOptions[] =>
  (callback.enable ? callback.address : []).map((address) => ({
    name: 'callback',
    direction: 'inbound',
    address,
    destination: address,
    maxConnections: 1_000, // an app needs one for as long as it takes to ask
    sockets,
  }))
