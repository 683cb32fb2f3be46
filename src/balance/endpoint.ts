import { type Address, formatAddress } from '../net/address.ts'

/** One place where a name can be reached, as discovery tells it. */
export interface Endpoint {
  readonly address: Address
  /** Share of the traffic relative to the other endpoints; 0 takes none. */
  readonly weight: number
  /** For metrics, and for choices by zone. */
  readonly labels: Readonly<Record<string, string>>
  /** What the endpoint is known to speak. */
  readonly protocol?: 'http1' | 'http2' | 'opaque'
  /** The name its certificate must carry, where it is reached by TLS. */
  readonly identity?: string
}

/** What makes two announcements the same endpoint. */
export const endpointKey = ({ address }: Endpoint): string => formatAddress(address)
