import assert from 'node:assert/strict'
import { type Duplex, duplexPair } from 'node:stream'
import fc from 'fast-check'
import { test } from 'tap'
import type { Address } from '../src/net/address.ts'
import { systemClock } from '../src/net/clock.ts'
import type { Connection } from '../src/net/connection.ts'
import { type RelayOptions, relay } from '../src/net/relay.ts'
import { parsePolicy } from '../src/policy/parsePolicy.ts'
import { foresee, serve, type World, writeForeseen } from '../src/proxy.ts'
import { worldOf } from './support/world.ts'

const WHEN = [
  '{}',
  '{ direction: outbound }',
  '{ direction: inbound }',
  '{ port: 3306 }',
  '{ destination: 10.0.0.0/8 }',
  '{ source: 192.0.2.0/24 }',
  '{ protocol: opaque }',
  '{ protocol: [tls, opaque] }',
  '{ protocol: http1 }',
  '{ sni: "*.shop.example" }',
  '{ alpn: h2 }',
  '{ authority: orders }',
  '{ path: /admin/** }',
  '{ identity: "spiffe://farm/**" }',
]

const THEN = [
  '{ protocol: opaque }',
  '{ protocol: detect }',
  '{ protocol: http1 }',
  '{ deny: true }',
  '{ deny: false }',
  '{ upstream: { address: "10.9.9.9:3306" } }',
  '{ upstream: { address: ["10.9.9.8:1", "10.9.9.9:2"] } }',
  '{ upstream: { address: "db.example:3306" } }',
  '{ upstream: { address: original } }',
  '{ upstream: { authority: db } }',
  '{ upstream: { channel: my-app } }',
  '{ upstream: { proxyProtocol: v2 } }',
  '{ upstream: { proxyProtocol: none } }',
  '{ upstream: { tls: true } }',
  '{ upstream: { mesh: never } }',
  '{ limits: { idle: 7s } }',
  '{ limits: { halfClosed: 3s, connect: 2s } }',
  '{ tls: { terminate: true } }',
  '{ http: { timeout: 3s } }',
]

const rule = fc.record({
  facts: fc.constantFrom(...WHEN),
  says: fc.constantFrom(...THEN),
  dryRun: fc.boolean().map((it) => it && 'dryRun: true, '),
})
// Most policies begin with what makes a connection foreseeable at all; the rest is anything.
const policies = fc
  .tuple(fc.boolean(), fc.array(rule, { maxLength: 6 }))
  .map(([isOpaque, rules]) => [
    ...rules.slice(0, 3),
    ...(isOpaque ? [{ facts: '{}', says: '{ protocol: opaque }', dryRun: false }] : []),
    ...rules.slice(3),
  ])
  .map((rules) =>
    rules
      .map(({ facts, says, dryRun }, i) => `  - { name: r${i}, ${dryRun || ''}when: ${facts}, then: ${says} }\n`)
      .join(''),
  )

const connections = fc.record({
  direction: fc.constantFrom('inbound', 'outbound') as fc.Arbitrary<'inbound' | 'outbound'>,
  peer: fc.constantFrom({ host: '192.0.2.7', port: 40_000 }, { host: '::1', port: 5 }),
  destination: fc.constantFrom({ host: '10.1.2.3', port: 3306 }, { host: '198.51.100.1', port: 443 }),
})

const HELLO = 'just bytes'

/** What comes of the same connection when it is served: its Outcome, whom it dialled, how it was relayed. */
const served = async (from: Pick<Connection, 'direction' | 'peer' | 'destination'>, world: World) => {
  const [client, accepted] = duplexPair({ allowHalfOpen: true })
  const dialled: { to: Address; bytes: string }[] = []
  const relayed: RelayOptions[] = []
  const waits: number[] = []
  const dial = async (to: Address): Promise<Duplex> => {
    const [near, far] = duplexPair({ allowHalfOpen: true })
    const call = { to, bytes: '' }
    dialled.push(call)
    far.on('data', (chunk) => (call.bytes += chunk)).on('end', () => far.end())
    return near
  }
  client.resume().on('error', () => {})
  client.end(HELLO)
  const outcome = await serve(
    { ...from, listener: 'test', stream: accepted },
    {
      ...world,
      dial,
      clock: {
        ...systemClock,
        after: (ms, run) => {
          waits.push(ms)
          return systemClock.after(ms, run)
        },
      },
      relay: (one, other, options) => {
        relayed.push(options)
        return relay(one, other, options)
      },
    },
  )
  return { outcome, dialled, relayed, waits }
}

test('what the pump does alone is what would come of the same connection if it were served', async () => {
  let foreseen = 0
  await fc.assert(
    fc.asyncProperty(policies, connections, async (rules, from) => {
      const text = `rules:\n${rules || '  []\n'}`
      if (parsePolicy([{ path: 'test.yaml', text: `apiVersion: sluice/v1\n${text}` }]).is !== 'policy') return
      const world = worldOf(text)
      const kind = foresee(from, world)
      if (kind === undefined) return
      foreseen++
      const life = world.ledger.begin({ ...from, listener: 'test' })
      writeForeseen(life, kind, world)
      const { outcome, dialled, relayed, waits } = await served(from, world)
      assert.equal(outcome.result, 'forwarded')
      assert.deepEqual(dialled, [{ to: kind.upstream, bytes: HELLO }])
      assert.deepEqual(outcome.upstream, life.upstream)
      assert.deepEqual(outcome.rules, life.rules)
      assert.deepEqual(outcome.protocols, life.protocols)
      assert.equal(outcome.reason, life.reason)
      assert.deepEqual(outcome.detected, life.detected)
      assert.equal(outcome.dryRun, life.dryRun)
      assert.equal(relayed[0]?.idleMs, kind.idleMs)
      assert.equal(relayed[0]?.halfClosedMs, kind.halfClosedMs)
      assert.ok(waits.includes(kind.connectMs), `${kind.connectMs} of ${waits}`)
    }),
    { numRuns: 800 },
  )
  assert.ok(foreseen > 50, `only ${foreseen} policies were foreseeable`)
})

test('an address with a zone, which the pump cannot keep, is dialled by Node', ({ equal, end }) => {
  const to = (host: string) => {
    const world = worldOf(`rules: [{ name: all, then: { protocol: opaque, upstream: { address: "[${host}]:80" } } }]`)
    const peer = { host: '192.0.2.7', port: 40_000 }
    return foresee({ direction: 'outbound', peer, destination: { host: '10.1.2.3', port: 3306 } }, world)?.upstream.host
  }
  equal(to('fe80::1'), 'fe80::1')
  equal(to('fe80::1%lo'), undefined)
  end()
})
