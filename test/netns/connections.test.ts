import { test } from 'tap'
import type { Outcome } from '../../src/telemetry/outcome.ts'
import { type Family, openLab, type Space } from '../support/netns.ts'

/** What becomes of a connection's bytes and of its end, through the real redirect and a real proxy. */
const lab = await openLab()
const { pod, peer } = lab

const ECHO = 7001
const HALF_CLOSED_CLIENT = 7002 // answers only when the client has said that it is done
const HALF_CLOSED_SERVER = 7003 // is done at once, and listens on
const RESETS = 7004
const NOBODY = 7005
const BLACK_HOLE = 7006
const BULK = 7007

interface Way {
  readonly name: string
  readonly direction: 'inbound' | 'outbound'
  readonly from: Space
  readonly to: Space
  readonly host: string
}

const WAYS: readonly Way[] = ([4, 6] satisfies Family[]).flatMap((family) => [
  { name: `outbound IPv${family}`, direction: 'outbound', from: pod, to: peer, host: peer.addresses[family] },
  { name: `inbound IPv${family}`, direction: 'inbound', from: peer, to: pod, host: pod.addresses[family] },
])

const startServers = (where: Space): Promise<void> =>
  where.evaluate(
    async ({ net, here, crypto }, ports) => {
      here.endings = []
      // Both sides know the bytes of a bulk transfer: this block, over and over. Its length is prime, so that no
      // buffer size divides it and a piece in the wrong place is always noticed.
      const block = crypto
        .createCipheriv('aes-128-ctr', 'sluice sluice 16', Buffer.alloc(16))
        .update(Buffer.alloc(1_000_003))
      const twice = Buffer.concat([block, block])
      here.sendBulk = (socket: import('node:net').Socket, length: number) =>
        new Promise<void>((done) => {
          let sent = 0
          const more = () => {
            while (sent < length) {
              const start = sent % block.length
              const piece = twice.subarray(start, start + Math.min(262_144, length - sent))
              sent += piece.length
              if (!socket.write(piece)) return socket.once('drain', more)
            }
            return socket.end(done)
          }
          more()
        })
      here.checkBulk = (socket: import('node:net').Socket) =>
        new Promise<{ length: number; wrongAt: number }>((settle, reject) => {
          let length = 0
          let wrongAt = -1
          socket.on('data', (bytes: Buffer) => {
            const start = length % block.length
            if (wrongAt < 0 && bytes.compare(twice, start, start + bytes.length) !== 0) wrongAt = length
            length += bytes.length
          })
          socket.on('end', () => settle({ length, wrongAt }))
          socket.on('error', reject)
        })
      const behaviours: Record<number, (socket: import('node:net').Socket) => void> = {
        [ports.ECHO]: (socket) => socket.pipe(socket),
        [ports.HALF_CLOSED_CLIENT]: (socket) => {
          let heard = ''
          socket.on('data', (bytes) => (heard += bytes))
          socket.on('end', () => socket.end(`you said ${heard}`))
        },
        [ports.HALF_CLOSED_SERVER]: (socket) => {
          socket.end('goodbye')
          let heard = ''
          socket.on('data', (bytes) => (heard += bytes))
          socket.on('end', () => here.endings.push(`heard ${heard}`))
        },
        [ports.RESETS]: (socket) => socket.once('data', () => socket.resetAndDestroy()),
        [ports.BULK]: async (socket) => {
          const [checked] = await Promise.all([here.checkBulk(socket), here.sendBulk(socket, ports.LENGTH)])
          here.bulk = checked
        },
      }
      for (const [port, behave] of Object.entries(behaviours)) {
        const server = net.createServer({ allowHalfOpen: true }, (socket) => {
          socket.on('error', (error: NodeJS.ErrnoException) => here.endings.push(error.code))
          behave(socket)
        })
        await new Promise<void>((done) => server.listen({ port: Number(port), host: '::', backlog: 4096 }, done))
      }
    },
    { ECHO, HALF_CLOSED_CLIENT, HALF_CLOSED_SERVER, RESETS, BULK, LENGTH: 2 ** 30 },
  )

interface Call {
  readonly host: string
  readonly port: number
  readonly say: string
  /** What to do after it was said. */
  readonly next: 'end' | 'wait' | 'reset' | 'say more after the end'
}

/** Calls, and tells what came back and how it ended. */
const call = (from: Space, to: Call): Promise<{ heard: string; ended: string }> =>
  from.evaluate(
    ({ net }, { host, port, say, next }) =>
      new Promise<{ heard: string; ended: string }>((settle) => {
        let heard = ''
        let sawEnd = false
        const socket = net.connect({ host, port, allowHalfOpen: true }, () => {
          socket.write(say, () => {
            if (next === 'end') socket.end()
          })
        })
        socket.on('data', (bytes) => {
          heard += bytes
          if (next === 'reset') socket.resetAndDestroy()
        })
        socket.on('end', () => {
          sawEnd = true
          if (next === 'say more after the end') socket.write(' and more')
          if (!socket.writableEnded) socket.end()
        })
        socket.on('error', (error: NodeJS.ErrnoException) => settle({ heard, ended: `${error.code}` }))
        socket.on('close', () => settle({ heard, ended: sawEnd ? 'FIN' : 'we left' }))
      }),
    to,
  )

/** How connections ended at the server's side, once there is one more to tell of. */
const endingsAt = async (where: Space, count: number): Promise<string[]> => {
  const endings = await where.evaluate(
    ({ here }, wanted) =>
      new Promise<string[]>((settle) => {
        const look = () => (here.endings.length >= wanted ? settle(here.endings.splice(0)) : setTimeout(look, 10))
        look()
      }),
    count,
  )
  return endings
}

await Promise.all([pod, peer].map(startServers))
for (const space of [pod, peer]) {
  for (const tool of ['iptables-nft', 'ip6tables-nft']) {
    await space.run([tool, '-A', 'INPUT', '-p', 'tcp', '--dport', `${BLACK_HOLE}`, '-j', 'DROP'])
  }
}
await lab.redirect('apply')
// Longer than the second after which a SYN is sent again: a namespace this young may not know its neighbour yet.
const proxy = await lab.serve('defaults: { limits: { connect: 2s } }\n')

const outcomeAt = async (port: number): Promise<Outcome> => {
  const found = await proxy.outcome((outcome) => outcome.destination.port === port)
  proxy.forget()
  return found
}

test('in each direction and family, bytes come and go and each connection has its one Outcome', async (t) => {
  for (const { name, from, host, direction } of WAYS) {
    t.same(
      await call(from, { host, port: ECHO, say: '\u0001 hello', next: 'end' }),
      { heard: '\u0001 hello', ended: 'FIN' },
      name,
    )
    const { peer: caller, ...outcome } = await proxy.outcome(({ destination }) => destination.port === ECHO)
    const destination = { host, port: ECHO }
    const bytes = { sent: 7, received: 7 }
    t.match(outcome, {
      direction,
      destination,
      upstream: destination,
      result: 'forwarded',
      protocols: ['opaque'],
      bytes,
      ended: 'closed',
    })
    t.ok(Object.values(from.addresses).includes(caller.host), `${name}: the caller is ${caller.host}`)
    t.equal(proxy.outcomes.length, 1, `${name}: the proxy's own connection did not come back to it`)
    proxy.forget()
  }
})

test('a client that is done can still be answered', async (t) => {
  for (const { name, from, host } of WAYS) {
    const port = HALF_CLOSED_CLIENT
    t.same(
      await call(from, { host, port, say: '\u0001', next: 'end' }),
      { heard: 'you said \u0001', ended: 'FIN' },
      name,
    )
    t.equal((await outcomeAt(port)).ended, 'closed')
  }
})

test('a server that is done can still be told', async (t) => {
  for (const { name, from, to, host } of WAYS) {
    const port = HALF_CLOSED_SERVER
    const said = await call(from, { host, port, say: '\u0001', next: 'say more after the end' })
    t.same(said, { heard: 'goodbye', ended: 'FIN' }, name)
    t.same(await endingsAt(to, 1), ['heard \u0001 and more'])
    t.equal((await outcomeAt(port)).ended, 'closed')
  }
})

test('a reset is passed on as a reset, either way', async (t) => {
  for (const { name, from, to, host } of WAYS) {
    t.equal((await call(from, { host, port: RESETS, say: '\u0001', next: 'wait' })).ended, 'ECONNRESET', name)
    t.equal((await outcomeAt(RESETS)).ended, 'upstreamReset')
    await call(from, { host, port: ECHO, say: '\u0001', next: 'reset' })
    t.same(await endingsAt(to, 1), ['ECONNRESET'])
    t.equal((await outcomeAt(ECHO)).ended, 'clientReset')
  }
})

test('an upstream that refuses, or swallows, is named in the Outcome and the client is told at once', async (t) => {
  for (const { name, from, host } of WAYS) {
    t.equal((await call(from, { host, port: NOBODY, say: '\u0001', next: 'wait' })).ended, 'ECONNRESET', name)
    t.match(await outcomeAt(NOBODY), { result: 'failed', ended: 'connectFailed', error: { code: 'ECONNREFUSED' } })
    t.equal((await call(from, { host, port: BLACK_HOLE, say: '\u0001', next: 'wait' })).ended, 'ECONNRESET', name)
    t.match(await outcomeAt(BLACK_HOLE), { result: 'failed', ended: 'connectTimeout' })
  }
  t.equal((await call(pod, { host: '203.0.113.9', port: 7, say: '\u0001', next: 'wait' })).ended, 'ECONNRESET')
  t.equal((await outcomeAt(7)).ended, 'connectTimeout', 'an address that nobody has')
})

test('1 GiB each way at the same time arrives byte for byte', async (t) => {
  const length = 2 ** 30
  const found = await pod.evaluate(
    async ({ net, here }, to) => {
      const socket = net.connect({ ...to, allowHalfOpen: true })
      const [checked] = await Promise.all([here.checkBulk(socket), here.sendBulk(socket, to.length)])
      return checked as { length: number; wrongAt: number }
    },
    { host: peer.addresses[4], port: BULK, length },
  )
  t.same(found, { length, wrongAt: -1 })
  const outcome = await outcomeAt(BULK)
  t.match(outcome, { ended: 'closed', bytes: { sent: length, received: length } })
  t.same(await peer.evaluate(({ here }) => here.bulk, null), { length, wrongAt: -1 })
  t.comment(`2 GiB in ${Math.round(outcome.ms)} ms`)
})

test('2,000 connections are open at once, and each gets its own bytes back', async (t) => {
  for (const { name, from, host } of [WAYS[0]!, WAYS[3]!]) {
    const answers = await from.evaluate(
      async ({ net }, to) => {
        const heard: string[] = []
        const sockets = await Promise.all(
          Array.from({ length: to.count }, async (_, i) => {
            const socket = net.connect(to)
            await new Promise((settle, reject) => {
              socket.on('error', reject)
              socket.once('data', (bytes) => {
                heard[i] = bytes.toString()
                settle(null)
              })
              socket.write(`\u0001 ${i}`)
            })
            return socket
          }),
        )
        // All of them have answered and all are still open.
        const open = sockets.filter(({ readyState }) => readyState === 'open').length
        for (const socket of sockets) socket.end()
        return { open, wrong: heard.filter((each, i) => each !== `\u0001 ${i}`) }
      },
      { host, port: ECHO, count: 2_000 },
    )
    t.same(answers, { open: 2_000, wrong: [] }, name)
    await proxy.outcome(() => proxy.outcomes.length === 2_000)
    t.ok(proxy.outcomes.every(({ ended }) => ended === 'closed'))
    proxy.forget()
  }
})

test('whoever calls the proxy itself is refused, and nothing is dialled', async (t) => {
  const own: readonly (readonly [from: Space, host: string, port: number])[] = [
    [pod, '127.0.0.1', 4140],
    [pod, '::1', 4140],
    [pod, pod.addresses[4], 4143],
    [peer, pod.addresses[4], 4143],
    [peer, pod.addresses[6], 4143],
  ]
  for (const [from, host, port] of own) {
    t.equal((await call(from, { host, port, say: '\u0001', next: 'wait' })).ended, 'ECONNRESET', `${host}:${port}`)
    const outcome = await outcomeAt(port)
    t.equal(outcome.result, 'refused')
    t.match(outcome.error?.code, /^(LOOP|NO_ORIGINAL_DESTINATION)$/)
    t.equal(outcome.upstream, undefined)
  }
})

test('a proxy that the redirect does not spare notices that it calls itself, at the first time', async (t) => {
  await lab.redirect('apply', '--proxy-uid', '4999', '--proxy-gid', '', '--proxy-mark', '')
  for (const { name, from, host } of WAYS.filter(({ direction }) => direction === 'outbound')) {
    t.equal((await call(from, { host, port: ECHO, say: '\u0001', next: 'wait' })).ended, 'ECONNRESET', name)
    await proxy.outcome(({ result }) => result === 'forwarded' || result === 'failed')
    t.same(
      proxy.outcomes.map(({ error }) => error?.code).filter((code) => code === 'LOOP'),
      ['LOOP'],
    )
    t.equal(proxy.outcomes.length, 2, 'the call and its own echo, and no more')
    proxy.forget()
  }
  await lab.redirect('apply')
})

test('the workload that calls its own address meets its inbound side', async (t) => {
  for (const family of [4, 6] satisfies Family[]) {
    const host = pod.addresses[family]
    t.match(await call(pod, { host, port: ECHO, say: '\u0001', next: 'end' }), { heard: '\u0001', ended: 'FIN' })
    t.match(await outcomeAt(ECHO), { direction: 'inbound', destination: { host }, ended: 'closed' })
  }
})

test('it drains and stops with exit code 0', async (t) => {
  const { code, err } = await proxy.stop()
  t.equal(code, 0)
  t.equal(err, '')
  await lab.close()
})
