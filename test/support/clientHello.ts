/** What a test wants in a ClientHello. */
export interface Hello {
  readonly sni?: string
  readonly alpn?: readonly string[]
  readonly versions?: readonly number[]
  /** Bytes of an extension 21 to make it long. */
  readonly padding?: number
  /** Further extensions, type and body, before the others. */
  readonly extra?: readonly (readonly [number, Uint8Array])[]
  readonly session?: number
}

/** The handshake message of a ClientHello, without records around it. */
export const helloMessage = ({ sni, alpn, versions, padding, extra = [], session = 0 }: Hello): Buffer => {
  const extensions = extra.map(([type, body]) => extension(type, Buffer.from(body)))
  if (sni !== undefined) extensions.push(extension(0, vector(2, Buffer.concat([Buffer.from([0]), vector(2, sni)]))))
  if (alpn !== undefined) extensions.push(extension(16, vector(2, Buffer.concat(alpn.map((name) => vector(1, name))))))
  if (versions !== undefined) extensions.push(extension(43, vector(1, Buffer.concat(versions.map(uint16)))))
  if (padding !== undefined) extensions.push(extension(21, Buffer.alloc(padding)))
  const body = Buffer.concat([
    uint16(0x0303),
    Buffer.alloc(32, 7),
    vector(1, Buffer.alloc(session)),
    vector(2, uint16(0x1301)),
    vector(1, Buffer.from([0])),
    ...(extensions.length > 0 ? [vector(2, Buffer.concat(extensions))] : []),
  ])
  return Buffer.concat([Buffer.from([1]), vector(3, body)])
}

/** A ClientHello in records of at most `size` bytes. */
export const helloBytes = (hello: Hello, size = 16_384): Buffer => inRecords(helloMessage(hello), size)

/** A handshake message cut into records. */
export const inRecords = (message: Uint8Array, size: number): Buffer => {
  const records: Buffer[] = []
  for (let at = 0; at < message.length; at += size)
    records.push(Buffer.from([22, 3, 1]), vector(2, Buffer.from(message.subarray(at, at + size))))
  return Buffer.concat(records)
}

const extension = (type: number, body: Buffer): Buffer => Buffer.concat([uint16(type), vector(2, body)])
const uint16 = (value: number): Buffer => Buffer.from([value >> 8, value & 255])

const vector = (lengthBytes: number, content: Buffer | string): Buffer => {
  const bytes = Buffer.from(content as Buffer)
  const length = Buffer.alloc(lengthBytes)
  length.writeUIntBE(bytes.length, 0, lengthBytes)
  return Buffer.concat([length, bytes])
}
