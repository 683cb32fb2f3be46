/** Four frames of HTTP/2 DATA with their heads, and what one read of a socket brings. */
export const SEGMENT_BYTES = 4 * (16_384 + 9)
/** 4 MiB, for all connections together. */
const SPARES_MAX = 64

const spares: Buffer[] = []

/**
 * Large buffers for bytes on their way, lent and given back: memory that V8 has to find out to be free costs more than the
 * bytes do, and each new one has to be brought into the cache.
 */
export const borrowSegment = (): Buffer => spares.pop() ?? Buffer.allocUnsafeSlow(SEGMENT_BYTES)

/** Takes back a segment, or any part of one. The lender looks no longer at its bytes. Other buffers are left to V8. */
export const returnSegment = ({ buffer }: Buffer): void => {
  if (buffer.byteLength === SEGMENT_BYTES && spares.length < SPARES_MAX) spares.push(Buffer.from(buffer))
}
