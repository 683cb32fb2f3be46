import type { Duplex } from 'node:stream'
import type { ClientHello } from '../codec/clientHello.ts'
import { MESH_ALPN, type MeshHeader } from '../codec/meshHeader.ts'
import type { OpaqueReason } from '../detect/detect.ts'
import type { Connection, Dial } from '../net/connection.ts'
import { HandshakeError, type TlsFailure } from '../net/tls/failure.ts'
import type { Secured } from '../net/tls/terminate.ts'
import type { Traffic } from '../net/traffic.ts'
import type { Facts } from '../policy/facts.ts'
import { settled } from '../policy/verdict.ts'
import type { TlsAgreement } from '../telemetry/outcome.ts'
import { placeOf, type Reached, reachUpstream } from './chooseUpstream.ts'
import { endClientTls } from './clientTls.ts'
import { beginEarly, discard } from './earlyDial.ts'
import { meshHeaderOf } from './meshArrival.ts'
import type { EarlyDial, Plan } from './plan.ts'
import type { TlsWorld } from './tlsWorld.ts'
import { secureDial } from './upstreamTls.ts'

/** What a client's TLS comes to. */
export type TlsEnd =
  | { readonly is: 'passed' }
  | { readonly is: 'failed'; readonly traffic: Traffic }
  | { readonly is: 'inside'; readonly inside: Inside }

/** What is spoken inside, known without looking. */
export type Agreed =
  | { readonly protocol: 'http1' }
  | { readonly protocol: 'http2' }
  | { readonly protocol: 'opaque'; readonly because: OpaqueReason }

/** A connection inside another one: it goes through the policy once more, with what is known by now. */
export interface Inside {
  readonly connection: Connection
  readonly facts: Facts
  /** What is spoken, where that was agreed on or the Sluice before us says so. */
  readonly spoken?: Agreed
  /** The upstream that was asked which application protocol it takes. */
  readonly early?: EarlyDial | undefined
  /** What stands in front of every request, where something does. */
  readonly around?: Plan['around']
  /** Statuses of self-made answers, where they are others than everywhere. */
  readonly statuses?: Plan['statuses']
  /** Whether bytes that nobody understands may still go on, asked after a reload of the policy. */
  readonly mayPass?: () => boolean
  /** Nothing but HTTP goes on, whatever the policy says, and nothing is dialled before a request has come. */
  readonly onlyHttp?: boolean
}

/** Ends the client's TLS where the policy wants that, and gives what is inside. Its facts begin anew: only the identity is added. */
export const insideTls = async (
  stream: Duplex,
  hello: ClientHello,
  plan: Plan,
  tls: TlsWorld,
  dial: Dial,
): Promise<TlsEnd> => {
  const { verdict, policy, life, clock } = plan
  let early: EarlyDial | undefined
  const bridge = async (offered: readonly string[]): Promise<string | null | TlsFailure> => {
    // What an app with a channel speaks is HTTP/2; there is nobody to ask.
    if (settled(verdict.upstream).is === 'channel')
      return offered.find((one) => one === 'h2' || one === 'http/1.1') ?? null
    const asked = await askUpstream(plan, tls, dial, offered)
    if ('failed' in asked) return asked
    early = beginEarly(placeOf(verdict, plan.connection.destination), async (trying) => {
      trying(asked.reached.to)
      return asked.reached
    })
    return asked.alpn
  }
  const result = await endClientTls(stream, { hello, verdict, sections: policy.sections, tls, bridge })
  if (result.is === 'passed') return result
  if (result.is === 'failed') {
    discard(early)
    return { is: 'failed', traffic: failed(result.failure) }
  }
  const { secured } = result
  life.tls = { ...agreement(secured), resumed: secured.resumed }
  life.identity = secured.identity ?? undefined
  if (secured.alpn !== MESH_ALPN) return inside(plan, hello, secured, agreedProtocol(secured.alpn), early)
  const header = await meshHeaderOf(secured.stream, clock, policy.sections.tls.handshakeTimeout)
  if ('failed' in header) {
    secured.stream.destroy()
    return { is: 'failed', traffic: failed(header) }
  }
  return inside(plan, hello, secured, hintedProtocol(header), undefined, header)
}

const inside = (
  { connection, facts }: Plan,
  hello: ClientHello,
  { stream, identity }: Secured,
  spoken: Agreed | undefined,
  early: EarlyDial | undefined,
  header?: MeshHeader,
): TlsEnd => {
  const destination = header ? { ...connection.destination, port: header.port } : connection.destination
  const { direction, peer } = facts
  const { sni, alpn, extensions } = hello
  return {
    is: 'inside',
    inside: {
      connection: { ...connection, destination, stream },
      facts: { direction, peer, destination, sni, alpn, extensions, identity },
      ...(spoken && { spoken }),
      early,
    },
  }
}

/** What was agreed on needs no looking; any protocol that is not HTTP is passed as bytes. */
const agreedProtocol = (alpn: string | null): Agreed | undefined => {
  if (alpn === null) return undefined
  if (alpn === 'h2') return { protocol: 'http2' }
  if (alpn === 'http/1.1' || alpn === 'http/1.0') return { protocol: 'http1' }
  return { protocol: 'opaque', because: 'alpn' }
}

/** What the Sluice before us has seen. TLS inside is looked at again: the policy asks for its names. */
const hintedProtocol = ({ protocol }: MeshHeader): Agreed | undefined => {
  if (protocol === 'opaque') return { protocol, because: 'mesh' }
  return protocol === 'http1' || protocol === 'http2' ? { protocol } : undefined
}

/** Dials the upstream by TLS with the client's own list: its answer is what the client gets. */
const askUpstream = async (
  plan: Plan,
  tls: TlsWorld,
  dial: Dial,
  alpn: readonly string[],
): Promise<TlsFailure | { readonly reached: Reached; readonly alpn: string | null }> => {
  const { verdict, policy, facts } = plan
  let agreed: string | null = null
  const always = { ...verdict, 'upstream.tls': orPlainTls(verdict['upstream.tls']) }
  const dialFor = (identity: string | undefined) =>
    secureDial(dial, {
      verdict: always,
      sections: policy.sections,
      tls,
      name: facts.sni,
      identity,
      alpn,
      agreed: (secured) => {
        agreed = secured.alpn
      },
    })
  try {
    return { reached: await reachUpstream(plan, { verdict, dialFor }), alpn: agreed }
  } catch (error) {
    if (error instanceof HandshakeError) return error.failure
    const { code = 'CONNECT_FAILED', message } = error as NodeJS.ErrnoException
    return { failed: true, code, message }
  }
}

/** There is no application protocol to ask for without TLS, so `alpn: upstream` implies it. */
const orPlainTls = (decision: Plan['verdict']['upstream.tls']): Plan['verdict']['upstream.tls'] =>
  decision.is === 'decided' && decision.value === false ? { ...decision, value: true } : decision

/** What was agreed on, for the Outcome. */
export const agreement = ({ version, cipher, alpn }: Secured): TlsAgreement => ({
  version,
  cipher,
  ...(alpn !== null && { alpn }),
})

const failed = ({ code, message }: TlsFailure): Traffic => ({
  sent: 0,
  received: 0,
  ended: 'tlsFailed',
  error: { code, message },
})
