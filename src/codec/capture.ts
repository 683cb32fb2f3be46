import { ProtocolError } from '../net/protocolError.ts'
import { pcapFormat } from './pcap.ts'
import { isPcapng, pcapngFormat } from './pcapng.ts'

/** One packet of a capture file. `bytes` is a view of what was pushed: copy what must last. */
export interface Packet {
  /** Counted from 1, as other tools count. */
  readonly number: number
  /** Milliseconds since 1970, with a fraction. */
  readonly time: number
  /** A LINKTYPE_ number: what `bytes` begins with. */
  readonly linkType: number
  readonly bytes: Uint8Array
  /** Bytes on the wire: more than there are here when the capture cut packets short. */
  readonly length: number
}

/** What a format reads at the beginning of bytes: how many it took, and the packet where they were one. */
export interface Taken {
  readonly bytes: number
  readonly packet?: Omit<Packet, 'number'>
}

/** Takes one header, record or block; undefined means that more bytes are needed. Throws ProtocolError on damage. */
export type CaptureFormat = (bytes: Uint8Array) => Taken | undefined

/**
 * Reads pcap and pcapng. Throws ProtocolError `CAPTURE_DAMAGED` or `CAPTURE_CUT` with the number of the packet at fault,
 * but not before it has returned all packets in front of it.
 */
export const captureReader = (): { push(bytes: Uint8Array): Packet[]; end(): Packet[] } => {
  let format: CaptureFormat | undefined
  let rest: Uint8Array = new Uint8Array()
  let number = 0
  let damage: ProtocolError | undefined

  const take = (bytes: Uint8Array): Taken | undefined => {
    if (bytes.length < 4) return undefined
    format ??= isPcapng(bytes) ? pcapngFormat() : pcapFormat()
    return format(bytes)
  }
  return {
    push(bytes) {
      if (damage !== undefined) throw damage
      const all = rest.length === 0 ? bytes : Buffer.concat([rest, bytes])
      const packets: Packet[] = []
      let at = 0
      try {
        for (let taken = take(all); taken !== undefined; taken = take(all.subarray(at))) {
          at += taken.bytes
          if (taken.packet !== undefined) packets.push({ number: ++number, ...taken.packet })
        }
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error
        damage = new ProtocolError('CAPTURE_DAMAGED', `packet ${number + 1}: ${error.message}`)
        if (packets.length === 0) throw damage
      }
      rest = all.subarray(at)
      return packets
    },
    end() {
      if (damage !== undefined) throw damage
      if (number === 0 && rest.length < 4) throw new ProtocolError('CAPTURE_DAMAGED', 'the file is empty')
      if (rest.length > 0)
        throw new ProtocolError('CAPTURE_CUT', `packet ${number + 1}: the file ends ${rest.length} bytes into it`)
      return []
    },
  }
}
