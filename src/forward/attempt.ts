import type { Use } from '../balance/use.ts'
import { connectFailed } from './choosing.ts'
import type { Answer, Fields, ResponseHead, Upstream, Why } from './exchange.ts'
import { fieldOf } from './fields.ts'
import type { HttpExchange } from './httpExchange.ts'

const INTERNAL_ERROR = 2

/** One try of an exchange: what an upstream says of it counts for as long as it is the one that is waited for. */
export class Attempt implements Answer {
  readonly #exchange: HttpExchange
  isOver = false
  /** The endpoint it was sent to, where that was chosen among several. */
  use: Use | undefined

  constructor(exchange: HttpExchange) {
    this.#exchange = exchange
  }

  ready(upstream: Upstream) {
    this.#exchange.ready(this, upstream)
  }

  failed(error: Error) {
    if (this.isOver) return
    this.isOver = true
    if (this.use !== undefined) connectFailed(this.use, error)
    this.#exchange.failed(error)
  }

  information(head: ResponseHead) {
    if (this.isOver) return
    try {
      this.#exchange.informed(head)
    } catch (error) {
      this.#faulted(error)
    }
  }

  head(head: ResponseHead, last: boolean) {
    if (this.isOver) return
    try {
      if (this.use !== undefined) headRead(this.use, head, last)
      this.#exchange.answered(head, last)
    } catch (error) {
      this.#faulted(error)
    }
  }

  data(chunk: Buffer, last: boolean) {
    if (this.isOver) return
    try {
      if (last) this.use?.released()
      this.#exchange.took(chunk, last)
    } catch (error) {
      this.#faulted(error)
    }
  }

  trailers(fields: Fields) {
    if (this.isOver) return
    try {
      if (this.use !== undefined) trailersRead(this.use, fields)
      this.#exchange.ended(fields)
    } catch (error) {
      this.#faulted(error)
    }
  }

  abort(code: number, why?: Why) {
    if (this.isOver) return
    this.isOver = true
    // What was surely not handled says nothing of how it is handled.
    if (why !== 'unhandled' && why !== 'closedIdle') this.use?.judged(false)
    this.use?.released()
    this.#exchange.broke(code, why)
  }

  /** By a bug of ours; its upstream, which has forgotten this request by now, will be told by whoever catches. */
  #faulted(error: unknown): never {
    this.isOver = true
    this.#exchange.broke(INTERNAL_ERROR, 'fault')
    throw error
  }

  /** Nobody waits for it any more. `isTooSlow`: because it took too long. */
  giveUp(isTooSlow = false) {
    this.isOver = true
    if (isTooSlow) this.use?.judged(false)
    this.use?.released()
  }

  consumed(bytes: number) {
    if (!this.isOver) this.#exchange.released(bytes)
  }
}

/** An answer in gRPC is judged by its status, which may come at its end. */
const headRead = (use: Use, { status, fields }: ResponseHead, last: boolean) => {
  use.answered()
  const grpcStatus = fieldOf(fields, 'grpc-status')
  const isPending = !last && status === 200 && /^application\/grpc/i.test(fieldOf(fields, 'content-type') ?? '')
  if (grpcStatus !== undefined) use.judged(!GRPC_FAILURES.has(grpcStatus))
  else if (!isPending) use.judged(status < 500 || status === 501)
  if (last) use.released()
}

const trailersRead = (use: Use, fields: Fields) => {
  use.judged(!GRPC_FAILURES.has(fieldOf(fields, 'grpc-status') ?? '0'))
  use.released()
}

/** UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS: as linkerd judges. */
const GRPC_FAILURES: ReadonlySet<string> = new Set(['2', '4', '8', '13', '14', '15'])
