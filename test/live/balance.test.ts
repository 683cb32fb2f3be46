import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttp2, type Http2Session, type ServerHttp2Stream } from 'node:http2'
import { type Test, test } from 'tap'
import { keepDiscovery } from '../../src/admin/liveDiscovery.ts'
import { type Address, formatAddress } from '../../src/net/address.ts'
import { systemClock } from '../../src/net/clock.ts'
import { add, type DestinationServer, destinationServer, remove, type Told } from '../support/destinationServer.ts'
import { toldDiscovery } from '../support/discovery.ts'
import { type Front, front } from '../support/front.ts'
import { type Raw, raw, scripted } from '../support/http.ts'
import { fetchHttp2, http2Client, listening } from '../support/http2Proxy.ts'
import { policyOf } from '../support/world.ts'

const NOWHERE = { host: '127.0.0.1', port: 9 }
const saying = (text: string): string => `HTTP/1.1 200 OK\r\nContent-Length: ${text.length}\r\n\r\n${text}`
const HTTP1 = 'protocol: http1, detect: { serverFirst: never }'

/** One who asks without pause, on one connection, until told to stop; what he was answered. */
const asking = async (sluice: Front) => {
  const client = await raw(sluice.address)
  const heard: string[] = []
  let isOver = false
  const done = (async () => {
    while (!isOver) heard.push(await asked(client))
    client.socket.destroy()
  })()
  const until = async (fits: (heard: readonly string[]) => boolean) => {
    while (!fits(heard)) await new Promise(setImmediate)
  }
  return {
    heard,
    until,
    /** As many answers more. */
    more: (n: number) => {
      const from = heard.length
      return until(() => heard.length >= from + n)
    },
    stop: () => {
      isOver = true
      return done
    },
  }
}

const asked = async (client: Raw): Promise<string> => {
  client.send('GET / HTTP/1.1\r\nHost: orders\r\n\r\n')
  const head = await client.until(/\r\n\r\n/)
  const body = await client.until(/^[\s\S]+/)
  return head.startsWith('HTTP/1.1 200 ') ? body : head
}

/** A control plane that tells every stream the same, now and whenever that changes. */
const controlPlane = async (
  t: Test,
  port = 0,
): Promise<DestinationServer & { say(message: object): void; streams: Told[] }> => {
  const streams: Told[] = []
  const said: object[] = []
  const server = await destinationServer(
    {
      get: (told) => {
        streams.push(told)
        for (const message of said) told.write(message)
      },
    },
    'linkerd',
    port,
  )
  t.teardown(server.close)
  return {
    ...server,
    streams,
    say: (message) => {
      said.push(message)
      for (const { write } of streams) write(message)
    },
  }
}

test('the control plane is killed and restarted while a name is called: no request fails, and the new set is used', async (t) => {
  const servers = await Promise.all(['one', 'two', 'three'].map((text) => scripted(saying(text))))
  const [one, two, three] = servers.map(({ address }) => formatAddress(address)) as [string, string, string]
  const first = await controlPlane(t)
  first.say(add(one, two))
  const sections = policyOf(
    `discovery: { sources: [{ destination: { address: "127.0.0.1:${first.port}" } }], search: [farm.] }`,
  ).sections
  const discovery = await keepDiscovery(sections, systemClock, Math.random, { warn: () => {} })
  const sluice = await front(NOWHERE, `defaults: { ${HTTP1}, balance: { algorithm: roundRobin } }`, {
    discovery: discovery.current(),
  })
  t.teardown(() => {
    sluice.close()
    discovery.close()
    for (const server of servers) server.close()
  })
  const client = await asking(sluice)
  await client.until((heard) => heard.includes('one') && heard.includes('two'))

  await first.close()
  const [service] = sluice.world.http.balancers.services
  await client.until(() => service!.resolution?.is === 'endpoints' && service!.resolution.isStale)
  await client.more(50)

  const began = performance.now()
  const second = await controlPlane(t, first.port)
  second.say(add(two, three))
  await client.until((heard) => heard.includes('three'))
  t.comment(`the new set is used ${Math.round(performance.now() - began)} ms after the control plane is back`)
  const from = client.heard.length + 1
  await client.more(50)
  assert.ok(!client.heard.slice(from).includes('one'), 'who is no more in the set')
  second.say(remove(two))
  await client.until((heard) => heard.slice(-20).every((text) => text === 'three'))
  await client.stop()
  assert.ok(
    client.heard.every((text) => /^(one|two|three)$/.test(text)),
    `${client.heard.find((text) => text.length > 5)}`,
  )
  t.comment(`${client.heard.length} requests, none failed`)
})

test('HTTP/2 requests are balanced one by one, also those of one client connection', async (t) => {
  const ports = await Promise.all(
    [1, 2, 3].map(async (n) => {
      const server = createHttp2()
      server.on('stream', (stream: ServerHttp2Stream) => {
        stream.respond({ ':status': 200 })
        stream.end(`${n}`)
      })
      server.on('session', (session) => t.teardown(() => session.destroy()))
      return listening(t, server)
    }),
  )
  const names = toldDiscovery()
  const address = (port: number): Address => ({ host: '127.0.0.1', port })
  names.at('orders:80', ...ports.map(address))
  const sluice = await front(NOWHERE, 'defaults: { balance: { algorithm: roundRobin } }', { discovery: names })
  t.teardown(() => sluice.close())
  const client = http2Client(t, sluice.address.port)
  const bodies: string[] = []
  for (let i = 0; i < 9; i++)
    bodies.push(`${(await fetchHttp2(client, { ':path': '/', ':authority': 'orders' })).body}`)
  assert.deepEqual([...new Set(bodies)].sort(), ['1', '2', '3'])
})

test('a pooled HTTP/2 connection that is old enough takes no new requests, and another one is opened', async (t) => {
  const server = createHttp2()
  const sessions: Http2Session[] = []
  server.on('stream', (stream: ServerHttp2Stream) => {
    stream.respond({ ':status': 200 })
    stream.end('ok')
  })
  server.on('session', (session) => {
    sessions.push(session)
    t.teardown(() => session.destroy())
  })
  const port = await listening(t, server)
  const sluice = await front({ host: '127.0.0.1', port }, 'defaults: { http: { pool: { maxAge: 1s } } }')
  t.teardown(() => sluice.close())
  const client = http2Client(t, sluice.address.port)
  const request = async () =>
    assert.equal(`${(await fetchHttp2(client, { ':path': '/', ':authority': 'orders' })).body}`, 'ok')
  await request()
  await request()
  assert.equal(sessions.length, 1)
  const closed = once(sessions[0]!, 'close')
  while (sessions.length === 1) {
    await request()
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  await closed
  await request()
})
