import { type Test, test } from 'tap'
import { Budgets, createHttpState, Rates } from '../../src/forward/httpState.ts'
import { flushLater } from '../../src/forward/turn.ts'
import { systemClock } from '../../src/net/clock.ts'
import { tellFaults } from '../../src/net/fault.ts'
import { type Front, front } from '../support/front.ts'
import { raw, scripted } from '../support/http.ts'
import { headers, preface, settingsAck } from '../support/http2.ts'

/** Bugs of ours, brought in on purpose: each costs the connection that met it, and nothing else. */

const POLICY = `
defaults: { detect: { serverFirst: never }, upstream: { protocol: http1 } }
rules:
  - { name: counted, when: { path: /counted }, then: { http: { rateLimit: { requests: 1000, per: 1s } } } }
  - { name: repeated, when: { path: /repeated }, then: { http: { retry: { attempts: 1, on: [503] } } } }`

/** Sluice with two bugs: it counts no requests of `/counted`, and no repetitions of `/repeated`. */
const faulty = async (t: Test): Promise<{ readonly sluice: Front; readonly told: readonly string[] }> => {
  const server = await scripted((request) =>
    request.startsWith('GET /repeated')
      ? 'HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n'
      : 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
  )
  const rates = Object.assign(new Rates(systemClock), {
    take: () => {
      throw new TypeError('a bug in counting')
    },
  })
  const budgets = Object.assign(new Budgets(systemClock), {
    spend: () => {
      throw new TypeError('a bug in repeating')
    },
  })
  const http = createHttpState(systemClock, Math.random, undefined, { rates, budgets })
  const sluice = await front(server.address, POLICY, { http })
  const told: string[] = []
  tellFaults((text) => void told.push(text))
  t.teardown(() => {
    tellFaults(undefined)
    sluice.close()
    server.close()
  })
  return { sluice, told }
}

const get = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`
const asked = (path: string): Buffer => headers(1, [':method: GET', ':scheme: http', `:path: ${path}`, ':authority: a'])

test('a bug that a client meets ends its connection, with a code and the stack, and others never notice', async (t) => {
  const { sluice, told } = await faulty(t)
  const other = await raw(sluice.address)
  other.send(get('/'))
  await other.until(/ok$/)
  for (const bytes of [Buffer.from(get('/counted')), Buffer.concat([preface, settingsAck, asked('/counted')])]) {
    const client = await raw(sluice.address)
    client.socket.write(bytes)
    t.notMatch(await client.rest(), /200/)
  }
  other.send(get('/'))
  await other.until(/ok$/)
  other.socket.destroy()
  t.match(told, [/TypeError: a bug in counting\n +at /, /TypeError: a bug in counting\n +at /])
  t.match(sluice.outcomes, [
    { result: 'failed', ended: 'internalError', error: { code: 'INTERNAL', message: 'a bug in counting' } },
    { result: 'failed', ended: 'internalError', error: { code: 'INTERNAL', message: 'a bug in counting' } },
  ])
})

test('a bug that the answer of an upstream meets is a 500, and the connection of the client goes on', async (t) => {
  const { sluice, told } = await faulty(t)
  const client = await raw(sluice.address)
  client.send(get('/repeated'))
  await client.until(/^HTTP\/1.1 500 [\s\S]*sluice-error: internal\r\n\r\na bug in sluice\n$/)
  client.send(get('/'))
  await client.until(/ok$/)
  client.socket.destroy()
  t.match(told, [/TypeError: a bug in repeating\n +at /])
  t.match(sluice.requests, [
    { status: 500, error: 'internal' },
    { status: 200, error: undefined },
  ])
})

test('who throws when its turn comes to be flushed does not hold up the others', async (t) => {
  const broke = await new Promise((resolve) => {
    let error: unknown
    const flushing = (flush: () => void) => ({ flush, broke: (it: unknown) => void (error = it) })
    flushLater(
      flushing(() => {
        throw new TypeError('a bug in writing')
      }),
    )
    flushLater(flushing(() => setImmediate(() => flushLater(flushing(() => resolve(error))))))
  })
  t.match(broke, { message: 'a bug in writing' })
})
