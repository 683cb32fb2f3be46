import type { Duplex } from 'node:stream'
import { type MeshHeader, readMeshHeader } from '../codec/meshHeader.ts'
import type { Clock } from '../net/clock.ts'
import { ProtocolError } from '../net/protocolError.ts'
import { failure, type TlsFailure } from '../net/tls/failure.ts'

/** Takes the header that another Sluice sends before the application's first byte off the stream, or says why there is none. */
export const meshHeaderOf = (stream: Duplex, clock: Clock, ms: number): Promise<MeshHeader | TlsFailure> =>
  new Promise((resolve) => {
    let held = Buffer.alloc(0)
    const settle = (result: MeshHeader | TlsFailure) => {
      stream.off('readable', readable).off('end', gone).off('close', gone)
      stopWaiting()
      resolve(result)
    }
    const readable = () => {
      const chunk = stream.read() as Buffer | null
      if (chunk === null) return
      held = Buffer.concat([held, chunk])
      try {
        const read = readMeshHeader(held)
        if (read.is !== 'yes') return
        // In the same tick as the read: nothing can be put back after the end.
        if (read.value.end < held.length) stream.unshift(held.subarray(read.value.end))
        settle(read.value.header)
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error
        settle(failure(error.code, error.message))
      }
    }
    const gone = () => settle(failure('MESH_HEADER_MISSING', 'the peer closed before its header was whole'))
    const stopWaiting = clock.after(ms, () => settle(failure('MESH_HEADER_MISSING', `no header within ${ms} ms`)))
    stream.on('readable', readable).on('end', gone).on('close', gone)
    if (stream.readableLength > 0) readable()
  })
