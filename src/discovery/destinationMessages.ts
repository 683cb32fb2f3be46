import { ipText } from '../codec/ipText.ts'
import { bytesOf, type Field, fields, numberOf, textOf } from '../codec/protobuf.ts'
import type { Address } from '../net/address.ts'
import type { Endpoint } from '../net/endpoint.ts'
import { ProtocolError } from '../net/protocolError.ts'

/**
 * What a control plane says of a name: the messages of linkerd2-proxy-api, as far as we use them. Those of
 * `conduit.proxy.destination` are the same with fewer fields. Fields that we do not know are passed over.
 */
export type Update =
  | { readonly is: 'add'; readonly endpoints: readonly Endpoint[] }
  | { readonly is: 'remove'; readonly addresses: readonly Address[] }
  | { readonly is: 'none'; readonly exists: boolean }
  /** A kind of update that we do not know. */
  | { readonly is: 'other' }

/** What we use of a DestinationProfile. */
export interface Profile {
  readonly isOpaque: boolean
  /** For an address: what it is. */
  readonly endpoint: Endpoint | undefined
}

/** Reads an Update. Of a oneof that is written twice the last counts, as protobuf says. Throws ProtocolError. */
export const decodeUpdate = (bytes: Uint8Array): Update => {
  let update: Update = { is: 'other' }
  for (const field of fields(bytes)) {
    if (field.number === 1) update = { is: 'add', endpoints: weightedSet(bytesOf(field)) }
    if (field.number === 2) update = { is: 'remove', addresses: addressSet(bytesOf(field)) }
    if (field.number === 3) update = { is: 'none', exists: isTrue(bytesOf(field), 1) }
  }
  return update
}

/** Reads a DestinationProfile. Throws ProtocolError. */
export const decodeProfile = (bytes: Uint8Array): Profile => {
  let isOpaque = false
  let endpoint: Endpoint | undefined
  for (const field of fields(bytes)) {
    if (field.number === 4) isOpaque = numberOf(field) !== 0
    if (field.number === 6) endpoint = weightedAddress(bytesOf(field), {})
  }
  return { isOpaque, endpoint }
}

const weightedSet = (bytes: Uint8Array): Endpoint[] => {
  const all = [...fields(bytes)]
  // Labels of the set are those of each of its members; they may be written after them.
  const labels = labelsIn(all, 2)
  return all.filter(({ number }) => number === 1).map((field) => weightedAddress(bytesOf(field), labels))
}

const addressSet = (bytes: Uint8Array): Address[] =>
  [...fields(bytes)].filter(({ number }) => number === 1).map((field) => tcpAddress(bytesOf(field)))

const weightedAddress = (bytes: Uint8Array, setLabels: Readonly<Record<string, string>>): Endpoint => {
  const all = [...fields(bytes)]
  const labels: Record<string, string> = { ...setLabels, ...labelsIn(all, 4) }
  let address: Address | undefined
  let weight = 0
  let identity: string | undefined
  let protocol: Endpoint['protocol']
  let authority: string | undefined
  for (const field of all) {
    if (field.number === 1) address = tcpAddress(bytesOf(field))
    if (field.number === 3) weight = numberOf(field)
    if (field.number === 5) identity = identityIn(bytesOf(field)) ?? identity
    if (field.number === 6) {
      const hint = hintIn(bytesOf(field))
      if (hint === 'opaque') protocol = 'opaque'
      // H2 says that the Linkerd proxy there takes HTTP/1 inside HTTP/2, marked by a header of its own. The application
      // behind it may speak HTTP/1 only, so it is shown to people and not followed.
      else if (hint !== undefined) labels.protocol_hint = hint
    }
    if (field.number === 7) authority = textIn(bytesOf(field), 1)
  }
  if (address === undefined) throw new ProtocolError('DESTINATION', 'an endpoint without an address')
  return {
    address,
    weight,
    labels,
    ...(protocol && { protocol }),
    ...(identity && { identity }),
    ...(authority && { authority }),
    ...(labels.zone && { zone: labels.zone }),
  }
}

const labelsIn = (all: readonly Field[], number: number): Record<string, string> =>
  Object.fromEntries(
    all
      .filter((field) => field.number === number)
      .map((field) => {
        const entry = bytesOf(field)
        return [textIn(entry, 1) ?? '', textIn(entry, 2) ?? '']
      }),
  )

const textIn = (bytes: Uint8Array, number: number): string | undefined => {
  const found = [...fields(bytes)].findLast((field) => field.number === number)
  return found === undefined ? undefined : textOf(found)
}

const isTrue = (bytes: Uint8Array, number: number): boolean => {
  const found = [...fields(bytes)].findLast((field) => field.number === number)
  return found !== undefined && numberOf(found) !== 0
}

/** TlsIdentity: `dns_like_identity` = 1, `uri_like_identity` = 3, and the name to ask for, `server_name` = 4. */
const identityIn = (bytes: Uint8Array): string | undefined => {
  const all = [...fields(bytes)]
  const nameIn = (number: number): string | undefined => {
    const found = all.findLast((field) => field.number === number)
    return found === undefined ? undefined : textIn(bytesOf(found), 1)
  }
  return nameIn(1) ?? nameIn(3) ?? nameIn(4)
}

const HINTS: Readonly<Record<number, string>> = { 1: 'h2', 2: 'opaque_transport', 3: 'opaque' }

const hintIn = (bytes: Uint8Array): string | undefined => {
  const found = [...fields(bytes)].filter(({ number }) => number in HINTS)
  // Opaque transport is spoken between two Linkerd proxies only; opaque beside it is what is inside.
  return found.some(({ number }) => number === 3) ? 'opaque' : HINTS[found.at(-1)?.number ?? 0]
}

/** TcpAddress: ip = 1, port = 2. */
const tcpAddress = (bytes: Uint8Array): Address => {
  let host: string | undefined
  let port = 0
  for (const field of fields(bytes)) {
    if (field.number === 1) host = ipAddress(bytesOf(field))
    if (field.number === 2) port = numberOf(field)
  }
  if (host === undefined) throw new ProtocolError('DESTINATION', 'an address without an IP address')
  if (port < 1 || port > 65_535) throw new ProtocolError('DESTINATION', `there is no port ${port}`)
  return { host, port }
}

/** IPAddress: ipv4 = 1 as a number, 10.0.0.1 being 0x0a000001; ipv6 = 2 as two numbers of 64 bits. */
const ipAddress = (bytes: Uint8Array): string | undefined => {
  let host: string | undefined
  for (const field of fields(bytes)) {
    if (field.number === 1) {
      const word = new Uint8Array(4)
      new DataView(word.buffer).setUint32(0, numberOf(field))
      host = ipText(word)
    }
    if (field.number === 2) host = ipv6(bytesOf(field))
  }
  return host
}

const ipv6 = (bytes: Uint8Array): string => {
  const words = new Uint8Array(16)
  const view = new DataView(words.buffer)
  for (const { number, value } of fields(bytes)) {
    if (number !== 1 && number !== 2) continue
    if (typeof value !== 'bigint') throw new ProtocolError('DESTINATION', 'half an IPv6 address is 64 bits')
    view.setBigUint64((number - 1) * 8, value)
  }
  return ipText(words)
}
