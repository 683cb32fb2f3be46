import { NOT_IN_TRAILERS } from '../codec/http1Body.ts'
import type { Address } from '../net/address.ts'
import type { Fields, RequestHead } from './exchange.ts'
import type { FieldChanges } from './httpSettings.ts'

/** The private mark of requests that passed a Sluice: the hops, oldest first. */
export const HOP_FIELD = 'sluice-hop'

/** More hops than this is a loop among several, or somebody who plays. */
const HOPS_MAX = 16

/** What is known of who sent a request, for the upstream to be told. */
export interface Origin {
  readonly peer: Address
  readonly identity: string | undefined
  readonly hop: string
}

/** The hops that a request made before; undefined when it has been here already, or has made too many. */
export const hopsOf = (fields: Fields, hop: string): string | undefined => {
  let hops = ''
  for (let i = 0; i < fields.length; i += 2) {
    if (fields[i]!.length !== HOP_FIELD.length || fields[i]!.toLowerCase() !== HOP_FIELD) continue
    const value = fields[i + 1]!
    // Only what a Sluice can have written counts, and only that goes on.
    if (/^[0-9a-f]{8}(,[0-9a-f]{8})*$/.test(value)) hops = hops === '' ? value : `${hops},${value}`
  }
  if (hops === '') return hops
  const all = hops.split(',')
  return all.includes(hop) || all.length > HOPS_MAX ? undefined : hops
}

/** The fields of a request as they go on: nothing that the client says in our name, and what the policy changes. */
export const requestFields = (head: RequestHead, changes: FieldChanges, origin: Origin, hops: string): Fields => {
  const fields = kept(head.fields, changes.remove, true)
  if (changes.via) fields.push('via', `${head.version === '2' ? '2.0' : head.version} sluice`)
  if (changes.forwarded !== 'none') tellOrigin(fields, head, changes.forwarded, origin.peer.host)
  for (const [name, value] of changes.set) fields.push(name, value)
  if (origin.identity !== undefined) fields.push('sluice-identity', origin.identity)
  if (changes.marker) fields.push(HOP_FIELD, hops === '' ? origin.hop : `${hops},${origin.hop}`)
  return fields
}

/** The fields of a response as they go on. */
export const responseFields = (fields: Fields, changes: FieldChanges): Fields => {
  const changed = kept(fields, changes.remove, false)
  if (changes.via) changed.push('via', '1.1 sluice')
  for (const [name, value] of changes.set) changed.push(name, value)
  return changed
}

/** The trailers of a request as they go on: nothing in our name there either, and nothing that only a head may say. */
export const requestTrailers = (fields: Fields): Fields => kept(fields, NOT_IN_TRAILERS, true)

/** The trailers of a response as they go on. HTTP/1 refuses such ones, HTTP/2 has no word about them. */
export const responseTrailers = (fields: Fields): Fields => kept(fields, NOT_IN_TRAILERS, false)

/** A copy without those removed, nor, of a client, any that begins with `sluice-`. */
const kept = (fields: Fields, remove: ReadonlySet<string>, isClients: boolean): Fields => {
  const copy: Fields = []
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i]!
    if (isClients && name.length > 7 && (name.charCodeAt(0) | 32) === 115 && /^sluice[-_]/i.test(name)) continue
    if (remove.size > 0 && remove.has(name.toLowerCase())) continue
    copy.push(name, fields[i + 1]!)
  }
  return copy
}

/** Forwarded (RFC 7239) and its elders; each proxy adds to what came. */
const tellOrigin = (fields: Fields, head: RequestHead, how: string, host: string) => {
  const { authority, scheme } = head
  if (how !== 'x-forwarded') {
    const node = host.includes(':') ? `"[${host}]"` : host
    append(fields, 'forwarded', `for=${node};host="${authority}";proto=${scheme}`)
  }
  if (how === 'forwarded') return
  append(fields, 'x-forwarded-for', host)
  if (fieldOf(fields, 'x-forwarded-host') === undefined) fields.push('x-forwarded-host', authority)
  if (fieldOf(fields, 'x-forwarded-proto') === undefined) fields.push('x-forwarded-proto', scheme)
}

/** The same request for another authority. */
export const withAuthority = (head: RequestHead, authority: string): RequestHead => ({
  ...head,
  authority,
  fields: head.fields.map((text, i, fields) => (i % 2 === 1 && /^host$/i.test(fields[i - 1]!) ? authority : text)),
})

/** The value of the first field of that name, which is in lower case. */
export const fieldOf = (fields: Fields, name: string): string | undefined => {
  for (let i = 0; i < fields.length; i += 2) if (fields[i]!.toLowerCase() === name) return fields[i + 1]
  return undefined
}

/** The values of all fields of that name, which is in lower case. */
export const valuesOf = (fields: Fields, name: string): string[] =>
  fields.filter((_, i) => i % 2 === 1 && fields[i - 1]!.toLowerCase() === name)

/** Adds to the last field of that name, or a new one. */
const append = (fields: Fields, name: string, value: string) => {
  for (let i = fields.length - 2; i >= 0; i -= 2) {
    if (fields[i]!.toLowerCase() !== name) continue
    fields[i + 1] = `${fields[i + 1]}, ${value}`
    return
  }
  fields.push(name, value)
}

/** The status of gRPC, in a head or in trailers of HTTP/2, whose names are in lower case. */
export const statusIn = (fields: Fields): string | undefined => {
  for (let i = 0; i < fields.length; i += 2) if (fields[i] === 'grpc-status') return fields[i + 1]
  return undefined
}

/** What a head of these takes, more or less: one without any is not free either. */
export const bytesOf = (fields: Fields): number => {
  let bytes = 20
  for (let i = 0; i < fields.length; i++) bytes += fields[i]!.length + 2
  return bytes
}
