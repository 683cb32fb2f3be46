import { ProtocolError } from '../net/protocolError.ts'

const PREFIX_BYTES = 5
const MESSAGE_BYTES_MAX = 16 * 2 ** 20 // 10,000 endpoints with twenty labels each are 6 MiB

/** A message as gRPC frames it: whether it is compressed, its length, itself. */
export const frameOf = (message: Uint8Array): Uint8Array => {
  const framed = new Uint8Array(PREFIX_BYTES + message.length)
  new DataView(framed.buffer).setUint32(1, message.length)
  framed.set(message, PREFIX_BYTES)
  return framed
}

/** Takes pieces of a stream, gives the messages that are whole. Throws ProtocolError. */
export const frameReader = (): { readonly push: (bytes: Uint8Array) => Uint8Array[] } => {
  let pieces: Uint8Array[] = []
  let held = 0
  const joined = (): Uint8Array => {
    const all = pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces, held)
    pieces = [all]
    return all
  }
  /** How many bytes the next message takes with its prefix; undefined while that is not known. */
  let wanted: number | undefined
  return {
    push: (bytes) => {
      if (bytes.length > 0) pieces.push(bytes)
      held += bytes.length
      const messages: Uint8Array[] = []
      while (held >= (wanted ?? PREFIX_BYTES)) {
        const all = joined()
        if (wanted === undefined) {
          if (all[0] !== 0) throw new ProtocolError('GRPC', 'a compressed message, which we did not ask for')
          wanted = PREFIX_BYTES + new DataView(all.buffer, all.byteOffset).getUint32(1)
          if (wanted > PREFIX_BYTES + MESSAGE_BYTES_MAX)
            throw new ProtocolError('GRPC', 'a message of more than 16 MiB')
          continue
        }
        messages.push(all.subarray(PREFIX_BYTES, wanted))
        pieces = [all.subarray(wanted)]
        held -= wanted
        wanted = undefined
      }
      return messages
    },
  }
}
