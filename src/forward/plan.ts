import type { Duplex } from 'node:stream'
import type { Address } from '../net/address.ts'
import type { Clock } from '../net/clock.ts'
import type { Connection, Dial } from '../net/connection.ts'
import type { Discovery } from '../net/endpoint.ts'
import type { Park } from '../net/park.ts'
import type { Relay } from '../net/relay.ts'
import type { Traffic } from '../net/traffic.ts'
import type { Facts, Protocol } from '../policy/facts.ts'
import type { Policy } from '../policy/policy.ts'
import type { Verdict } from '../policy/verdict.ts'
import type { Life } from '../telemetry/life.ts'
import type { Channels } from './channels.ts'
import type { Reached } from './chooseUpstream.ts'
import type { Open } from './exchange.ts'
import type { HttpState } from './httpState.ts'
import type { Cause } from './reply.ts'

/** An upstream that was dialled while the client was silent. */
export interface EarlyDial {
  /** Where that leads, as `placeOf` writes it. */
  readonly place: string
  readonly upstream: Promise<Reached>
  /** Tells which address is dialled, now and whenever it is another. */
  readonly tell: (trying: (to: Address) => void) => void
}

/** Makes a dial one that speaks TLS to the upstream, where the verdict wants that. It rejects with HandshakeError. */
export type Secure = (
  dial: Dial,
  about: {
    readonly verdict: Verdict
    readonly policy: Policy
    /** The name to ask for where the policy names none: of the request, or of the client's own TLS. */
    readonly name?: string | null | undefined
    /** The name that its certificate has to prove as well, where discovery gives one. */
    readonly identity?: string | undefined
    /** What will travel inside, where that is known: the next Sluice is told. */
    readonly protocol?: Protocol
  },
) => Dial

/** All that a forwarder knows of the connection it is given. */
export interface Plan {
  readonly connection: Connection
  /** What is known of it, and what the policy made of that. */
  readonly facts: Facts
  readonly verdict: Verdict
  /** The policy of when the connection came; for HTTP without the rules that the connection's facts exclude. */
  readonly policy: Policy
  /** The whole policy of now: requests follow a reload, on connections that were there before it. */
  readonly policyNow: () => Policy
  /** The policy beside it, where there is one: what it would change is told. */
  readonly candidate?: (() => Policy | undefined) | undefined
  /** Whether an address is one of our own listeners. */
  readonly isOwn: (address: Address) => boolean
  /** Names to endpoints, where there are sources for them: a reload may bring others. */
  readonly discovery?: (() => Discovery | undefined) | undefined
  /** Ways to apps that cannot be dialled; absent where none are enabled. */
  readonly channels?: Channels | undefined
  /** What the HTTP connections of this process share. */
  readonly http: HttpState
  readonly life: Life
  readonly clock: Clock
  readonly random: () => number
  readonly relay: Relay
  /** Where idle connections wait without a socket; absent, as in a replay: they keep theirs. */
  readonly park?: Park | undefined
  readonly secure: Secure
  readonly early?: EarlyDial | undefined
  /** What stands in front of every request, where something does: it opens it, or answers itself. */
  readonly around?: ((open: Open) => Open) | undefined
  /** Statuses of self-made answers, where they are others than everywhere. */
  readonly statuses?: Partial<Record<Cause, number>> | undefined
}

/** Carries one connection from here to its end. Rejects only for our own bugs; what the network does is in the Traffic. */
export type Forwarder = (stream: Duplex, plan: Plan, dial: Dial) => Promise<Traffic>
