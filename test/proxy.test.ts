import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { test } from 'tap'
import { listen } from '../src/accept/listen.ts'
import { ownAddresses } from '../src/accept/ownAddresses.ts'
import { writeProxyHeader } from '../src/codec/proxyHeader.ts'
import type { Address } from '../src/net/address.ts'
import { foresee, type World } from '../src/proxy.ts'
import type { Outcome } from '../src/telemetry/outcome.ts'
import { type Front, front } from './support/front.ts'
import { manualClock } from './support/manualClock.ts'
import { caller, readAll, upstream } from './support/peers.ts'
import { policyOf, worldOf } from './support/world.ts'

const notDialled: Partial<World> = { dial: () => assert.fail('dialled') }

/** The Outcome of the only connection so far. */
const outcomeOf = async ({ outcomes, world }: Front): Promise<Outcome> => {
  if (outcomes.length === 0) await new Promise<void>((resolve) => world.ledger.subscribe(() => resolve()))
  assert.equal(outcomes.length, 1)
  return outcomes[0]!
}

/** The reset may come before the client has even seen its connect succeed. */
const untilReset = (socket: Socket): Promise<string> =>
  new Promise((resolve) => socket.resume().on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? '')))

const call = ({ host, port }: Address): Socket => connect({ host, port, allowHalfOpen: true })

const echo = (socket: Socket) => void socket.pipe(socket)

test('bytes that are nothing we know are forwarded as they are, and the Outcome says why', async () => {
  const back = await upstream(echo)
  const sluice = await front(back.address)
  const client = await caller(sluice.address)
  client.end('\x00\x01 not a protocol')
  assert.equal(await readAll(client), '\x00\x01 not a protocol')
  const outcome = await outcomeOf(sluice)
  assert.equal(outcome.result, 'forwarded')
  assert.equal(outcome.ended, 'closed')
  assert.deepEqual(outcome.protocols, ['opaque'])
  assert.equal(outcome.reason, 'unknown')
  assert.deepEqual(outcome.bytes, { sent: 17, received: 17 })
  assert.deepEqual(outcome.upstream, back.address)
  assert.equal(outcome.rules.deny?.name, 'built-in')
  sluice.close()
  back.close()
})

test('a server that speaks first is heard at once, without a rule', async () => {
  const back = await upstream((socket) => {
    socket.write('220 mail.example ESMTP\r\n')
    echo(socket)
  })
  const sluice = await front(back.address)
  const client = await caller(sluice.address)
  const [greeting] = await once(client, 'data')
  assert.equal(String(greeting), '220 mail.example ESMTP\r\n')
  client.end('QUIT\r\n')
  assert.equal(await readAll(client), 'QUIT\r\n')
  const outcome = await outcomeOf(sluice)
  assert.equal(outcome.reason, 'serverFirst')
  assert.equal(back.connections.length, 1)
  assert.ok((outcome.detected?.ms ?? 9999) < 1000, `${outcome.detected?.ms} ms`)
  sluice.close()
  back.close()
})

const denials = [
  ['before a byte is read', 'rules: [{ name: no, when: { port: [1-65535] }, then: { deny: true } }]', ''],
  ['by what is spoken', 'rules: [{ name: no, when: { protocol: opaque }, then: { deny: true } }]', '\x00\x01\x02\x03'],
] as const

for (const [how, policy, bytes] of denials) {
  test(`a connection that the policy denies ${how} is reset, and nothing is dialled`, async () => {
    const sluice = await front({ host: '127.0.0.1', port: 9 }, policy, notDialled)
    const client = call(sluice.address)
    const reset = untilReset(client)
    if (bytes) client.write(bytes, 'latin1')
    assert.equal(await reset, 'ECONNRESET')
    const outcome = await outcomeOf(sluice)
    assert.equal(outcome.result, 'denied')
    assert.equal(outcome.upstream, undefined)
    assert.deepEqual(outcome.rules.deny, { name: 'no', file: 'test.yaml', line: 2 })
    sluice.close()
  })
}

test('a silent client whose connection a rule may still deny is not dialled for', async () => {
  const clock = manualClock()
  const policy = 'rules: [{ name: no, when: { protocol: opaque }, then: { deny: true } }]'
  const sluice = await front({ host: '127.0.0.1', port: 9 }, policy, { ...notDialled, clock })
  const client = call(sluice.address)
  while (sluice.world.ledger.open.size === 0) await new Promise(setImmediate)
  clock.advance(5000)
  assert.equal(await untilReset(client), 'ECONNRESET')
  assert.equal((await outcomeOf(sluice)).reason, 'timeout')
  sluice.close()
})

test('a connection to one of our own listeners is refused as a loop, and nothing is dialled', async () => {
  const world = worldOf('', notDialled)
  const own: Address[] = []
  const looping = { ...world, isOwn: ownAddresses(() => own, world.clock.now) }
  const options = { name: 'test', direction: 'outbound', maxConnections: 10 } as const
  const target = { host: '127.0.0.1', port: 4140 }
  const listening = await listen(
    { ...options, address: { host: '127.0.0.1', port: 0 }, destination: target },
    looping,
    undefined,
  )
  own.push(target)
  const client = call(listening.address)
  assert.equal(await untilReset(client), 'ECONNRESET')
  assert.equal(world.outcomes[0]?.result, 'refused')
  assert.equal(world.outcomes[0]?.error?.code, 'LOOP')
  listening.close()
})

test('a connection that was not redirected is refused unless the listener has a fixed destination', async () => {
  const sluice = await front({ host: '127.0.0.1', port: 9 }, '', notDialled, { destination: undefined as never })
  const client = call(sluice.address)
  assert.equal(await untilReset(client), 'ECONNRESET')
  assert.equal((await outcomeOf(sluice)).error?.code, 'NO_ORIGINAL_DESTINATION')
  sluice.close()
})

test('one connection more than the limit is refused, and the others never notice', async () => {
  const back = await upstream(echo)
  const sluice = await front(back.address, '', {}, { maxConnections: 1 })
  const first = await caller(sluice.address)
  first.write('\x00first')
  await once(first, 'data')
  const second = call(sluice.address)
  assert.equal(await untilReset(second), 'ECONNRESET')
  assert.equal((await outcomeOf(sluice)).error?.code, 'LIMIT_CONNECTIONS')
  first.end(' still here')
  assert.equal(await readAll(first), ' still here')
  sluice.close()
  back.close()
})

test('a client that resets before anything is decided is gone, and nothing is dialled for it', async () => {
  const sluice = await front(
    { host: '127.0.0.1', port: 9 },
    'rules: [{ name: quiet, then: { detect: { serverFirst: never } } }]',
    notDialled,
  )
  const client = await caller(sluice.address)
  client.write('GET ')
  while (sluice.world.ledger.open.size === 0) await new Promise(setImmediate)
  client.resetAndDestroy()
  assert.equal((await outcomeOf(sluice)).ended, 'clientGone')
  sluice.close()
})

test('an upstream that refuses is passed on as a reset', async () => {
  const back = await upstream(echo)
  back.close()
  const sluice = await front(back.address)
  const client = call(sluice.address)
  client.write('\x00\x00\x00\x00')
  assert.equal(await untilReset(client), 'ECONNRESET')
  const outcome = await outcomeOf(sluice)
  assert.equal(outcome.result, 'failed')
  assert.equal(outcome.ended, 'connectFailed')
  assert.equal(outcome.error?.code, 'ECONNREFUSED')
  sluice.close()
})

test('a policy that now denies closes open connections, and leaves the others alone', async () => {
  const back = await upstream(echo)
  let policy = policyOf('')
  const sluice = await front(back.address, '', { policy: () => policy })
  const client = await caller(sluice.address)
  client.write('\x00hello')
  await once(client, 'data')
  sluice.world.ledger.recheck()
  assert.equal(sluice.world.ledger.open.size, 1)
  policy = policyOf('rules: [{ name: no, when: { destination: 127.0.0.0/8 }, then: { deny: true } }]')
  sluice.world.ledger.recheck()
  assert.equal((await outcomeOf(sluice)).ended, 'policyChanged')
  client.destroy()
  sluice.close()
  back.close()
})

test('a drain lets connections end by themselves, and closes them when its time is over', async () => {
  const clock = manualClock()
  const back = await upstream(echo)
  const sluice = await front(back.address, '', { clock })
  const client = await caller(sluice.address)
  client.write('\x00hello')
  await once(client, 'data')
  const drained = sluice.world.ledger.drain(1000)
  clock.advance(999)
  client.write('still served')
  await once(client, 'data')
  clock.advance(1)
  await drained
  assert.equal((await outcomeOf(sluice)).ended, 'drained')
  client.destroy()
  sluice.close()
  back.close()
})

test('a bug in serving one connection is that connection’s end and nobody else’s', async () => {
  const policy = policyOf('')
  let calls = 0
  const sluice = await front({ host: '127.0.0.1', port: 9 }, '', {
    policy: () => {
      calls += 1
      if (calls === 1) throw new Error('a bug')
      return policy
    },
  })
  const client = connect({ ...sluice.address })
  client.on('error', () => {})
  await once(client, 'close')
  const outcome = await outcomeOf(sluice)
  assert.equal(outcome.ended, 'internalError')
  assert.equal(outcome.error?.message, 'a bug')
  sluice.close()
})

test('a PROXY header names the client, and what follows it is served; without a required one nothing is dialled', async () => {
  const back = await upstream(echo)
  const sluice = await front(back.address, '', {}, { proxyProtocol: 'require' })
  const client = await caller(sluice.address)
  client.end('PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n\x00payload')
  assert.equal(await readAll(client), '\x00payload')
  const outcome = await outcomeOf(sluice)
  assert.deepEqual(outcome.peer, { host: '192.0.2.7', port: 4711 })
  assert.deepEqual(outcome.upstream, back.address)
  sluice.close()
  back.close()
  for (const [bytes, code] of [
    ['GET / HTTP/1.1\r\n\r\n', 'PROXY_HEADER_MISSING'],
    ['PROXY TCP4 x y 1 2\r\n', 'PROXY_HEADER_MALFORMED'],
  ] as const) {
    const strict = await front({ host: '127.0.0.1', port: 9 }, '', notDialled, { proxyProtocol: 'require' })
    const stranger = call(strict.address)
    stranger.write(bytes)
    assert.equal(await untilReset(stranger), 'ECONNRESET')
    assert.equal((await outcomeOf(strict)).error?.code, code)
    strict.close()
  }
})

test('an upstream is told who calls by a PROXY header, before the first byte, also when it was dialled early', async () => {
  for (const version of ['v1', 'v2']) {
    for (const isSilent of [false, true]) {
      const back = await upstream(echo)
      const policy = `rules: [{ name: tell, then: { upstream: { proxyProtocol: ${version} } } }]`
      const sluice = await front(back.address, policy)
      const client = await caller(sluice.address)
      const { port = 0 } = client.address() as { port?: number }
      // A silent client is dialled for, and the server must hear the header before it says anything.
      if (isSilent) {
        while (back.connections.length === 0) await new Promise(setImmediate)
      }
      client.end('\x00payload')
      const answer = await readAll(client)
      const header = writeProxyHeader(version as 'v1', { host: '127.0.0.1', port }, back.address).toString('latin1')
      assert.equal(answer, `${header}\x00payload`)
      sluice.close()
      back.close()
    }
  }
})

test('what a rule in dry run would have changed is in the Outcome, and changes nothing', async () => {
  const back = await upstream(echo)
  const rule = '{ name: perhaps, dryRun: true, when: { direction: outbound }, then: { deny: true } }'
  const sluice = await front(back.address, `rules: [${rule}]`)
  const client = await caller(sluice.address)
  client.end('\x00 anything')
  assert.equal(await readAll(client), '\x00 anything')
  const outcome = await outcomeOf(sluice)
  assert.equal(outcome.result, 'forwarded')
  assert.deepEqual(outcome.dryRun, [
    { key: 'deny', value: 'true', was: 'false', rule: { name: 'perhaps', file: 'test.yaml', line: 2 } },
  ])
  sluice.close()
  back.close()
})

test('the pump takes only what is bytes to one address, in the clear', async () => {
  const from = {
    direction: 'outbound',
    peer: { host: '10.0.0.9', port: 40_000 },
    destination: { host: '10.0.0.5', port: 3306 },
  } as const
  const cases: readonly (readonly [then: string, isForeseen: boolean])[] = [
    ['protocol: opaque', true],
    ['protocol: opaque, upstream: { address: "10.0.0.6:3306" }', true],
    ['protocol: opaque, upstream: { tls: true }', false],
    ['protocol: opaque, upstream: { mesh: require }', false],
    ['protocol: opaque, upstream: { mesh: prefer }', false],
    ['protocol: opaque, upstream: { proxyProtocol: v2 }', false],
    ['protocol: opaque, upstream: { address: ["10.0.0.6:3306", "10.0.0.7:3306"] }', false],
    ['protocol: opaque, deny: true', false],
    ['protocol: detect', false],
  ]
  const mesh =
    'certificates: { us: { cert: a.pem, key: a.key } }\ntrust: { all: { ca: a.pem } }\nmesh: { certificate: us, trust: all }\n'
  for (const [then, isForeseen] of cases) {
    const world = worldOf(`${mesh}rules: [{ name: r, when: { direction: outbound }, then: { ${then} } }]`)
    assert.equal(foresee(from, world) !== undefined, isForeseen, then)
  }
})
