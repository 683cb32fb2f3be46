import { isIP } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Detection } from './detect/detect.ts'
import { peek } from './detect/peek.ts'
import { announcing } from './forward/announce.ts'
import type { Channels } from './forward/channels.ts'
import { fixedAddress, placeOf, reachUpstream } from './forward/chooseUpstream.ts'
import { beginEarly, dialWhileSilent, discard, MESH_SILENCE_MS, SILENCE_MS } from './forward/earlyDial.ts'
import { http1 } from './forward/http1.ts'
import { http2 } from './forward/http2.ts'
import type { HttpState } from './forward/httpState.ts'
import { type Agreed, type Inside, insideTls } from './forward/insideTls.ts'
import { opaque } from './forward/opaque.ts'
import type { EarlyDial, Forwarder, Plan, Secure } from './forward/plan.ts'
import { deny, refuse } from './forward/refuse.ts'
import { tls } from './forward/tls.ts'
import type { TlsWorld } from './forward/tlsWorld.ts'
import { areWatched, changesNothing, noteTrials } from './forward/trials.ts'
import { isTlsDecided, securing, wantsTls } from './forward/upstreamTls.ts'
import { type Address, formatAddress } from './net/address.ts'
import type { Clock } from './net/clock.ts'
import type { Connection, Dial } from './net/connection.ts'
import type { Discovery } from './net/endpoint.ts'
import type { Park } from './net/park.ts'
import { described, type Relay, relay } from './net/relay.ts'
import type { Ending, Traffic } from './net/traffic.ts'
import type { AspectName } from './policy/aspects.ts'
import { decide, narrow } from './policy/decide.ts'
import { dialsEarly } from './policy/dialsEarly.ts'
import type { Facts } from './policy/facts.ts'
import type { Policy } from './policy/policy.ts'
import { type RuleRef, settled, type Verdict, valueOr } from './policy/verdict.ts'
import type { Ledger } from './telemetry/ledger.ts'
import type { Life } from './telemetry/life.ts'
import type { Outcome, Result } from './telemetry/outcome.ts'
import type { Recorder } from './telemetry/recording.ts'
import { redactedHead, redactedTarget } from './telemetry/redact.ts'

/** Everything around a connection that is not the connection. */
export interface World {
  readonly policy: () => Policy
  /** A policy beside it, which decides nothing: what it would change is told. */
  readonly candidate?: (() => Policy | undefined) | undefined
  readonly dial: Dial
  /** Moves the bytes of opaque connections: by default through streams. */
  readonly relay?: Relay
  /** Where idle connections wait: by default in their sockets. */
  readonly park?: Park | undefined
  readonly clock: Clock
  readonly random: () => number
  readonly ledger: Ledger
  /** Whether an address is one of our own listeners: a connection to it would come back to us for ever. */
  readonly isOwn: (address: Address) => boolean
  /** What HTTP connections share: above all the connections to upstreams. */
  readonly http: HttpState
  /** Names to endpoints, where the policy has sources for them. */
  readonly discovery?: Discovery | undefined
  /** Ways to apps that cannot be dialled; absent where none are enabled. */
  readonly channels?: Channels | undefined
  /** Records what passes, while somebody wants it. */
  readonly recorder?: Pick<Recorder, 'isOn' | 'watch'> | undefined
  /** Certificates, and what ends and begins TLS with them. Absent, as in a replay: all TLS is passed through. */
  readonly tls?: TlsWorld
}

const NOTHING = new Uint8Array()

const FORWARDERS = { opaque, tls, http1, http2 } satisfies Record<Detection['protocol'], Forwarder>

/** The life of one connection, from accept to its one Outcome. Never rejects; the stream is destroyed when it resolves. */
export const serve = (connection: Connection, world: World): Promise<Outcome> => recorded(connection, world, live)

/** The same for whoever ends TLS in its own way: it gives back what came of the connection, here it gets its Outcome. */
export const recorded = (
  accepted: Connection,
  world: World,
  living: (life: Life, connection: Connection, world: World) => Promise<Traffic>,
): Promise<Outcome> => {
  const life = world.ledger.begin(accepted)
  const { recorder } = world
  const connection = recorder?.isOn() ? { ...accepted, stream: recorder.watch(accepted, life) } : accepted
  life.closer = () => connection.stream.destroy()
  // Not an async function: what waits here is there for every connection as long as it lives.
  const end = (result: Result, traffic: Traffic): Outcome => {
    connection.stream.destroy()
    return world.ledger.end(life, result, traffic)
  }
  return living(life, connection, world).then(
    (traffic) => end(resultOf(traffic.ended), traffic),
    // What the network does is in the Traffic, so this is a bug of ours: this connection pays, no other one notices.
    (error: Error) => end('failed', { ...life.count, ended: 'internalError', error: described(error) }),
  )
}

const live = (life: Life, connection: Connection, world: World): Promise<Traffic> => {
  const { direction, peer, destination } = connection
  return round({ connection, facts: { direction, peer, destination } }, life, world)
}

/** What is inside TLS that was ended elsewhere. */
export const serveInside = (inside: Inside, life: Life, world: World): Promise<Traffic> =>
  round(inside, life, world, true)

/** Once for each connection, and once more for what is inside TLS that ends here: two rounds, and no third. */
const round = async (known: Inside, life: Life, world: World, isInside = false): Promise<Traffic> => {
  const { connection, facts: first } = known
  const { dial } = world

  const secure = securing(life, world.tls)

  // Accepted, and we know where it was going.
  if (world.isOwn(connection.destination)) {
    const to = formatAddress(connection.destination)
    return refuse(connection.stream, 'LOOP', `${to} is our own listener: was this connection redirected?`)
  }

  // Policy, first time: by direction, peer and destination, and inside TLS by its names and the client's identity.
  const policy = world.policy()
  const trials = { policy, candidate: world.candidate?.() }
  const isWatched = areWatched(trials)
  let verdict = decide(policy, first)
  life.rules = rulesOf(verdict)
  if (isWatched) noteTrials(life, trials, first)
  if (denies(verdict)) {
    discard(known.early)
    return deny(connection.stream)
  }

  // Detect: read until sure, unless it is known what is spoken.
  const seen = await detected(known, policy, verdict, world, secure)
  note(life, seen)
  if (seen.stream.destroyed) {
    discard(seen.early)
    return { sent: 0, received: 0, ended: life.closing ?? 'clientGone' }
  }

  // Policy, second time: with protocol, SNI and ALPN.
  let facts = withDetection(first, seen.detection)
  verdict = decide(policy, facts)
  // TLS ends here, or is passed on like any other bytes; then nobody will ever prove who the client is.
  if (seen.detection.protocol === 'tls' && !isInside) {
    if (world.tls && !denies(verdict)) {
      const end = await insideTls(
        seen.stream,
        seen.detection.hello,
        plan(known, seen.early, life, secure, world, { facts, verdict, policy }),
        world.tls,
        dial,
      )
      life.rules = rulesOf(verdict)
      if (end.is === 'failed') return end.traffic
      if (end.is === 'inside') return round(end.inside, life, world, true)
    }
    facts = { ...facts, identity: facts.identity ?? null, request: null }
    verdict = decide(policy, facts)
  }

  life.rules = rulesOf(verdict)
  if (isWatched) noteTrials(life, trials, facts)
  life.allowed = allowing(world, facts, seen.detection.protocol === 'opaque' ? known.mayPass : undefined)
  if (denies(verdict) || isTooLate(seen, verdict)) {
    discard(seen.early)
    return deny(seen.stream)
  }

  // Forward, each protocol in its own way.
  const spoken = spokenOf(seen, verdict)
  if (known.onlyHttp && spoken !== 'http1' && spoken !== 'http2') {
    discard(seen.early)
    return refuse(seen.stream, 'NOT_HTTP', 'only HTTP is served here, and this is something else')
  }
  const forRequests = spoken === 'http1' || spoken === 'http2' ? narrow(policy, facts) : policy
  return FORWARDERS[spoken](
    seen.stream,
    plan(known, seen.early, life, secure, world, { facts, verdict, policy: forRequests }),
    dial,
  )
}

/** Asks the policy of now. Made out here, because a function keeps all that is around it. */
const allowing = (world: World, facts: Facts, mayPass: (() => boolean) | undefined) => () =>
  (mayPass?.() ?? true) && !denies(decide(world.policy(), facts))

const plan = (
  { connection, around, statuses }: Inside,
  early: EarlyDial | undefined,
  life: Life,
  secure: Secure,
  world: World,
  { facts, verdict, policy }: Pick<Plan, 'facts' | 'verdict' | 'policy'>,
): Plan => ({
  connection,
  facts,
  verdict,
  policy,
  life,
  secure,
  early,
  around,
  statuses,
  clock: world.clock,
  random: world.random,
  relay: world.relay ?? relay,
  park: world.park,
  policyNow: world.policy,
  candidate: world.candidate,
  isOwn: world.isOwn,
  http: world.http,
  discovery: () => world.discovery,
  channels: world.channels,
})

/** What will become of connections whose protocol the policy knows before a byte is read. */
export interface Foreseen {
  readonly rules: Life['rules']
  readonly upstream: Address
  /** The upstream, where it is not the destination itself. */
  readonly fixed: Address | undefined
  readonly idleMs: number
  readonly halfClosedMs: number
  readonly connectMs: number
}

/**
 * The steps of `live` for a connection that is nothing but bytes to one address, taken without it: then the pump can do
 * what is left. Undefined for all others, also for denied ones: they are served.
 */
export const foresee = (
  from: Pick<Connection, 'direction' | 'peer' | 'destination'>,
  world: World,
): Foreseen | undefined => {
  const { direction, peer, destination } = from
  if (world.isOwn(destination) || world.recorder?.isOn()) return undefined
  const first: Facts = { direction, peer, destination }
  const policy = world.policy()
  if (valueOr(decide(policy, first).protocol, 'detect') !== 'opaque') return undefined
  const verdict = decide(policy, withDetection(first, AS_POLICY_SAYS))
  if (denies(verdict) || settled(verdict.protocol) !== 'opaque') return undefined
  const trials = { policy, candidate: world.candidate?.() }
  if (areWatched(trials) && !changesNothing(trials, withDetection(first, AS_POLICY_SAYS))) return undefined
  // The pump speaks neither a PROXY header nor TLS.
  if (settled(verdict['upstream.proxyProtocol']) !== 'none' || wantsTls(verdict)) return undefined
  const upstream = fixedAddress(verdict, destination)
  if (upstream === undefined || isIP(upstream.host) === 0 || upstream.host.includes('%')) return undefined
  return {
    rules: rulesOf(verdict),
    upstream,
    fixed: upstream === destination ? undefined : upstream,
    idleMs: settled(verdict['limits.idle']),
    halfClosedMs: settled(verdict['limits.halfClosed']),
    connectMs: settled(verdict['limits.connect']),
  }
}

/** What all of them have in common. */
export const likeForeseen = ({ rules }: Foreseen): Pick<Outcome, 'protocols' | 'reason' | 'detected' | 'rules'> => ({
  protocols: ['opaque'],
  reason: 'policy',
  detected: NOT_A_BYTE,
  rules,
})

/** Writes down what `live` would have of such a connection. */
export const writeForeseen = (life: Life, foreseen: Foreseen, world: World): void => {
  const { direction, peer, destination } = life
  const { fixed } = foreseen
  const { protocols, ...alike } = likeForeseen(foreseen)
  life.protocols.push(...protocols)
  Object.assign(life, alike)
  life.upstream = fixed ?? destination
  if (world.candidate?.() !== undefined) life.candidate = []
  life.allowed = () => !denies(decide(world.policy(), withDetection({ direction, peer, destination }, AS_POLICY_SAYS)))
}

interface Seen {
  readonly detection: Detection | Agreed
  /** To go on with: nothing is missing from it. */
  readonly stream: Duplex
  /** The bytes that decided. */
  readonly bytes: Uint8Array
  readonly ms: number
  readonly early?: EarlyDial | undefined
}

const NOT_A_BYTE = { bytes: 0, ms: 0, head: '' }
const AS_POLICY_SAYS: Detection = { protocol: 'opaque', because: 'policy' }

/** Reads until the protocol is certain; meanwhile a server that speaks first is given the chance to. */
const detected = async (
  { connection, facts, spoken, early: asked, onlyHttp }: Inside,
  policy: Policy,
  verdict: Verdict,
  world: World,
  secure: Secure,
): Promise<Seen> => {
  const { stream, destination } = connection
  const { clock, dial } = world
  const known = valueOr(verdict.protocol, 'detect') === 'opaque' ? AS_POLICY_SAYS : spoken
  if (known) return { detection: known, stream, bytes: NOTHING, ms: 0, early: asked }
  let early: (() => EarlyDial | undefined) | undefined
  const seen = await peek(stream, {
    clock,
    timeoutMs: settled(verdict['detect.timeout']),
    maxBytes: settled(verdict['detect.maxBytes']),
    serverSpoke: (spoke) => {
      if (onlyHttp || !dialsEarly(policy, facts) || !isTlsDecided(verdict)) return () => {}
      const tellingDial = announcing(dial, settled(verdict['upstream.proxyProtocol']), connection)
      const dialFor = (identity: string | undefined) =>
        secure(tellingDial, { verdict, policy, name: facts.sni, identity })
      const begin = () =>
        beginEarly(placeOf(verdict, destination), (trying) =>
          reachUpstream(
            { clock, http: world.http, connection, policy, discovery: () => world.discovery },
            { verdict, dialFor, trying },
          ),
        )
      const silence = policy.sections.mesh.certificate === undefined ? SILENCE_MS : MESH_SILENCE_MS
      early = dialWhileSilent(begin, clock, spoke, silence, isByName(world, connection, verdict))
      return early
    },
  })
  return { ...seen, early: early?.() ?? asked }
}

/** Whether HTTP would go to the name it asks for, and not to where the client went. */
const isByName = (world: World, { direction }: Connection, { upstream }: Verdict): boolean =>
  world.discovery !== undefined && direction === 'outbound' && upstream.is === 'decided' && upstream.by.line === 0

/** Whether detection ran out of time and the policy wants such a connection refused. */
const isTooLate = ({ detection }: Seen, verdict: Verdict): boolean =>
  timedOut(detection) && settled(verdict['detect.onTimeout']) === 'deny'

const timedOut = (detection: Seen['detection']): boolean =>
  detection.protocol === 'opaque' && detection.because === 'timeout'

/** What to treat it as: what it is, unless the policy knows better. */
const spokenOf = ({ detection }: Seen, verdict: Verdict): Detection['protocol'] => {
  const said = settled(verdict.protocol)
  if (said !== 'detect') return said
  return timedOut(detection) && settled(verdict['detect.onTimeout']) === 'http1' ? 'http1' : detection.protocol
}

const denies = (verdict: Verdict): boolean => valueOr(verdict.deny, false)

const withDetection = (facts: Facts, detection: Seen['detection']): Facts => {
  const { protocol } = detection
  if (protocol === 'tls') {
    const { sni, alpn, extensions } = detection.hello
    return { ...facts, protocol, sni, alpn, extensions }
  }
  // What TLS around it has told, it has told; without TLS around it, there is nothing of the kind.
  const plain = { sni: null, alpn: null, extensions: null, identity: null, ...facts, protocol }
  return protocol === 'opaque' ? { ...plain, request: null } : plain
}

/** Writes down what detection saw. */
const note = (life: Life, { detection, bytes, ms }: Seen): void => {
  life.protocols.push(detection.protocol)
  if (life.detected === undefined || bytes.length > 0) {
    const head = redactedHead(Buffer.from(bytes.subarray(0, 32)).toString('latin1'))
    life.detected = { bytes: bytes.length, ms: Math.round(ms * 1000) / 1000, head }
  }
  if (detection.protocol === 'opaque') life.reason = detection.because
  if ('request' in detection) {
    life.http = { ...detection.request, target: redactedTarget(detection.request.target) }
  }
  if (detection.protocol === 'tls') {
    life.sni = detection.hello.sni ?? undefined
    life.alpn = detection.hello.alpn ?? undefined
  }
}

const rulesOf = (verdict: Verdict): Life['rules'] => {
  const rules: Record<string, RuleRef> = {}
  for (const [aspect, decision] of Object.entries(verdict) as [AspectName, Verdict[AspectName]][]) {
    // What is built in needs no mention, but for the three questions that everybody asks.
    if (decision.is === 'decided' && (decision.by.line > 0 || ALWAYS_NAMED.has(aspect))) rules[aspect] = decision.by
  }
  return rules
}

const ALWAYS_NAMED: ReadonlySet<AspectName> = new Set(['deny', 'protocol', 'upstream'])

/** What an ending means, in one word. */
export const resultOf = (ended: Ending): Result => {
  switch (ended) {
    case 'denied':
      return 'denied'
    case 'refused':
      return 'refused'
    case 'clientGone':
    case 'connectFailed':
    case 'connectTimeout':
    case 'protocolError':
    case 'tlsFailed':
    case 'internalError':
      return 'failed'
    default:
      return 'forwarded'
  }
}
