import { createHmac } from 'node:crypto'

/** An authenticated cipher of TLS, by the number of its suite. */
export interface Suite {
  readonly cipher: 'aes-128-gcm' | 'aes-256-gcm' | 'chacha20-poly1305'
  readonly hash: 'sha256' | 'sha384'
  readonly keyBytes: number
}

const AES_128 = { cipher: 'aes-128-gcm', hash: 'sha256', keyBytes: 16 } as const
const AES_256 = { cipher: 'aes-256-gcm', hash: 'sha384', keyBytes: 32 } as const
const CHACHA = { cipher: 'chacha20-poly1305', hash: 'sha256', keyBytes: 32 } as const

/** The suites of the IANA registry that can be opened here: all that TLS 1.3 has but CCM, and their kin of TLS 1.2. */
export const SUITES: ReadonlyMap<number, Suite> = new Map<number, Suite>([
  ...[0x1301, 0xc02b, 0xc02f, 0x009c, 0x009e].map((suite) => [suite, AES_128] as const),
  ...[0x1302, 0xc02c, 0xc030, 0x009d, 0x009f].map((suite) => [suite, AES_256] as const),
  ...[0x1303, 0xcca8, 0xcca9, 0xccaa].map((suite) => [suite, CHACHA] as const),
])

/** What seals the records of one direction. */
export interface Sealing {
  readonly suite: Suite
  readonly key: Buffer
  readonly iv: Buffer
}

/** RFC 8446 section 7.3: from a traffic secret. */
export const sealing13 = (suite: Suite, secret: Buffer): Sealing => ({
  suite,
  key: expandLabel(suite, secret, 'key', suite.keyBytes),
  iv: expandLabel(suite, secret, 'iv', 12),
})

/** RFC 8446 section 7.1: HKDF-Expand-Label with an empty context. No output here is longer than one hash. */
const expandLabel = ({ hash }: Suite, secret: Buffer, label: string, length: number): Buffer => {
  const full = Buffer.from(`tls13 ${label}`)
  const info = Buffer.concat([Buffer.from([0, length, full.length]), full, Buffer.from([0, 1])])
  return createHmac(hash, secret).update(info).digest().subarray(0, length)
}

/** RFC 5246 section 6.3: what the client seals with, from the master secret. */
export const clientSealing12 = (suite: Suite, master: Buffer, clientRandom: Buffer, serverRandom: Buffer): Sealing => {
  const ivBytes = suite.cipher === 'chacha20-poly1305' ? 12 : 4
  const seed = Buffer.concat([Buffer.from('key expansion'), serverRandom, clientRandom])
  const block = prf(suite, master, seed, 2 * suite.keyBytes + 2 * ivBytes)
  const iv = block.subarray(2 * suite.keyBytes, 2 * suite.keyBytes + ivBytes)
  return { suite, key: block.subarray(0, suite.keyBytes), iv }
}

/** RFC 5246 section 5: P_hash. */
const prf = ({ hash }: Suite, secret: Buffer, seed: Buffer, length: number): Buffer => {
  const hmac = (data: Buffer) => createHmac(hash, secret).update(data).digest()
  const parts: Buffer[] = []
  for (let a = hmac(seed), held = 0; held < length; a = hmac(a)) {
    const part = hmac(Buffer.concat([a, seed]))
    parts.push(part)
    held += part.length
  }
  return Buffer.concat(parts).subarray(0, length)
}
