import { isIP } from 'node:net'
import { type Address, formatAddress, parseAddress } from '../net/address.ts'
import { type Arguments, type Option, repeated, single, UsageError } from '../net/commandLine.ts'
import type { Facts } from '../policy/facts.ts'
import { factsFrom } from '../policy/givenFacts.ts'

/** The flags that say what is known of a connection. */
export const FACT_OPTIONS: Readonly<Record<string, Option>> = {
  direction: { value: 'DIRECTION', help: 'inbound or outbound (outbound)' },
  source: { value: 'SOURCE', help: 'listener, or command: opened by a command of the connector (listener)' },
  destination: { value: 'IP:PORT', help: 'where the client meant to go' },
  peer: { value: 'IP[:PORT]', help: 'who called (127.0.0.1)' },
  protocol: { value: 'PROTOCOL', help: 'tls, http1, http2 or opaque; without it, not known yet' },
  sni: { value: 'NAME', help: "the ClientHello's server name; none: TLS without one" },
  alpn: { value: 'ID', help: 'a protocol id offered in ALPN; may be repeated; none: TLS without ALPN', multiple: true },
  extension: { value: 'NUMBER', help: 'an extension type in the ClientHello; may be repeated', multiple: true },
  identity: { value: 'NAME', help: "the peer's verified name; none: nobody was verified" },
  authority: { value: 'HOST[:PORT]', help: 'the Host or :authority of a request' },
  method: { value: 'METHOD', help: 'the method of a request (GET, once anything else of a request is given)' },
  path: { value: 'PATH', help: 'the path of a request (/)' },
  header: { value: "'NAME: VALUE'", help: 'a field of a request; may be repeated', multiple: true },
}

/** The facts that flags give. */
export const factsFromFlags = (args: Arguments): Facts =>
  factsFrom({
    direction: wordOf(args, 'direction', ['inbound', 'outbound']),
    source: wordOf(args, 'source', ['listener', 'command']),
    protocol: wordOf(args, 'protocol', ['tls', 'http1', 'http2', 'opaque']),
    destination: addressOf(args, 'destination'),
    peer: peerOf(args),
    sni: noneIsNull(single(args, 'sni')),
    alpn: listOrNone(repeated(args, 'alpn')),
    extension: numbersOf(repeated(args, 'extension')),
    identity: noneIsNull(single(args, 'identity')),
    authority: single(args, 'authority'),
    method: single(args, 'method'),
    path: single(args, 'path'),
    header: headerOf(repeated(args, 'header')),
  })

const wordOf = <const T extends string>(args: Arguments, name: string, words: readonly T[]): T | undefined => {
  const written = single(args, name)
  const word = words.find((it) => it === written)
  if (written !== undefined && word === undefined)
    throw new UsageError(`--${name} is ${words.join(' or ')}, not '${written}'`)
  return word
}

const listOrNone = (ids: readonly string[]): readonly string[] | null | undefined =>
  ids.length === 0 ? undefined : ids.includes('none') ? null : ids

const numbersOf = (written: readonly string[]): readonly number[] | undefined => {
  const wrong = written.find((it) => !/^\d{1,5}$/.test(it))
  if (wrong !== undefined) throw new UsageError(`--extension is a number, not '${wrong}'`)
  return written.length === 0 ? undefined : written.map(Number)
}

const headerOf = (lines: readonly string[]): Record<string, string[]> | undefined => {
  const header: Record<string, string[]> = {}
  for (const line of lines) {
    const found = /^([^:\s]+):\s*(.*)$/.exec(line)
    if (found === null) throw new UsageError(`--header: '${line}' is not 'NAME: VALUE'`)
    ;(header[found[1]!.toLowerCase()] ??= []).push(found[2]!)
  }
  return lines.length === 0 ? undefined : header
}

const noneIsNull = (written: string | undefined): string | null | undefined => (written === 'none' ? null : written)

const addressOf = (args: Arguments, name: string): Address => {
  const written = single(args, name)
  if (written === undefined)
    throw new UsageError(`--${name} is missing: give an address and port, such as 10.0.0.5:3306`)
  const address = parseAddress(written)
  if (address === undefined)
    throw new UsageError(`--${name}: '${written}' is not an address and port, such as 10.0.0.5:3306`)
  // Only a command of the connector calls names; what iptables brings has an address.
  if (isIP(address.host) === 0 && single(args, 'source') !== 'command')
    throw new UsageError(
      `--${name}: '${address.host}' is not an IP address; a name is what --authority or --sni is for`,
    )
  return address
}

const peerOf = (args: Arguments): Address => {
  const written = single(args, 'peer') ?? '127.0.0.1'
  return parseAddress(written) ?? { host: written.replace(/^\[(.*)\]$/, '$1'), port: 0 }
}

/** One line that says what is known. */
export const factsText = (facts: Facts): string => {
  const told = (name: string, fact: unknown): string =>
    fact === undefined ? '' : `, ${name} ${fact === null ? 'none' : fact}`
  const { direction, peer, destination, request } = facts
  const from = peer.port === 0 ? peer.host : formatAddress(peer)
  const hello = `${told('SNI', facts.sni)}${told('ALPN', facts.alpn)}${told('extensions', facts.extensions)}`
  const asked = request ? `, ${request.method} ${request.authority} ${request.path}` : ''
  return `${direction}, ${from} to ${formatAddress(destination)}${told('protocol', facts.protocol)}${hello}${told('identity', facts.identity)}${asked}`
}
