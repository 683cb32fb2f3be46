import { ProtocolError } from '../net/protocolError.ts'
import type { CaptureFormat } from './capture.ts'

const FILE_HEAD_BYTES = 24
const PACKET_HEAD_BYTES = 16
export const PACKET_BYTES_MAX = 1_048_576 // four times what tcpdump ever writes: beyond it, a length is damage

/** First four bytes, in the file's order: how many of its units a second has, and bytes of each packet's head. */
const MAGIC: Readonly<Record<number, { readonly perSecond: number; readonly head: number }>> = {
  2712847316: { perSecond: 1e6, head: PACKET_HEAD_BYTES }, // a1b2c3d4
  2712812621: { perSecond: 1e9, head: PACKET_HEAD_BYTES }, // a1b23c4d
  2712849716: { perSecond: 1e6, head: PACKET_HEAD_BYTES + 8 }, // a1b2cd34, of a patched libpcap
}

/** The pcap file format (draft-ietf-opsawg-pcap): either byte order, microseconds or nanoseconds. */
export const pcapFormat = (): CaptureFormat => {
  let file: { little: boolean; perSecond: number; head: number; linkType: number } | undefined
  return (bytes) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    if (file === undefined) {
      if (bytes.length < FILE_HEAD_BYTES) return undefined
      const little = MAGIC[view.getUint32(0)] === undefined
      const kind = MAGIC[view.getUint32(0, little)]
      if (kind === undefined) throw new ProtocolError('CAPTURE_UNKNOWN', 'this is neither pcap nor pcapng')
      file = { little, ...kind, linkType: view.getUint32(20, little) & 0xffff }
      return { bytes: FILE_HEAD_BYTES }
    }
    const { little, head, linkType } = file
    if (bytes.length < head) return undefined
    const captured = view.getUint32(8, little)
    const length = view.getUint32(12, little)
    if (captured > PACKET_BYTES_MAX) throw new ProtocolError('CAPTURE_LENGTH', `a length of ${captured} bytes`)
    if (bytes.length < head + captured) return undefined
    const time = view.getUint32(0, little) * 1e3 + (view.getUint32(4, little) / file.perSecond) * 1e3
    const packet = { time, linkType, bytes: bytes.subarray(head, head + captured), length: Math.max(length, captured) }
    return { bytes: head + captured, packet }
  }
}
