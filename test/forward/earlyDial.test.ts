import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect, type Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import { test } from 'tap'
import type { Reached } from '../../src/forward/chooseUpstream.ts'
import { beginEarly, dialWhileSilent, SILENCE_MS } from '../../src/forward/earlyDial.ts'
import { front } from '../support/front.ts'
import { manualClock } from '../support/manualClock.ts'

const turn = () => new Promise((done) => setImmediate(done))

const begun = () => {
  const { promise, resolve, reject } = Promise.withResolvers<Reached>()
  const clock = manualClock()
  let spoken = 0
  const end = dialWhileSilent(
    () => beginEarly('10.0.0.1:80', () => promise),
    clock,
    () => spoken++,
  )
  clock.advance(SILENCE_MS)
  return { resolve, reject, end, spoken: () => spoken }
}

test('a server that refuses while the client is silent has answered', async (t) => {
  const { reject, spoken } = begun()
  reject(new Error('refused'))
  await turn()
  t.equal(spoken(), 1)
})

test('what becomes of the dial when the wait is over is no answer any more', async (t) => {
  const refused = begun()
  t.ok(refused.end())
  refused.reject(new Error('refused'))
  await turn()
  t.equal(refused.spoken(), 0)

  const spoke = begun()
  t.ok(spoke.end())
  const stream = new PassThrough()
  spoke.resolve({ to: { host: '10.0.0.1', port: 80 }, stream })
  await turn()
  stream.write('220 hello\r\n')
  await turn()
  t.equal(spoke.spoken(), 0)
})

test('an early dial that a client upgraded to HTTP/2 has no use for is closed with it', async (t) => {
  const dialled: Socket[] = []
  const server = createServer({ keepAliveTimeout: 0 }, (_, answer) => answer.end('hello')).listen(0, '127.0.0.1')
  server.on('connection', (socket) => dialled.push(socket))
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of dialled) socket.destroy()
    server.close()
  })
  const sluice = await front({ host: '127.0.0.1', port: (server.address() as { port: number }).port })
  t.teardown(sluice.close)
  const call = async () => {
    const client = connect(sluice.address)
    client.on('error', () => {})
    t.teardown(() => client.destroy())
    await once(client, 'connect')
    return client
  }
  const heard = async (client: Socket, words: string): Promise<void> => {
    for (let said = ''; !said.includes(words); ) said += (await once(client, 'data'))[0]
  }
  const first = await call()
  first.write('GET / HTTP/1.1\r\nHost: a.example\r\n\r\n')
  await heard(first, 'hello')
  // The connection that served the first is in the pool, and this one is dialled because the second says nothing.
  const before = dialled.length
  const second = await call()
  if (dialled.length === before) await once(server, 'connection')
  const settings = 'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n'
  second.write(`GET / HTTP/1.1\r\nHost: a.example\r\n${settings}\r\n`)
  await heard(second, '101 Switching Protocols')
  second.destroy()
  const early = dialled.at(-1)!
  if (!early.destroyed) await once(early, 'close')
  t.pass('closed')
})
