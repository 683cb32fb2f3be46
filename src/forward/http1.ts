import type { Duplex } from 'node:stream'
import type { Clock } from '../net/clock.ts'
import type { Connection, Dial } from '../net/connection.ts'
import type { Guest } from '../net/park.ts'
import type { ProtocolError } from '../net/protocolError.ts'
import { described } from '../net/relay.ts'
import type { Ending, Traffic } from '../net/traffic.ts'
import { settled } from '../policy/verdict.ts'
import { useEarly } from './earlyDial.ts'
import type { Open, RequestHead } from './exchange.ts'
import { Http1Client } from './http1Client.ts'
import type { Http1ClientLimits, Http1ClientOptions, Upgrading } from './http1ClientOptions.ts'
import { upgradeToHttp2 } from './http2.ts'
import type { Forwarder, Plan } from './plan.ts'
import { Router } from './route.ts'

/** A connection that speaks HTTP/1: each request goes where the policy says. */
export const http1: Forwarder = (stream: Duplex, plan: Plan, dial: Dial): Promise<Traffic> =>
  new Promise((resolve) => new Serving(plan, dial, resolve).begin(stream))

/** What there is of a connection for as long as it lives. Its client is made anew when it comes back from the park. */
class Serving implements Http1ClientOptions, Guest {
  readonly limits: Http1ClientLimits
  readonly clock: Clock
  readonly scheme: 'http' | 'https'
  readonly count: { sent: number; received: number }
  readonly open: Open
  readonly mayRest: boolean
  readonly connection: Connection
  place = 0
  until = 0
  readonly #plan: Plan
  readonly #router: Router
  readonly #done: (traffic: Traffic) => void
  readonly #discardEarly: () => void
  #client: Http1Client | undefined

  constructor(plan: Plan, dial: Dial, done: (traffic: Traffic) => void) {
    const { life, clock } = plan
    const early = useEarly(plan.early, dial, clock)
    this.#plan = plan.early === undefined ? plan : { ...plan, early: undefined }
    this.#router = new Router(this.#plan, dial, early.dial)
    this.connection = plan.connection
    this.#done = done
    this.#discardEarly = early.discard
    this.limits = clientLimits(plan)
    this.clock = clock
    this.scheme = life.tls === undefined ? 'http' : 'https'
    this.count = life.count
    this.open = plan.around?.(this.#router.ask) ?? this.#router.ask
    this.mayRest = plan.park !== undefined
  }

  begin(stream: Duplex) {
    const { life } = this.#plan
    this.#client = new Http1Client(stream, this)
    life.closer = (why) => this.#awake().close(why)
    life.onDrain = () => this.#awake().drain()
    this.#client?.start()
  }

  rest(stream: Duplex, forMs: number): boolean {
    if (this.#plan.park?.leave(stream, this, forMs) !== true) return false
    this.#router.rest()
    this.#client = undefined
    return true
  }

  woken(stream: Duplex, isLate: boolean) {
    this.#client = new Http1Client(stream, this)
    this.#client.start()
    if (isLate) this.#client?.expire()
  }

  #awake(): Http1Client {
    if (this.#client === undefined) this.#plan.park?.wake(this)
    return this.#client!
  }

  chooseUpgrade(asked: readonly string[], head: RequestHead): Upgrading {
    return this.#router.chooseUpgrade(asked, head)
  }

  toHttp2(stream: Duplex, head: RequestHead, settings: Buffer, rest: Buffer) {
    // What is put back into a stream that flows is not told of until more comes.
    stream.pause()
    if (rest.length > 0) stream.unshift(rest)
    upgradeToHttp2(stream, this.#plan, this.#router, { head, settings }, (traffic) => this.#over(traffic))
    stream.resume()
  }

  refused(error: ProtocolError, status: number) {
    this.#router.refused(error, status)
  }

  ended(ended: Ending, error?: Error) {
    this.#over({ ...this.count, ended, ...(error && { error: described(error) }) })
  }

  #over(traffic: Traffic) {
    this.#discardEarly()
    this.#done(traffic)
  }
}

const clientLimits = ({ verdict }: Plan): Http1ClientLimits => ({
  headBytesMax: settled(verdict['http.head.maxBytes']),
  fieldsMax: settled(verdict['http.head.maxFields']),
  headMs: settled(verdict['http.head.timeout']),
  idleMs: settled(verdict['http.keepAlive']),
})
