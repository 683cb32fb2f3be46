import type { Tools } from './command.ts'
import { failureOf } from './failure.ts'
import type { Send } from './send.ts'

const REDIRECTS_MAX = 20 // As the Fetch standard has it.
const WITHOUT_BODY = new Set([101, 103, 204, 205, 304])

/**
 * `fetch` for the code of a module: the Fetch standard's arguments and answer, over the same hops as every command.
 * A failure is a TypeError, as the standard says, whose cause carries our code.
 */
export const createFetch =
  (sendUntil: (signal: AbortSignal) => Send): Tools['fetch'] =>
  async (input, init) => {
    const request = new Request(input, init)
    request.signal.throwIfAborted()
    const send = sendUntil(request.signal)
    const body = request.body === null ? undefined : new Uint8Array(await request.arrayBuffer())
    try {
      const reply = await send({
        method: request.method,
        url: request.url,
        headers: [...request.headers],
        body,
        redirects: request.redirect === 'follow' ? REDIRECTS_MAX : 0,
      })
      if (request.redirect === 'error' && reply.status >= 300 && reply.status < 400)
        throw new TypeError('a redirect was answered, and redirect is "error"')
      const response = new Response(WITHOUT_BODY.has(reply.status) ? null : new Uint8Array(reply.body), {
        status: reply.status,
        statusText: reply.reason,
        // The body is decoded already.
        headers: reply.headers.filter(([name]) => name !== 'content-encoding' && name !== 'content-length') as [
          string,
          string,
        ][],
      })
      Object.defineProperty(response, 'url', { value: reply.url })
      Object.defineProperty(response, 'redirected', { value: reply.url !== request.url })
      return response
    } catch (thrown) {
      if (thrown instanceof TypeError) throw thrown
      const cause = failureOf(thrown)
      throw new TypeError(`fetch failed: ${cause.message}`, { cause })
    }
  }
