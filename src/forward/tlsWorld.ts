import { randomBytes } from 'node:crypto'
import type { Clock } from '../net/clock.ts'
import { type KeyLog, openKeyLog } from '../net/tls/keyLog.ts'
import { createOriginator, type Originator } from '../net/tls/originate.ts'
import { type CertificateSource, certificateFiles, type Entry } from '../net/tls/source.ts'
import { type CertificateEvent, type CertificateStore, openCertificates } from '../net/tls/store.ts'
import { createTerminator, type Terminator } from '../net/tls/terminate.ts'
import { rotatingTicketKeys, sharedTicketKeys } from '../net/tls/tickets.ts'
import type { Sections } from '../policy/sections.ts'
import { createPlainPeers, type PlainPeers } from './plainPeers.ts'

/** What TLS needs beside a connection: one for the whole process, shared by every listener and the gateway. */
export interface TlsWorld {
  readonly clock: Clock
  readonly certificates: CertificateStore
  readonly terminator: Terminator
  readonly originate: Originator
  readonly plainPeers: PlainPeers
  /** Reads the certificates of another document, and gives what puts them in use, in the turn in which it is called. */
  readonly prepare: (sections: Sections) => Promise<() => void>
  /** Hears the secrets of sessions, where the policy has them logged. */
  readonly secrets?: KeyLog['subscribe']
  readonly close: () => void
}

/** Where the certificates of a document lie. */
export const sourceOf = ({ certificates, trust }: Sections, clock: Clock): CertificateSource => {
  const pairs = Object.entries(certificates)
  const roots = Object.entries(trust).map(([name, { ca }]) => [trustName(name), { trust: ca }] as const)
  return certificateFiles(new Map<string, Entry>([...pairs, ...roots]), clock)
}

/** Roots and certificates may have the same name in the document; the store has one list of names. */
export const trustName = (name: string): string => `trust ${name}`

/** Opens the certificates of a document and all that ends and begins TLS with them. `secret`: other threads have it, too. */
export const openTls = async (
  sections: Sections,
  clock: Clock,
  report: (event: CertificateEvent) => void,
  secret?: Uint8Array,
): Promise<TlsWorld> => {
  const { handshakeTimeout, maxHandshakes, ticketKeyLifetime, warnBeforeExpiry, keyLog: path } = sections.tls
  const certificates = await openCertificates(sourceOf(sections, clock), { clock, warnMs: warnBeforeExpiry, report })
  const keyLog: KeyLog | undefined = path === undefined ? undefined : openKeyLog(path)
  const common = { clock, handshakeMs: handshakeTimeout, ...(keyLog && { keyLog }) }
  const tickets = secret
    ? sharedTicketKeys({ time: clock.time, secret, periodMs: ticketKeyLifetime })
    : rotatingTicketKeys({ now: clock.now, random: randomBytes, periodMs: ticketKeyLifetime })
  return {
    clock,
    certificates,
    terminator: createTerminator({ ...common, tickets, handshakesMax: maxHandshakes }),
    originate: createOriginator(common),
    plainPeers: createPlainPeers(clock),
    ...(keyLog && { secrets: keyLog.subscribe }),
    prepare: (next) => certificates.prepare(sourceOf(next, clock)),
    close: () => {
      certificates.close()
      keyLog?.close()
    },
  }
}
