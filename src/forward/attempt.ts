import type { Answer, Fields, ResponseHead, Upstream, Why } from './exchange.ts'
import type { HttpExchange } from './httpExchange.ts'

/** One try of an exchange: what an upstream says of it counts for as long as it is the one that is waited for. */
export class Attempt implements Answer {
  readonly #exchange: HttpExchange
  isOver = false

  constructor(exchange: HttpExchange) {
    this.#exchange = exchange
  }

  ready(upstream: Upstream) {
    this.#exchange.ready(this, upstream)
  }

  failed(error: Error) {
    if (this.isOver) return
    this.isOver = true
    this.#exchange.failed(error)
  }

  information(head: ResponseHead) {
    if (!this.isOver) this.#exchange.informed(head)
  }

  head(head: ResponseHead, last: boolean) {
    if (this.isOver) return
    this.#exchange.answered(head, last)
  }

  data(chunk: Buffer, last: boolean) {
    if (this.isOver) return
    this.#exchange.took(chunk, last)
  }

  trailers(fields: Fields) {
    if (this.isOver) return
    this.#exchange.ended(fields)
  }

  abort(code: number, why?: Why) {
    if (this.isOver) return
    this.isOver = true
    this.#exchange.broke(code, why)
  }

  consumed(bytes: number) {
    if (!this.isOver) this.#exchange.released(bytes)
  }
}
