const MULTIPLIER = 0x517cc1b727220a95n
const MASK = 0xffff_ffff_ffff_ffffn

/**
 * The name of a task as its host name has it: FxHash (64 bits) of its UTF-8 bytes and the byte 255, which Rust adds to
 * every string it hashes; in hexadecimal without leading zeros, as Flow writes it.
 */
export const taskHash = (task: string): string => {
  const bytes = Buffer.from(task)
  let hash = 0n
  const add = (word: bigint) => {
    const rotated = ((hash << 5n) | (hash >> 59n)) & MASK
    hash = ((rotated ^ word) * MULTIPLIER) & MASK
  }
  let at = 0
  for (; bytes.length - at >= 8; at += 8) add(bytes.readBigUInt64LE(at))
  for (; bytes.length - at >= 4; at += 4) add(BigInt(bytes.readUInt32LE(at)))
  for (; at < bytes.length; at++) add(BigInt(bytes[at]!))
  add(255n)
  return hash.toString(16)
}
