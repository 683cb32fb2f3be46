import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { join } from 'node:path'
import fc from 'fast-check'
import { type Test, test } from 'tap'
import { pumpListener } from '../../src/accept/pumpListen.ts'
import { loadPark } from '../../src/native/park.ts'
import { loadPump } from '../../src/native/pump.ts'
import { loadShim } from '../../src/native/shim.ts'
import type { Policy } from '../../src/policy/policy.ts'
import { manualClock } from '../support/manualClock.ts'
import { policyOf, worldOf } from '../support/world.ts'

const ROOT = join(import.meta.dirname, '../..')
const ADDON = join(ROOT, 'build/test-parking.node')
execFileSync(join(ROOT, 'scripts/build-native.sh'), [ADDON])
const pump = loadPump(() => assert.fail('these are plain sockets'), ADDON)
const shim = loadShim(ADDON)
assert.ok(pump.is === 'ready' && shim.is === 'ready')

const REST_MS = 3_000
// Time passes in leaps here: a connect must not be over before it was tried.
const POLICY =
  'defaults: { http: { keepAlive: 60s, head: { timeout: 10m } }, limits: { connect: 5m }, upstream: { protocol: http1 } }'

/** A server that says what it was asked. */
const echo = createServer((question, answer) => {
  let body = ''
  question.setEncoding('latin1').on('data', (text: string) => {
    body += text
  })
  question.on('end', () => answer.end(`${question.method} ${question.url} ${question.headers['x-name'] ?? ''} ${body}`))
})
echo.keepAliveTimeout = 0

const front = async (t: Test) => {
  if (!echo.listening) await once(echo.listen(0, '127.0.0.1'), 'listening')
  const clock = manualClock()
  const park = loadPark(clock, ADDON)
  assert.ok(park)
  let parked = 0
  let woken = 0
  let policy: Policy = policyOf(POLICY)
  const world = worldOf(POLICY, {
    clock,
    policy: () => policy,
    park: {
      leave: (stream, guest, forMs) => {
        const hear = guest.woken
        guest.woken = function (...it) {
          guest.woken = hear
          woken += 1
          hear.apply(this, it)
        }
        const isParked = park.leave(stream, guest, forMs)
        if (isParked) parked += 1
        return isParked
      },
      wake: park.wake,
    },
  })
  const { port } = echo.address() as AddressInfo
  const options = { name: 'outbound', direction: 'outbound', maxConnections: 1000 } as const
  const destination = { host: '127.0.0.1', port }
  const open = pumpListener(pump.value, world, shim.value)
  const listening = await open({ ...options, address: { host: '127.0.0.1', port: 0 }, destination })
  t.teardown(() => {
    listening.close()
    for (const life of world.ledger.open) life.close('drained')
    world.http.pool.close()
    world.http.balancers.close()
  })
  return {
    ...{ world, clock, address: listening.address },
    use: (text: string) => {
      policy = policyOf(text)
    },
    counts: () => ({ parked, woken }),
    /** So long that all who may are parked. */
    rest: () => clock.advance(REST_MS + 1),
  }
}

/** A client that sends bytes and reads whole answers. */
const callerOf = async (address: { host: string; port: number }) => {
  const socket: Socket = connect(address.port, address.host)
  await once(socket, 'connect')
  let heard = ''
  let ended = ''
  let tell = () => {}
  const note = (how: string) => {
    ended ||= how
    tell()
  }
  socket.setEncoding('latin1')
  socket.on('data', (text: string) => {
    heard += text
    tell()
  })
  socket.on('end', () => note('end'))
  socket.on('error', (error: NodeJS.ErrnoException) => note(error.code ?? ''))
  const counts = { sent: 0, received: 0 }
  return {
    socket,
    counts,
    send: (text: string) => {
      counts.sent += text.length
      socket.write(text, 'latin1')
    },
    /** The body of the next answer; all have a length. */
    answer: async (): Promise<string> => {
      for (;;) {
        const [head = '', rest] = heard.split(/\r\n\r\n(.*)/s)
        const length = Number(/content-length: (\d+)/i.exec(head)?.[1])
        if (rest !== undefined && rest.length >= length) {
          counts.received += head.length + 4 + length
          heard = rest.slice(length)
          return rest.slice(0, length)
        }
        if (ended !== '') throw new Error(`${ended} instead of an answer`)
        await new Promise<void>((resolve) => {
          tell = resolve
        })
      }
    },
    gone: async (): Promise<string> => {
      while (ended === '') {
        await new Promise<void>((resolve) => {
          tell = resolve
        })
      }
      return ended
    },
  }
}

const until = async (is: () => boolean): Promise<void> => {
  while (!is()) await new Promise((resolve) => setImmediate(resolve))
}

type Step =
  | { readonly is: 'rest' }
  | {
      readonly is: 'ask'
      readonly name: string
      readonly body: string
      readonly cutAt: number
      readonly rests: boolean
    }
  | { readonly is: 'pipeline'; readonly names: readonly string[] }

const name = fc.stringMatching(/^[a-z]{1,9}$/)
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.constant<Step>({ is: 'rest' }),
  fc.record({
    is: fc.constant('ask' as const),
    name,
    body: fc.string({ unit: 'binary-ascii', maxLength: 40 }),
    cutAt: fc.nat(120),
    rests: fc.boolean(),
  }),
  fc.record({ is: fc.constant('pipeline' as const), names: fc.array(name, { minLength: 1, maxLength: 4 }) }),
)

const get = (asked: string): string => `GET /${asked} HTTP/1.1\r\nHost: a.example\r\nX-Name: ${asked}\r\n\r\n`

test('whatever pauses a client of HTTP/1 makes, parked or not, it gets the same answers and the same counts', async (t) => {
  const sluice = await front(t)
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 8 }), async (steps) => {
      const client = await callerOf(sluice.address)
      // Until it has said something it is not known to speak HTTP.
      for (const it of [{ is: 'pipeline', names: ['first'] } as const, ...steps]) {
        if (it.is === 'rest') sluice.rest()
        else if (it.is === 'pipeline') {
          client.send(it.names.map(get).join(''))
          for (const asked of it.names) t.equal(await client.answer(), `GET /${asked} ${asked} `)
        } else {
          const head = `POST /${it.name} HTTP/1.1\r\nHost: a.example\r\nContent-Length: ${it.body.length}\r\n\r\n`
          const whole = head + it.body
          const cutAt = Math.min(it.cutAt, whole.length)
          const before = client.counts.sent
          client.send(whole.slice(0, cutAt))
          // In the middle of a request nobody is parked; but what has not come yet does not count.
          const known = () => [...sluice.world.ledger.open].at(-1)?.count.sent ?? 0
          if (it.rests && cutAt > 0) {
            await until(() => known() === before + cutAt)
            sluice.rest()
          }
          client.send(whole.slice(cutAt))
          t.equal(await client.answer(), `POST /${it.name}  ${it.body}`)
        }
      }
      const { outcomes } = sluice.world
      outcomes.length = 0
      client.socket.end()
      await until(() => outcomes.length === 1)
      t.match(outcomes[0], { ended: 'closed', result: 'forwarded', bytes: client.counts })
    }),
    { numRuns: 60 },
  )
  const { parked, woken } = sluice.counts()
  t.ok(parked > 0, 'some of them were parked')
  t.equal(parked, woken, 'and each was woken once')
})

const talk = async (session: ClientHttp2Session, asked: string, fields: Readonly<Record<string, string>>) => {
  const stream = session.request({ ':path': `/${asked}`, 'x-name': asked, ...fields })
  let said = ''
  stream.setEncoding('latin1').on('data', (text: string) => {
    said += text
  })
  await once(stream, 'close')
  return said
}

test('whatever pauses a client of HTTP/2 makes, both sides still know the same fields', async (t) => {
  const sluice = await front(t)
  const said = fc.record({
    names: fc.array(name, { minLength: 1, maxLength: 4 }),
    rests: fc.boolean(),
    pings: fc.boolean(),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(said, { minLength: 1, maxLength: 6 }), async (turns) => {
      const session = connectHttp2(`http://127.0.0.1:${sluice.address.port}`)
      t.equal(await talk(session, 'first', {}), 'GET /first first ')
      for (const { names, rests, pings } of turns) {
        // Twice: it is looked for those that rest when the one before may have been awake still.
        if (rests) sluice.rest()
        if (rests) sluice.rest()
        if (pings) await new Promise((resolve) => session.ping(resolve))
        const fields = { 'x-first': names[0]!, 'x-last': names.at(-1)! }
        const answers = await Promise.all(names.map((asked) => talk(session, asked, fields)))
        t.same(
          answers,
          names.map((asked) => `GET /${asked} ${asked} `),
        )
      }
      const { outcomes } = sluice.world
      outcomes.length = 0
      session.close()
      await until(() => outcomes.length === 1)
      t.match(outcomes[0], { ended: 'closed', result: 'forwarded' })
    }),
    { numRuns: 30 },
  )
  const { parked, woken } = sluice.counts()
  t.ok(parked > 0, 'some of them were parked')
  t.equal(parked, woken, 'and each was woken once')
})

/** How a connection that waits may end, and what the client sees of it. */
const ENDINGS: readonly {
  readonly name: string
  readonly act: (sluice: Awaited<ReturnType<typeof front>>, client: Awaited<ReturnType<typeof callerOf>>) => void
  readonly sees: string
}[] = [
  { name: 'the client says goodbye', act: (_, { socket }) => void socket.end(), sees: 'end' },
  { name: 'the client resets it', act: (_, { socket }) => void socket.resetAndDestroy(), sees: '' },
  { name: 'its time is over', act: () => {}, sees: 'end' },
  { name: 'the process drains', act: ({ world }) => void world.ledger.drain(1_000), sees: 'end' },
  {
    name: 'the policy denies it',
    act: ({ use, world }) => {
      use('rules: [{ name: no, then: { deny: true } }]')
      world.ledger.recheck()
    },
    sees: 'ECONNRESET',
  },
  {
    name: 'it is closed from outside',
    act: ({ world }) => {
      for (const life of world.ledger.open) life.close('drained')
    },
    sees: 'end',
  },
]

for (const { name, act, sees } of ENDINGS) {
  test(`when ${name}, a parked connection ends as any other`, async (t) => {
    const ended: unknown[] = []
    for (const isParked of [false, true]) {
      const sluice = await front(t)
      const client = await callerOf(sluice.address)
      client.send(get('a'))
      t.equal(await client.answer(), 'GET /a a ')
      if (isParked) sluice.rest()
      t.equal(sluice.counts().parked, Number(isParked))
      act(sluice, client)
      const { outcomes } = sluice.world
      for (let turns = 0; outcomes.length === 0; turns += 1) {
        await new Promise((resolve) => setImmediate(resolve))
        // Time passes in steps that leave room for what each of them brings about.
        if (turns % 20 === 0) sluice.clock.advance(500)
      }
      if (sees !== '') t.equal(await client.gone(), sees)
      client.socket.destroy()
      const { ended: how, result, bytes, error } = outcomes[0]!
      ended.push({ how, result, bytes, error })
    }
    t.same(ended[1], ended[0])
  })
}

for (const { name, act } of ENDINGS) {
  test(`when ${name}, a parked connection of HTTP/2 ends as any other`, async (t) => {
    const ended: unknown[] = []
    for (const isParked of [false, true]) {
      const sluice = await front(t)
      const socket = connect(sluice.address.port, sluice.address.host)
      socket.on('error', () => {})
      const session = connectHttp2('http://127.0.0.1', { createConnection: () => socket })
      session.on('error', () => {})
      const told: string[] = []
      session.on('goaway', (code) => told.push(`GOAWAY ${code}`))
      t.equal(await talk(session, 'a', {}), 'GET /a a ')
      if (isParked) sluice.rest()
      t.equal(sluice.counts().parked, Number(isParked))
      const gone = once(session, 'close')
      if (name === 'the client says goodbye') session.close()
      else act(sluice, { socket } as unknown as Awaited<ReturnType<typeof callerOf>>)
      const { outcomes } = sluice.world
      for (let turns = 0; outcomes.length === 0; turns += 1) {
        await new Promise((resolve) => setImmediate(resolve))
        if (turns % 20 === 0) sluice.clock.advance(500)
      }
      await gone
      const { ended: how, result, bytes, error } = outcomes[0]!
      ended.push({ how, result, bytes, error, told })
    }
    t.same(ended[1], ended[0])
  })
}

test('many that end in one moment are all heard, and their descriptors are closed', async (t) => {
  const sluice = await front(t)
  const clients = []
  for (let i = 0; i < 300; i += 1) {
    const client = await callerOf(sluice.address)
    client.send(get(`n${i}`))
    await client.answer()
    clients.push(client)
  }
  sluice.rest()
  t.equal(sluice.counts().parked, 300)
  t.equal(sluice.world.ledger.open.size, 300, 'parked ones are open')
  for (const { socket } of clients) socket.destroy()
  await until(() => sluice.world.ledger.open.size === 0)
  t.equal(sluice.counts().woken, 300)
  t.same(new Set(sluice.world.outcomes.map(({ ended }) => ended)), new Set(['closed']))
})

test('the servers of these tests close', (t) => {
  echo.close()
  echo.closeAllConnections()
  t.end()
})
