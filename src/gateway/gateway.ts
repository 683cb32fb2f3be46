import type { Duplex } from 'node:stream'
import type { ClientHello } from '../codec/clientHello.ts'
import { isHttpProtocol } from '../codec/exposedPort.ts'
import { peek } from '../detect/peek.ts'
import type { Agreed, Inside } from '../forward/insideTls.ts'
import { refuse } from '../forward/refuse.ts'
import type { TlsWorld } from '../forward/tlsWorld.ts'
import type { Address } from '../net/address.ts'
import type { Connection } from '../net/connection.ts'
import { chooseAlpn } from '../net/tls/alpn.ts'
import type { Certificate } from '../net/tls/certificate.ts'
import { mostSpecific, onePerKeyType } from '../net/tls/names.ts'
import { refuseHello } from '../net/tls/terminate.ts'
import type { Traffic } from '../net/traffic.ts'
import type { Policy } from '../policy/policy.ts'
import { recorded, serveInside, type World } from '../proxy.ts'
import type { Life } from '../telemetry/life.ts'
import type { Outcome } from '../telemetry/outcome.ts'
import { exposedPolicy, type Upstream } from './exposedPolicy.ts'
import { type Found, type GatewaySection, type Place, type Target, targetOf } from './exposure.ts'
import { type Guard, guarding } from './guard.ts'
import type { Verifier } from './token.ts'

const HELLO_BYTES_MAX = 16_384 // one TLS record: no library sends a larger hello
const PLAIN = 'This service may only be accessed using TLS, such as through an https:// URL.\n'
const HERE = '127.0.0.1' // Sluice runs beside its workload
const NOWHERE = { host: '0.0.0.0', port: 0 } // where a connection goes that goes nowhere: it is never dialled

/** Serves the connections of the gateway's listener. */
export const createGateway = (
  verifier: () => Verifier,
): ((connection: Connection, world: World) => Promise<Outcome>) => {
  const connections = createPlaces(({ connections: most }) => most)
  const requests = createPlaces(({ requests: most }) => most)
  const answer = async (connection: Connection, life: Life, world: World): Promise<Traffic> => {
    const section = () => world.policy().sections.gateway
    const { clock, tls } = world
    const { handshakeTimeout } = section()
    const seen = await peek(connection.stream, { clock, timeoutMs: handshakeTimeout, maxBytes: HELLO_BYTES_MAX })
    const { detection, stream } = seen
    life.protocols.push(detection.protocol)
    if (detection.protocol === 'http1' || detection.protocol === 'http2') return tellPlain(stream)
    if (detection.protocol !== 'tls' || tls === undefined)
      return refuse(stream, 'GATEWAY_NOT_TLS', 'the gateway speaks nothing but TLS')
    const { hello } = detection
    life.sni = hello.sni ?? undefined
    life.alpn = hello.alpn ?? undefined
    const found = targetOf(hello.sni, section())
    if (found.is === 'nothing') return inTls(stream, hello, found, connection, life, world, tls)
    const { task, port } = found.target
    life.exposed = { task, port: port.port }
    if (!connections.enter(found.target))
      return refuse(stream, 'LIMIT_PORT_CONNECTIONS', `port ${port.port} of ${task} has as many as it may`)
    try {
      return await inTls(stream, hello, found, connection, life, world, tls)
    } finally {
      connections.leave(found.target)
    }
  }

  const inTls = async (
    stream: Duplex,
    hello: ClientHello,
    found: Found,
    connection: Connection,
    life: Life,
    world: World,
    tls: TlsWorld,
  ): Promise<Traffic> => {
    const section = () => world.policy().sections.gateway
    const port = found.is === 'port' ? found.target.port : undefined
    const certificates = certificatesFor(hello.sni, section(), tls)
    if (certificates.length === 0) {
      const message = 'no certificate of the gateway is loaded; sluice certs says why'
      return failed(refuseHello(stream, 'TLS_NOT_LOADED', 'internal_error', message))
    }
    const wanted = port?.protocol === undefined ? ['h2', 'http/1.1'] : [port.protocol]
    const choice = chooseAlpn(hello.alpn, wanted, hello.alpn !== null && hello.alpn.length > 0)
    if (choice.is === 'refused')
      return failed(refuseHello(stream, 'TLS_NO_APPLICATION_PROTOCOL', 'no_application_protocol', choice.message))
    const alpn = choice.is === 'agreed' ? choice.protocol : null
    const secured = await tls.terminator.terminate(stream, { certificates, minVersion: 'TLSv1.2', alpn })
    if (secured.failed) return failed(secured)
    const { version, cipher, resumed } = secured
    life.tls = { version, cipher, resumed, ...(alpn !== null && { alpn }) }
    const serverName = hello.sni?.toLowerCase().replace(/\.$/, '') ?? null
    const guard: Guard = {
      section,
      found: () => targetOf(hello.sni, section()),
      verifier,
      clock: world.clock,
      life,
      serverName,
      enter: requests.enter,
      leave: requests.leave,
    }
    const spoken = spokenBy(alpn, port?.protocol)
    const dice = world.random()
    const destination = found.is === 'port' ? destinationOf(found.target, dice) : NOWHERE
    const inside: Inside = {
      connection: { ...connection, destination, stream: secured.stream },
      facts: { ...factsOf(connection, hello), destination },
      ...(spoken && { spoken }),
      around: guarding(guard),
      statuses: UNREACHABLE,
      mayPass: () => isSamePort(targetOf(hello.sni, section()), found),
      onlyHttp: port === undefined || !port.isPublic,
    }
    const protocol = port?.protocol === 'h2' ? 'http2' : 'http1'
    const exposed = (policy: Policy): Policy => {
      if (found.is === 'nothing') return exposedPolicy(policy, protocol)
      const now = targetOf(hello.sni, section())
      return exposedPolicy(
        policy,
        protocol,
        upstreamOf(now.is === 'port' ? now.target : found.target, dice, destination),
      )
    }
    const exposedNow = remembering(exposed) // asked several times for each request
    return serveInside(inside, life, {
      ...world,
      policy: () => exposedNow(world.policy()),
      candidate: () => {
        const candidate = world.candidate?.()
        return candidate && exposed(candidate)
      },
      get discovery() {
        return world.discovery // a reload may bring one while the connection is open
      },
    })
  }

  return (connection, world) => recorded(connection, world, (life, watched) => answer(watched, life, world))
}

const factsOf = ({ direction, peer }: Connection, { sni, alpn, extensions }: ClientHello) => ({
  direction,
  peer,
  sni,
  alpn,
  extensions,
  identity: null,
})

/** What was agreed on needs no looking. A label that is not HTTP is believed; without one, what is inside is found out. */
const spokenBy = (alpn: string | null, protocol: string | undefined): Agreed | undefined => {
  if (alpn === 'h2') return { protocol: 'http2' }
  if (alpn === 'http/1.1') return { protocol: 'http1' }
  return alpn !== null || !isHttpProtocol(protocol) ? { protocol: 'opaque', because: 'alpn' } : undefined
}

/** The same, which asks again only for another policy than the last. */
const remembering = (make: (policy: Policy) => Policy): ((policy: Policy) => Policy) => {
  let last: readonly [from: Policy, made: Policy] | undefined
  return (policy) => {
    if (last?.[0] !== policy) last = [policy, make(policy)]
    return last[1]
  }
}

const placeOf = ({ places }: Target, dice: number): Place => places[Math.floor(dice * places.length)] ?? places[0]

/** Where a connection was going: what rules, the log and the Outcome know it by. A name is there for nothing else. */
const destinationOf = (target: Target, dice: number): Address => {
  const { host, authority } = placeOf(target, dice)
  return { host: authority ?? host ?? HERE, port: target.port.port }
}

/** Where it goes instead of to its destination: to an endpoint of a name, or elsewhere since a reload. */
const upstreamOf = (target: Target, dice: number, then: Address): Upstream | undefined => {
  const { authority: name, host = HERE } = placeOf(target, dice)
  const { port } = target.port
  if (name !== undefined) return { is: 'authority', name, port }
  return host === then.host && port === then.port ? undefined : { is: 'addresses', addresses: [{ host, port }] }
}

const tellPlain = (stream: Duplex): Traffic => {
  const fields = `Content-Type: text/plain; charset=utf-8\r\nContent-Length: ${PLAIN.length}\r\nConnection: close\r\n`
  stream.end(`HTTP/1.1 421 Misdirected Request\r\n${fields}\r\n${PLAIN}`)
  const error = { code: 'GATEWAY_PLAIN_HTTP', message: 'plain HTTP on a port that speaks TLS' }
  return { sent: 0, received: 0, ended: 'refused', error }
}

const failed = ({ code, message }: { readonly code: string; readonly message: string }): Traffic => ({
  sent: 0,
  received: 0,
  ended: 'tlsFailed',
  error: { code, message },
})

const certificatesFor = (
  sni: string | null,
  { certificate: names, domain }: GatewaySection,
  { certificates }: TlsWorld,
): readonly Certificate[] => {
  if (names.length === 0) {
    const found = sni === null ? [] : certificates.forServer(sni)
    return found.length > 0 ? found : certificates.forServer(`x.${domain}`)
  }
  const loaded = names.flatMap((name) => certificates.certificate(name) ?? [])
  const covering = sni === null ? [] : mostSpecific(loaded, sni)
  return covering.length > 0 ? covering : onePerKeyType(loaded)
}

/** Counts what is under way to each port. */
const createPlaces = (most: (settings: Target['settings']) => number) => {
  const taken = new Map<string, number>()
  const keyOf = ({ task, port }: Target) => `${port.port} ${task}`
  return {
    enter: (target: Target): boolean => {
      const count = taken.get(keyOf(target)) ?? 0
      if (count >= most(target.settings)) return false
      taken.set(keyOf(target), count + 1)
      return true
    },
    leave: (target: Target): void => {
      const count = taken.get(keyOf(target)) ?? 0
      if (count <= 1) taken.delete(keyOf(target))
      else taken.set(keyOf(target), count - 1)
    },
  }
}

/** A task that is not there will be back: 503, as the gateways say that clients know, where a proxy says 502 and 504. */
const UNREACHABLE = { connectFailed: 503, connectTimeout: 503, failfast: 503, noRoute: 503 } as const

/** Whether bytes are still let through as they were when their connection began. */
const isSamePort = (now: Found, then: Found): boolean =>
  now.is === 'port' &&
  then.is === 'port' &&
  now.target.port.isPublic === then.target.port.isPublic &&
  now.target.port.protocol === then.target.port.protocol
