import { type Test, test } from 'tap'
import { receive } from '../../src/codec/http2.ts'
import { FLAG } from '../../src/codec/http2Codes.ts'
import { front } from '../support/front.ts'
import { ask, raw, scripted } from '../support/http.ts'
import { headers, preface, record, settingsAck } from '../support/http2.ts'
import { type Upstream, upstream } from '../support/peers.ts'

/** What no peer can make us keep: memory, connections, time. */

const get = (target: string): string => `GET ${target} HTTP/1.1\r\nHost: a\r\n\r\n`

/** Until a number has stayed the same for ten looks. */
const settled = async (number: () => number): Promise<number> => {
  let last = number()
  for (let looks = 0; looks < 10; looks++) {
    await new Promise((resolve) => setTimeout(resolve, 30))
    if (number() !== last) looks = 0
    last = number()
  }
  return last
}

test('a client that pipelines requests and reads no answers gets no more of them than fit on the way', async (t) => {
  const body = 'x'.repeat(60_000)
  let served = 0
  const server = await scripted(() => {
    served++
    return `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  })
  const sluice = await front(server.address, 'defaults: { detect: { serverFirst: never } }')
  t.teardown(() => {
    sluice.close()
    server.close()
  })
  const client = await raw(sluice.address)
  client.socket.pause()
  client.socket.end(get('/').repeat(1000))
  const stuck = await settled(() => served)
  t.ok(stuck < 600, `${stuck} were asked for, of which the client had read none`)
  client.socket.resume()
  const answers = (await client.rest()).split('HTTP/1.1 200 OK').length - 1
  t.equal(answers, 1000, 'who reads gets all of them')
  t.equal(served, 1000)
})

test('a client of HTTP/2 that reads nothing is asked for no more, however little each answer is', async (t) => {
  let served = 0
  const server = await scripted(() => {
    served++
    return `HTTP/1.1 204 No Content\r\nETag: "${'x'.repeat(8_000)}"\r\n\r\n`
  })
  const policy = 'defaults: { detect: { serverFirst: never }, upstream: { protocol: http1 } }'
  const sluice = await front(server.address, policy)
  t.teardown(() => {
    sluice.close()
    server.close()
  })
  const client = await raw(sluice.address)
  client.socket.pause()
  client.socket.write(Buffer.concat([preface, settingsAck]))
  let asked = 0
  const asking = setInterval(() => {
    for (; asked < 6_000 && asked < served + 50; asked++) client.socket.write(headers(2 * asked + 1))
  }, 1)
  const stuck = await settled(() => served)
  clearInterval(asking)
  t.ok(stuck < 4_000, `${stuck} were asked for, of which the client had read none`)
  client.socket.destroy()
})

test('what a client sends waits in the client while its server does not read, or does not answer', async (t) => {
  const server = await upstream((socket) => socket.pause())
  const sluice = await front(server.address, 'defaults: { detect: { serverFirst: never } }')
  t.teardown(() => {
    sluice.close()
    server.close()
  })
  const bodies = `POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ${64 * 2 ** 20}\r\n\r\n`
  for (const [first, more] of [
    [bodies, Buffer.alloc(65_536)],
    [get('/'), Buffer.from(get('/').repeat(2_000))],
  ] as const) {
    const client = await raw(sluice.address)
    client.send(first)
    let written = 0
    const write = () => {
      while (written < 60 * 2 ** 20) {
        written += more.length
        if (!client.socket.write(more)) return
      }
    }
    client.socket.on('drain', write)
    write()
    t.ok((await settled(() => written)) < 32 * 2 ** 20, `${written} bytes of ${first.slice(0, 4)}`)
    client.socket.destroy()
  }
})

/** Answers every request of HTTP/1 with interim responses that never end. */
const floodHttp1 = (): Promise<Upstream> =>
  upstream((socket) => {
    const some = `HTTP/1.1 103 Early Hints\r\nLink: </${'y'.repeat(500)}>\r\n\r\n`.repeat(20)
    const more = () => {
      while (!socket.destroyed && socket.write(some));
    }
    socket.once('data', more).on('drain', more)
  })

/** The same for HTTP/2. */
const floodHttp2 = (): Promise<Upstream> =>
  upstream((socket) => {
    const asked: number[] = []
    const peer = record('server', {
      handler: {
        requestRead: ({ id }) => void asked.push(id),
        streamReset: ({ id }) => void asked.splice(asked.indexOf(id), 1),
      },
    })
    const more = () => {
      if (asked.length === 0) return
      const one = headers(asked[0]!, [':status: 103', `link: </${'y'.repeat(500)}>`], FLAG.endHeaders)
      if (socket.write(Buffer.concat(Array(20).fill(one)))) setImmediate(more)
    }
    socket.on('data', (bytes: Buffer) => {
      receive(peer.h2, bytes, 0)
      socket.write(peer.taken())
      more()
    })
    socket.on('drain', more)
  })

for (const [protocol, flood] of [
  ['http1', floodHttp1],
  ['http2', floodHttp2],
] as const)
  test(`interim responses of ${protocol} that never end are a fault of the upstream`, async (t: Test) => {
    const server = await flood()
    const policy = `defaults: { detect: { serverFirst: never }, upstream: { protocol: ${protocol} } }`
    const sluice = await front(server.address, policy)
    t.teardown(() => {
      sluice.close()
      server.close()
    })
    const got = await ask(sluice.address, get('/'))
    t.match(got, /^HTTP\/1.1 103 [\s\S]*HTTP\/1.1 502 [\s\S]*sluice-error: upstreamMalformed/)
    t.ok(got.length < 70_000, `${got.length} bytes of them passed`)
    t.same(
      sluice.requests.map(({ status, error }) => `${status} ${error}`),
      ['502 upstreamMalformed'],
    )
  })
