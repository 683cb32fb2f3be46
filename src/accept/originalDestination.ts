import { isIPv6, type Socket } from 'node:net'
import { fdOf, type Shim } from '../native/shim.ts'
import { type Address, unmapped } from '../net/address.ts'

/** Where the client of an accepted socket meant to go, or in words why that cannot be known. */
export type Destination = { readonly address: Address } | { readonly unknown: string }

/** Nobody redirected it, and nobody said where it should go. */
export const NOT_REDIRECTED: Destination = {
  unknown: 'it was not redirected, and this listener has no fixed destination',
}

/** Asks the kernel, or takes the destination that the configuration fixed for the listener. */
export const originalDestination = (
  socket: Socket,
  shim: Shim | undefined,
  fixed: Address | undefined,
): Destination => {
  if (fixed !== undefined) return { address: fixed }
  if (shim === undefined) return { unknown: 'the shim is not built, and this listener has no fixed destination' }
  const fd = fdOf(socket)
  const local = socket.localAddress
  if (fd === undefined || local === undefined) return { unknown: 'the client was gone before it could be asked' }
  const family = isIPv6(unmapped(local)) ? 6 : 4
  try {
    const address = shim.originalDestination(fd, family)
    return address ? { address } : NOT_REDIRECTED
  } catch (error) {
    // A socket may break in any moment; that is this connection's affair.
    return { unknown: `the kernel would not say where it was going: ${(error as Error).message}` }
  }
}
