import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { Duplex } from 'node:stream'
import t, { type Test } from 'tap'
import { type Peeked, type PeekOptions, peek } from '../../src/detect/peek.ts'
import type { Clock } from '../../src/net/clock.ts'
import { helloBytes } from '../support/clientHello.ts'
import { manualClock } from '../support/manualClock.ts'

const EVENTS = ['readable', 'data', 'end', 'error', 'close'] as const
const listeners = (stream: Duplex): number[] => EVENTS.map((event) => stream.listenerCount(event))

/** A real connection on loopback: the accepted end, and the client's. */
const pair = async (t: Test): Promise<{ accepted: Socket; client: Socket }> => {
  const server = createServer({ allowHalfOpen: true })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  const [accepted] = (await once(server, 'connection')) as [Socket]
  accepted.on('error', () => {})
  client.on('error', () => {})
  t.teardown(() => {
    server.close()
    client.destroy()
    accepted.destroy()
  })
  return { accepted, client }
}

/** A stream of which every push is the test's. */
const scripted = (): Duplex => {
  const stream = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() })
  stream.on('error', () => {})
  return stream
}

const options = (clock: Clock, more: Partial<PeekOptions> = {}): PeekOptions => ({
  timeoutMs: 1_000,
  maxBytes: 16_384,
  clock,
  ...more,
})
const because = ({ detection }: Peeked): string =>
  detection.protocol === 'opaque' ? detection.because : detection.protocol
/** Everything up to the end. Not `for await`, which would destroy the other direction too. */
const buffer = (stream: Duplex): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.on('end', () => resolve(Buffer.concat(chunks))).on('error', reject)
  })
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

const REQUEST = 'GET /prices HTTP/1.1\r\nHost: shop.example\r\n\r\n'

t.test('a request is seen, and every byte of it is read again by whoever comes next', async (t) => {
  const { accepted, client } = await pair(t)
  const before = listeners(accepted)
  const clock = manualClock()
  client.end(REQUEST)
  const peeked = await peek(accepted, options(clock))
  t.match(peeked.detection, { protocol: 'http1', request: { method: 'GET', target: '/prices', version: '1.1' } })
  t.equal(peeked.head, REQUEST.length)
  t.equal(Buffer.from(peeked.bytes).toString(), REQUEST)
  t.equal(peeked.stream, accepted)
  t.same(listeners(accepted), before)
  t.equal(clock.pending(), 0)
  t.equal((await buffer(peeked.stream)).toString(), REQUEST)
})

t.test('a hello that comes byte by byte is put back whole, and what follows it is still in order', async (t) => {
  const clock = manualClock()
  const bytes = Buffer.concat([helloBytes({ sni: 'shop.example', padding: 300 }), Buffer.from('early')])
  const stream = scripted()
  const peeking = peek(stream, options(clock))
  for (const byte of bytes) {
    stream.push(Buffer.from([byte]))
    await turn()
  }
  const { detection, head } = await peeking
  t.match(detection, { protocol: 'tls', hello: { sni: 'shop.example' } })
  t.equal(head, bytes.length - 5)
  stream.push(null)
  t.same(await buffer(stream), bytes)
})

t.test('bytes that were there before are decided at once', async (t) => {
  const clock = manualClock()
  const stream = scripted()
  stream.push(REQUEST)
  const peeking = peek(stream, options(clock))
  t.equal(clock.pending(), 0, 'without a timer')
  t.equal(because(await peeking), 'http1')
  stream.push(null)
  t.equal((await buffer(stream)).toString(), REQUEST)
})

t.test('a silent client is opaque when the time is up, and heard afterwards', async (t) => {
  const { accepted, client } = await pair(t)
  const clock = manualClock()
  const before = listeners(accepted)
  const peeking = peek(accepted, options(clock))
  clock.advance(1_000)
  const peeked = await peeking
  t.equal(because(peeked), 'timeout')
  t.match(peeked, { head: 0, ms: 1_000 })
  t.same(listeners(accepted), before)
  client.end('late')
  t.equal((await buffer(peeked.stream)).toString(), 'late')
})

t.test('an undecided beginning is put back when the time is up', async (t) => {
  const { accepted, client } = await pair(t)
  const clock = manualClock()
  client.write('GET /')
  await once(accepted, 'readable')
  const peeking = peek(accepted, options(clock))
  await turn()
  clock.advance(1_000)
  const peeked = await peeking
  t.equal(because(peeked), 'timeout')
  t.equal(peeked.head, 5)
  client.end('prices')
  t.equal((await buffer(peeked.stream)).toString(), 'GET /prices')
})

t.test('a client that says little and closes loses nothing, however its end arrives', async (t) => {
  const clock = manualClock()
  await t.test('together with its bytes, on a socket', async (t) => {
    const { accepted, client } = await pair(t)
    client.end('GOOD')
    await once(client, 'finish')
    const peeked = await peek(accepted, options(clock))
    t.equal(because(peeked), 'closed')
    t.equal((await buffer(peeked.stream)).toString(), 'GOOD')
    accepted.end('answer')
    t.equal((await buffer(client)).toString(), 'answer', 'the way back is still open')
  })
  await t.test('after its bytes, on a socket', async (t) => {
    const { accepted, client } = await pair(t)
    const peeking = peek(accepted, options(clock))
    client.write('GO')
    while (accepted.bytesRead < 2) await turn()
    client.end('OD')
    const peeked = await peeking
    t.equal(because(peeked), 'closed')
    t.equal((await buffer(peeked.stream)).toString(), 'GOOD')
  })
  for (const waits of [false, true])
    await t.test(`in a scripted stream, ${waits ? 'a turn later' : 'in the same turn'}`, async (t) => {
      const stream = scripted()
      const peeking = peek(stream, options(clock))
      stream.push('GOOD')
      if (waits) await turn()
      stream.push(null)
      const peeked = await peeking
      t.equal(because(peeked), 'closed')
      t.equal((await buffer(peeked.stream)).toString(), 'GOOD')
    })
  await t.test('before anyone looked', async (t) => {
    const stream = scripted()
    stream.push('GOOD')
    stream.push(null)
    const peeked = await peek(stream, options(clock))
    t.equal(because(peeked), 'closed')
    t.equal((await buffer(peeked.stream)).toString(), 'GOOD')
  })
})

t.test('a client that closes without a word is closed, and can still be answered', async (t) => {
  const { accepted, client } = await pair(t)
  const clock = manualClock()
  client.end()
  const peeked = await peek(accepted, options(clock))
  t.equal(because(peeked), 'closed')
  t.equal(peeked.head, 0)
  accepted.end('greeting')
  t.equal((await buffer(client)).toString(), 'greeting')
})

t.test('a client that resets is closed, and the process lives', async (t) => {
  const { accepted, client } = await pair(t)
  const clock = manualClock()
  const before = listeners(accepted)
  client.write('GET /')
  const peeking = peek(accepted, options(clock))
  while (accepted.bytesRead < 5) await turn()
  client.resetAndDestroy()
  const peeked = await peeking
  t.equal(because(peeked), 'closed')
  t.ok(accepted.destroyed)
  t.same(listeners(accepted), before)
  t.equal(clock.pending(), 0)
  t.equal(because(await peek(accepted, options(clock))), 'closed', 'and again, when it is gone already')
})

t.test('the server speaking first decides, and ends the subscription', async (t) => {
  const { accepted, client } = await pair(t)
  const clock = manualClock()
  const subscribers = new Set<() => void>()
  const serverSpoke = (spoke: () => void) => {
    subscribers.add(spoke)
    return () => void subscribers.delete(spoke)
  }
  const peeking = peek(accepted, options(clock, { serverSpoke }))
  for (const spoke of [...subscribers]) spoke()
  t.equal(because(await peeking), 'serverFirst')
  t.equal(subscribers.size, 0)
  client.end('EHLO')
  t.equal((await buffer(accepted)).toString(), 'EHLO')
})

t.test('a server that is heard of after it was decided changes nothing: no byte is there twice', async (t) => {
  const { accepted, client } = await pair(t)
  let late = () => {}
  const serverSpoke = (spoke: () => void) => {
    late = spoke
    return () => {}
  }
  const peeking = peek(accepted, options(manualClock(), { serverSpoke }))
  client.end('GET / HTTP/1.1\r\n\r\n')
  t.equal((await peeking).detection.protocol, 'http1')
  late()
  t.equal((await buffer(accepted)).toString(), 'GET / HTTP/1.1\r\n\r\n')
})

t.test('a signal ends the wait with its reason, and the bytes are back', async (t) => {
  const { accepted, client } = await pair(t)
  const clock = manualClock()
  const before = listeners(accepted)
  const abort = new AbortController()
  client.write('GET /')
  const peeking = peek(accepted, options(clock, { signal: abort.signal }))
  while (accepted.bytesRead < 5) await turn()
  await turn()
  abort.abort(new Error('draining'))
  await t.rejects(peeking, { message: 'draining' })
  t.same(listeners(accepted), before)
  t.equal(clock.pending(), 0)
  client.end()
  t.equal((await buffer(accepted)).toString(), 'GET /')
  await t.rejects(peek(accepted, options(clock, { signal: abort.signal })), { message: 'draining' })
})

t.test('a client that never ends its line is opaque at the limit, and no more is held than the limit', async (t) => {
  const { accepted, client } = await pair(t)
  const clock = manualClock()
  const line = `GET /${'x'.repeat(100_000)}`
  client.end(line)
  const peeked = await peek(accepted, options(clock, { maxBytes: 1_000 }))
  t.equal(because(peeked), 'limit')
  t.ok(peeked.head >= 1_000 && peeked.head <= 65_536, `${peeked.head} bytes`)
  t.equal((await buffer(peeked.stream)).length, line.length)
})

t.test('while nobody reads after a peek, the client is held back', async (t) => {
  const { accepted, client } = await pair(t)
  const clock = manualClock()
  client.write(Buffer.alloc(8_000_000))
  const peeked = await peek(accepted, options(clock))
  t.equal(because(peeked), 'unknown')
  for (let turns = 0; turns < 50; turns++) await turn()
  t.ok(accepted.readableLength <= 2 * 65_536, `${accepted.readableLength} bytes buffered`)
  t.ok(client.writableLength > 0, 'the client still has bytes to send')
})
