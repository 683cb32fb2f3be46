import { createDecipheriv } from 'node:crypto'
import { clientSealing12, type Sealing, SUITES, type Suite, sealing13 } from './tlsKeys.ts'

/** A key log (draft-ietf-tls-keylogfile): secrets by client random, and then by label. */
export type Secrets = ReadonlyMap<string, ReadonlyMap<string, Buffer>>

/** What the client said inside TLS, or why that cannot be told. */
export type Decrypted = { readonly is: 'yes'; readonly bytes: Buffer } | { readonly is: 'no'; readonly why: string }

const TAG_BYTES = 16
const [CHANGE_CIPHER, HANDSHAKE, APPLICATION] = [20, 22, 23]
const [SERVER_HELLO, FINISHED, KEY_UPDATE] = [2, 20, 24]
/** RFC 8446 section 4.1.3: the random of a HelloRetryRequest, which looks like a ServerHello and is none. */
const RETRY = 'cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c'

/** Reads a key log. Lines that are no secrets are skipped, as the format wants it. */
export const readKeyLog = (text: string): Secrets => {
  const secrets = new Map<string, Map<string, Buffer>>()
  for (const [, label, random, secret] of text.matchAll(/^([A-Z][A-Z0-9_]*) ([0-9a-fA-F]{64}) ([0-9a-fA-F]+)\r?$/gm)) {
    const session = secrets.get(random!.toLowerCase()) ?? new Map<string, Buffer>()
    session.set(label!, Buffer.from(secret!, 'hex'))
    secrets.set(random!.toLowerCase(), session)
  }
  return secrets
}

/** Opens the beginning of a TLS connection, client to server. Both sides' bytes are from their first one on. */
export const decryptClient = (client: Uint8Array, server: Uint8Array, secrets: Secrets): Decrypted => {
  const records = [...recordsOf(Buffer.from(client))]
  const hello = plainHandshake(records)
  if (hello.length < 38) return no('the capture does not hold the ClientHello')
  const random = hello.subarray(6, 38)
  const session = secrets.get(random.toString('hex'))
  if (!session) return no(`the key log has nothing about this session (client random ${random.toString('hex', 0, 8)}…)`)
  const answer = serverHello(plainHandshake([...recordsOf(Buffer.from(server))]))
  if (!answer) return no('the capture does not hold the ServerHello')
  const suite = SUITES.get(answer.suite)
  if (!suite)
    return no(
      `cipher suite 0x${answer.suite.toString(16).padStart(4, '0')} cannot be opened here; AES-GCM and ChaCha20-Poly1305 can`,
    )
  return answer.is13 ? decrypt13(records, suite, session) : decrypt12(records, suite, session, random, answer.random)
}

const no = (why: string): Decrypted => ({ is: 'no', why })

interface TlsRecord {
  readonly type: number
  readonly head: Buffer
  readonly body: Buffer
}

/** The whole records at the beginning; one that is cut ends them. */
function* recordsOf(bytes: Buffer): Generator<TlsRecord> {
  for (let at = 0; at + 5 <= bytes.length; ) {
    const end = at + 5 + bytes.readUInt16BE(at + 3)
    if (end > bytes.length) return
    yield { type: bytes[at]!, head: bytes.subarray(at, at + 5), body: bytes.subarray(at + 5, end) }
    at = end
  }
}

/** The handshake bytes before anything is encrypted. */
const plainHandshake = (records: readonly TlsRecord[]): Buffer => {
  const until = records.findIndex(({ type }) => type !== HANDSHAKE && type !== CHANGE_CIPHER)
  const plain = until < 0 ? records : records.slice(0, until)
  return Buffer.concat(plain.filter(({ type }) => type === HANDSHAKE).map(({ body }) => body))
}

const serverHello = (bytes: Buffer) => {
  for (let at = 0; at + 4 <= bytes.length; ) {
    const end = at + 4 + bytes.readUIntBE(at + 1, 3)
    if (bytes[at] === SERVER_HELLO && end <= bytes.length && end >= at + 44) {
      const random = bytes.subarray(at + 6, at + 38)
      if (random.toString('hex') !== RETRY) return parseServerHello(bytes.subarray(at + 38, end), random)
    }
    at = end
  }
  return undefined
}

/** From the session id on. RFC 8446 section 4.2.1: `supported_versions` says 1.3, the version field never does. */
const parseServerHello = (bytes: Buffer, random: Buffer) => {
  const at = 1 + bytes[0]!
  if (at + 2 > bytes.length) return undefined
  let is13 = false
  for (let next = at + 5; next + 4 <= bytes.length; next += 4 + bytes.readUInt16BE(next + 2))
    if (bytes.readUInt16BE(next) === 43 && next + 6 <= bytes.length) is13 ||= bytes.readUInt16BE(next + 4) === 0x0304
  return { random, suite: bytes.readUInt16BE(at), is13 }
}

const decrypt13 = (records: readonly TlsRecord[], suite: Suite, session: ReadonlyMap<string, Buffer>): Decrypted => {
  const handshake = session.get('CLIENT_HANDSHAKE_TRAFFIC_SECRET')
  const traffic = session.get('CLIENT_TRAFFIC_SECRET_0')
  if (!handshake || !traffic) return no('the key log lacks one of the two traffic secrets of the client')
  let sealing = sealing13(suite, handshake)
  let sequence = 0
  let isDone = false
  let messages: Buffer = Buffer.alloc(0)
  const said: Buffer[] = []
  for (const { type, head, body } of records.filter((record) => record.type === APPLICATION)) {
    const inner = open(sealing, xorNonce(sealing.iv, sequence++), head, body)
    if (!inner)
      return said.length > 0 ? yes(said) : no(`a record of type ${type} does not open with the key log's secrets`)
    const end = inner.findLastIndex((byte) => byte !== 0) // RFC 8446 section 5.4: padding is zeros behind the type
    const content = inner.subarray(0, end)
    if (inner[end] === APPLICATION) said.push(content)
    if (inner[end] !== HANDSHAKE) continue
    messages = Buffer.concat([messages, content])
    if (isDone && content[0] === KEY_UPDATE) return yes(said)
    if (isDone || !hasFinished(messages)) continue
    isDone = true
    sequence = 0
    sealing = sealing13(suite, traffic)
  }
  return said.length > 0 ? yes(said) : no('the client said nothing inside TLS, as far as the capture goes')
}

const hasFinished = (messages: Buffer): boolean => {
  for (let at = 0; at + 4 <= messages.length; at += 4 + messages.readUIntBE(at + 1, 3)) {
    if (messages[at] === FINISHED) return true
  }
  return false
}

const decrypt12 = (
  records: readonly TlsRecord[],
  suite: Suite,
  session: ReadonlyMap<string, Buffer>,
  clientRandom: Buffer,
  serverRandom: Buffer,
): Decrypted => {
  const master = session.get('CLIENT_RANDOM')
  if (!master) return no('the key log has no master secret for this session')
  const sealing = clientSealing12(suite, master, clientRandom, serverRandom)
  const sealed = records.slice(records.findIndex(({ type }) => type === CHANGE_CIPHER) + 1)
  const said: Buffer[] = []
  for (const [sequence, { type, head, body }] of sealed.entries()) {
    const isGcm = suite.cipher !== 'chacha20-poly1305'
    const text = isGcm ? body.subarray(8) : body // RFC 5288 section 3: half of the nonce goes with the record
    const nonce = isGcm ? Buffer.concat([sealing.iv, body.subarray(0, 8)]) : xorNonce(sealing.iv, sequence)
    const extra = Buffer.alloc(13)
    extra.writeUIntBE(sequence, 2, 6)
    head.copy(extra, 8, 0, 3)
    extra.writeUInt16BE(Math.max(0, text.length - TAG_BYTES), 11)
    const content = open(sealing, nonce, extra, text)
    if (!content)
      return said.length > 0 ? yes(said) : no(`a record of type ${type} does not open with the key log's secrets`)
    if (type === APPLICATION) said.push(content)
  }
  return said.length > 0 ? yes(said) : no('the client said nothing inside TLS, as far as the capture goes')
}

const yes = (said: readonly Buffer[]): Decrypted => ({ is: 'yes', bytes: Buffer.concat(said) })

/** RFC 8446 section 5.3, and RFC 7905 section 2 for TLS 1.2. */
const xorNonce = (iv: Buffer, sequence: number): Buffer => {
  const nonce = Buffer.alloc(12)
  nonce.writeUIntBE(sequence, 6, 6)
  for (let at = 0; at < 12; at++) nonce[at]! ^= iv[at]!
  return nonce
}

/** Undefined when the record was not sealed so. */
const open = ({ suite, key }: Sealing, nonce: Buffer, extra: Buffer, body: Buffer): Buffer | undefined => {
  if (body.length < TAG_BYTES || nonce.length !== 12) return undefined
  const decipher = createDecipheriv(suite.cipher as 'chacha20-poly1305', key, nonce, { authTagLength: TAG_BYTES })
  decipher.setAAD(extra, { plaintextLength: body.length - TAG_BYTES })
  decipher.setAuthTag(body.subarray(body.length - TAG_BYTES))
  try {
    return Buffer.concat([decipher.update(body.subarray(0, body.length - TAG_BYTES)), decipher.final()])
  } catch {
    return undefined
  }
}
