import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { type Test, test } from 'tap'
import { receive } from '../../src/codec/http2.ts'
import { FLAG, FRAME } from '../../src/codec/http2Codes.ts'
import type { World } from '../../src/proxy.ts'
import { type Front, front } from '../support/front.ts'
import { ask, raw, type Scripted, scripted } from '../support/http.ts'
import { frame, headers, preface, record, settingsAck, uint32 } from '../support/http2.ts'
import { manualClock } from '../support/manualClock.ts'
import { upstream } from '../support/peers.ts'

/** Sentences about HTTP that hold only if a line does which nothing else would miss: each was once taken out to see. */

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const get = (target: string, more = ''): string => `GET ${target} HTTP/1.1\r\nHost: a\r\n${more}\r\n`

const before = async (
  t: Test,
  answer: Parameters<typeof scripted>[0] = OK,
  policy = 'defaults: { detect: { serverFirst: never }, protocol: http1 }',
  changes: Partial<World> = {},
): Promise<{ readonly sluice: Front; readonly server: Scripted }> => {
  const server = await scripted(answer)
  const sluice = await front(server.address, policy, changes)
  t.teardown(() => {
    sluice.close()
    server.close()
  })
  return { sluice, server }
}

/** Until the other side has said goodbye, or has gone. */
const left = async (socket: Socket): Promise<void> => {
  if (!socket.destroyed && !socket.readableEnded) await Promise.race([once(socket, 'end'), once(socket, 'close')])
}

test('Connection takes neither Host nor Content-Length away, and Trailer passes only with chunks', async (t) => {
  const { sluice, server } = await before(t)
  const sent = 'Host: a\r\nConnection: host, content-length, b\r\nTrailer: x\r\nContent-Length: 2\r\nB: c\r\n\r\nhi'
  t.match(await ask(sluice.address, `POST / HTTP/1.1\r\n${sent}`), /^HTTP\/1.1 200 /)
  t.match(server.received[0], /^POST \/ HTTP\/1.1\r\nHost: a\r\nContent-Length: 2\r\nsluice-hop: \w+\r\n\r\nhi$/)
})

test('HTTP/1.0 without Host never goes out on a connection that others have used', async (t) => {
  const { sluice, server } = await before(t)
  for (const request of [get('/'), 'GET / HTTP/1.0\r\n\r\n', 'GET / HTTP/1.0\r\n\r\n', get('/')])
    t.match(await ask(sluice.address, request), /200 OK/)
  t.equal(server.connections.length, 3)
  t.match(server.received[0], /^GET \/ HTTP\/1.1[\s\S]*GET \/ HTTP\/1.1/)
})

test('a POST without a body is not sent again on the loss of a kept connection, but for the policy', async (t) => {
  const { sluice, server } = await before(t, (_, socket, nth) => (nth === 1 ? void socket.destroy() : OK))
  const client = await raw(sluice.address)
  client.send(get('/1'))
  await client.until(/ok$/)
  client.send('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n')
  await client.until(/^HTTP\/1.1 502 [\s\S]*answered\n$/)
  t.equal(server.received.join('').split('POST').length, 2)
  client.socket.destroy()
})

test('what is sent again goes out on a fresh connection, for other kept ones may be closing too', async (t) => {
  const waiting: Socket[] = []
  const { sluice, server } = await before(t, (request, socket) => {
    if (request.startsWith('GET /together')) {
      if (waiting.push(socket) === 2) for (const each of waiting) each.write(OK)
      return undefined
    }
    if (!waiting.includes(socket)) return OK
    // The one that was asked first, so that its request is sent again while the other still looks fit.
    for (const each of [socket, ...waiting]) each.removeAllListeners('data').destroy()
    return undefined
  })
  const [one, two] = [await raw(sluice.address), await raw(sluice.address)]
  for (const each of [one, two]) each.send(get('/together'))
  for (const each of [one, two]) await each.until(/ok$/)
  one.send(get('/'))
  t.match(await one.until(/ok$/), /^HTTP\/1.1 200 OK/)
  t.equal(server.connections.length, 3)
  for (const each of [one, two]) each.socket.destroy()
})

test('an unused connection to an upstream is closed after pool.idle', async (t) => {
  const clock = manualClock()
  const { sluice, server } = await before(t, OK, undefined, { clock })
  await ask(sluice.address, get('/'))
  const [socket] = server.connections
  clock.advance(2_900)
  t.equal(sluice.world.http.pool.holds.idle, 1)
  clock.advance(600)
  t.equal(sluice.world.http.pool.holds.idle, 0)
  await left(socket!)
})

test('the head of a later request has its time too', async (t) => {
  const { sluice } = await before(
    t,
    OK,
    'defaults: { detect: { serverFirst: never }, protocol: http1, http: { head: { timeout: 100ms } } }',
  )
  const client = await raw(sluice.address)
  client.send(get('/'))
  await client.until(/ok$/)
  client.send('GET / HT')
  t.match(await client.rest(), /^HTTP\/1.1 408 /)
})

test('each client has its own rate, where the rule says so', async (t) => {
  const { sluice } = await before(
    t,
    OK,
    `defaults: { detect: { serverFirst: never }, protocol: http1 }
rules: [{ name: few, when: { path: / }, then: { http: { rateLimit: { requests: 1, per: 1h, for: client } } } }]`,
  )
  const from = (localAddress: string): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect({ ...sluice.address, localAddress })
      let got = ''
      socket.on('data', (bytes: Buffer) => {
        got += bytes.toString('latin1')
        if (!/\r\n\r\n\w/.test(got)) return
        socket.destroy()
        resolve(got.slice(9, 12))
      })
      socket.write(get('/'))
    })
  const got = []
  for (const client of ['127.0.0.1', '127.0.0.2', '127.0.0.1', '127.0.0.2']) got.push(await from(client))
  t.same(got, ['200', '200', '429', '429'])
})

test('clients are told which error it was unless the policy says not to', async (t) => {
  const denying = 'rules: [{ name: no, when: { path: / }, then: { deny: true } }]'
  for (const [defaults, want] of [
    ['', true],
    ['http: { informational: false }', false],
  ] as const) {
    const policy = `defaults: { detect: { serverFirst: never }, ${defaults} }\n${denying}`
    const { sluice } = await before(t, OK, policy)
    t.equal((await ask(sluice.address, get('/'))).includes('sluice-error: denied'), want)
  }
})

test('a request that nothing moves on is given up after its idle time', async (t) => {
  const clock = manualClock()
  const policy = 'defaults: { detect: { serverFirst: never }, protocol: http1, http: { idleTimeout: 10s } }'
  const { sluice, server } = await before(t, () => undefined, policy, { clock })
  const client = await raw(sluice.address)
  client.send(get('/'))
  while (server.received.join('') === '') await new Promise((resolve) => setImmediate(resolve))
  clock.advance(9_000)
  t.same(sluice.requests, [])
  clock.advance(3_000)
  await client.until(/^HTTP\/1.1 504 [\s\S]*sluice-error: idleTimeout\r\n[\s\S]*long\n$/)
  client.socket.destroy()
})

test('an answer while a drain is under way says that the connection closes', async (t) => {
  let answer = (_: string): void => {}
  const { sluice, server } = await before(t, (_, socket) => {
    answer = (text) => void socket.write(text)
    return undefined
  })
  const client = await raw(sluice.address)
  client.send(get('/'))
  while (server.received.join('') === '') await new Promise((resolve) => setImmediate(resolve))
  const drained = sluice.world.ledger.drain(10_000)
  answer(OK)
  t.match(await client.rest(), /^HTTP\/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok$/)
  await drained
})

test('a connection whose request was answered early is closed towards the server', async (t) => {
  const server = await upstream((socket) => socket.once('data', () => socket.write(OK)))
  const sluice = await front(server.address, 'defaults: { detect: { serverFirst: never }, protocol: http1 }')
  t.teardown(() => {
    sluice.close()
    server.close()
  })
  const client = await raw(sluice.address)
  client.send('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx')
  await client.until(/ok$/)
  const [socket] = server.connections
  await left(socket!)
  t.equal(sluice.world.http.pool.size, 0)
  client.socket.destroy()
})

test('what a server says beyond its answer, or unasked, is no answer to anybody', async (t) => {
  const stolen = 'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen'
  let say: ((text: string) => void) | undefined
  const answer = (request: string, socket: Socket) => {
    say = (text) => void socket.write(text)
    return request.startsWith('GET /two') ? OK + stolen : OK
  }
  // By a clock that stands still no connection is closed for having been idle.
  const { sluice, server } = await before(t, answer, undefined, { clock: manualClock() })
  const client = await raw(sluice.address)
  for (const path of ['/two', '/', '/']) {
    client.send(get(path))
    t.equal(await client.until(/ok$/), OK)
  }
  const [, socket] = server.connections
  say!(stolen)
  await left(socket!)
  client.send(get('/'))
  t.equal(await client.until(/ok$/), OK)
  t.equal(server.connections.length, 3)
  client.socket.destroy()
})

/** Sluice before a server of HTTP/2 that never answers and keeps what it hears. */
const beforeSilence = async (t: Test): Promise<{ readonly sluice: Front; readonly events: readonly string[] }> => {
  const events: string[] = []
  const server = await upstream((socket) => {
    const peer = record('server', {
      handler: {
        requestRead: ({ id }) => void events.push(`request ${id}`),
        streamReset: ({ id }, code) => void events.push(`reset ${id} ${code}`),
      },
    })
    socket.on('data', (bytes: Buffer) => {
      receive(peer.h2, bytes, 0)
      socket.write(peer.taken())
    })
  })
  const sluice = await front(server.address, 'defaults: { detect: { serverFirst: never } }')
  t.teardown(() => {
    sluice.close()
    server.close()
  })
  return { sluice, events }
}

test('a request that GOAWAY left out is sent again on another connection', async (t) => {
  let nth = 0
  const server = await upstream((socket) => {
    const asked: number[] = []
    const isLeaving = nth++ % 2 === 0
    const peer = record('server', { handler: { requestRead: ({ id }) => void asked.push(id) } })
    socket.on('data', (bytes: Buffer) => {
      receive(peer.h2, bytes, 0)
      const answer = (id: number): Buffer =>
        isLeaving ? frame(FRAME.goaway, 0, 0, uint32(0, 0)) : headers(id, [':status: 200', 'content-length: 0'])
      socket.write(Buffer.concat([peer.taken(), ...asked.splice(0).map(answer)]))
    })
    socket.on('end', () => socket.end())
  })
  const sluice = await front(
    server.address,
    'defaults: { detect: { serverFirst: never }, upstream: { protocol: http2 } }',
  )
  t.teardown(() => {
    sluice.close()
    server.close()
  })
  t.match(await ask(sluice.address, get('/')), /^HTTP\/1.1 200 /)
  t.match(sluice.requests, [{ status: 200, attempts: 2 }])
})

test('the code of a reset by the client reaches the upstream, and one without an error is CANCEL', async (t) => {
  const { sluice, events } = await beforeSilence(t)
  const client = await raw(sluice.address)
  const until = async (what: string): Promise<void> => {
    while (!events.includes(what)) await new Promise((resolve) => setImmediate(resolve))
  }
  client.socket.write(Buffer.concat([preface, settingsAck]))
  const codes = [11, 2, 0]
  for (const [nth, code] of codes.entries()) {
    const id = 2 * nth + 1
    client.socket.write(headers(id))
    await until(`request ${id}`)
    client.socket.write(frame(FRAME.rstStream, 0, id, uint32(code)))
    await until(`reset ${id} ${code === 0 ? 8 : code}`)
  }
  client.socket.destroy()
  t.same(events.length, 2 * codes.length)
})

test('what a client of HTTP/2 sends for a tunnel reaches the server once the tunnel stands, and never before', async (t) => {
  for (const answer of ['HTTP/1.1 200 OK\r\n\r\n', 'HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno']) {
    let onward = (): void => {}
    const { sluice, server } = await before(
      t,
      (_, socket) => {
        onward = () => void socket.write(answer)
        return undefined
      },
      'defaults: { detect: { serverFirst: never }, upstream: { protocol: http1 } }',
    )
    const client = await raw(sluice.address)
    const asked = headers(1, [':method: CONNECT', ':authority: db.example:80'], FLAG.endHeaders)
    const early = frame(FRAME.data, 0, 1, Buffer.from('GET /smuggled HTTP/1.1\r\n\r\n'))
    client.socket.write(Buffer.concat([preface, settingsAck, asked, early]))
    while (server.received.join('') === '') await new Promise((resolve) => setImmediate(resolve))
    t.match(server.received.join(''), /^CONNECT db\.example:80 HTTP\/1.1\r\nhost: db\.example:80\r\n[\s\S]*\r\n\r\n$/)
    t.notMatch(server.received.join(''), /smuggled/)
    onward()
    if (answer.includes('403')) await client.until(/no/)
    else while (!server.received.join('').includes('smuggled')) await new Promise((resolve) => setImmediate(resolve))
    t.equal(server.received.join('').includes('smuggled'), !answer.includes('403'))
    client.socket.destroy()
  }
})

test('the priority field of RFC 9218 passes, and PRIORITY and PRIORITY_UPDATE frames mean nothing', async (t) => {
  const { sluice, server } = await before(
    t,
    OK,
    'defaults: { detect: { serverFirst: never }, upstream: { protocol: http1 } }',
  )
  const client = await raw(sluice.address)
  const asked = headers(1, [':method: GET', ':scheme: http', ':path: /', ':authority: a', 'priority: u=1, i'])
  const update = frame(16, 0, 0, Buffer.concat([uint32(1), Buffer.from('u=7')]))
  const priority = frame(FRAME.priority, 0, 3, Buffer.concat([uint32(1), Buffer.from([7])]))
  client.socket.write(Buffer.concat([preface, settingsAck, update, priority, asked]))
  await client.until(/\x01ok/)
  client.socket.destroy()
  t.match(server.received[0], /\r\npriority: u=1, i\r\n/)
})

test('an extended CONNECT is nothing without its protocol, so that no rule can have it overlooked', async (t) => {
  const policy = 'defaults: { detect: { serverFirst: never }, http: { upgrade: { other: ignore } } }'
  const { sluice, server } = await before(t, OK, policy)
  const client = await raw(sluice.address)
  const asked = [':method: CONNECT', ':protocol: websocket', ':scheme: http', ':path: /', ':authority: a']
  client.socket.write(Buffer.concat([preface, settingsAck, headers(1, asked, FLAG.endHeaders)]))
  await client.until(/Upgrade to websocket is not allowed/)
  client.socket.destroy()
  t.equal(server.connections.length, 0)
  t.match(await ask(sluice.address, get('/', 'Connection: Upgrade\r\nUpgrade: websocket\r\n')), /^HTTP\/1.1 200 /)
})
