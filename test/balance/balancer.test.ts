import fc from 'fast-check'
import { test } from 'tap'
import { Balancer, type Unavailable } from '../../src/balance/balancer.ts'
import type { Member } from '../../src/balance/member.ts'
import type { Use } from '../../src/balance/use.ts'
import type { Endpoint } from '../../src/net/endpoint.ts'
import { balanceSettings, dice, endpoint } from '../support/balance.ts'
import { manualClock } from '../support/manualClock.ts'

/** A balancer of some endpoints, with a clock that stands still, and all that it told. */
const balancerOf = (
  endpoints: readonly Endpoint[] | undefined,
  changes: Parameters<typeof balanceSettings>[0] = {},
  probe?: (found: (isThere: boolean) => void) => void,
) => {
  const clock = manualClock()
  const news: string[] = []
  const hear = (what: string, member: Member) => news.push(`${what} ${member.endpoint.address.host.slice(5)}`)
  const balancer = new Balancer(balanceSettings(changes), clock, dice(11), {
    circuit: (member) =>
      hear(member.circuit.is === 'resting' ? `resting ${member.circuit.because}` : member.circuit.is, member),
    failfast: (isOn) => news.push(isOn ? 'failfast' : 'no more failfast'),
    joined: () => {},
    left: (member) => hear('left', member),
    ...(probe && { probe: (_: Member, found) => probe(found) }),
  })
  if (endpoints !== undefined) balancer.replace(endpoints)
  const take = (tried: readonly Member[] = []) => {
    const taken: { use?: Use; refused?: Unavailable; cancel?: () => void } = {}
    taken.cancel = balancer.take(
      { hash: undefined, tried },
      { taken: (use) => (taken.use = use), refused: (why) => (taken.refused = why) },
    )
    return taken
  }
  /** A request from beginning to end. */
  const request = (isGood: boolean | ((use: Use) => boolean)): Use => {
    const { use } = take()
    if (use === undefined) throw new Error('there was no endpoint')
    use.judged(typeof isGood === 'boolean' ? isGood : isGood(use))
    use.released()
    return use
  }
  const drain = (): string[] => news.splice(0)
  return { balancer, clock, take, request, drain }
}

const hostOf = ({ member }: Use) => member.endpoint.address.host
/** Each in turn: one that fails is asked as often as the others. */
const IN_TURN = { algorithm: 'roundRobin' } as const
const two = [endpoint(1), endpoint(2)]

test('seven failures in a row eject, one try after the rest decides, and it is told once', async (t) => {
  const { clock, request, drain, take } = balancerOf(two, IN_TURN)
  const isFirst = (use: Use) => hostOf(use) === '10.0.0.1'
  let failures = 0
  while (failures < 7) if (isFirst(request((use) => !isFirst(use)))) failures += 1
  t.same(drain(), ['resting failures 0.1'])
  for (let i = 0; i < 50; i++) t.notOk(isFirst(request(true)), 'nothing goes there')
  clock.advance(1_000)
  let tries = 0
  for (let i = 0; i < 200 && tries === 0; i++) if (isFirst(request((use) => !isFirst(use)))) tries += 1
  t.same(drain(), [], 'that it failed again is no news')
  for (let i = 0; i < 50; i++) t.notOk(isFirst(request(true)))
  clock.advance(60_000)
  const [a, b] = [take(), take()]
  t.not(hostOf(a.use!), hostOf(b.use!), 'one try at a time')
  const probing = isFirst(a.use!) ? a.use! : b.use!
  probing.judged(true)
  t.same(drain(), ['ready 0.1'])
})

test('a success rate below half ejects, though no seven fail in a row', async (t) => {
  const { request, drain } = balancerOf(two, IN_TURN)
  let n = 0
  for (let i = 0; i < 300; i++) request((use) => hostOf(use) !== '10.0.0.1' || n++ % 3 === 0)
  t.same(drain().slice(0, 1), ['resting successRate 0.1'])
})

test('never the last ones: however badly all do, at least half of them stay', async (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 8 }),
      fc.array(fc.tuple(fc.boolean(), fc.nat(3_000)), { maxLength: 200 }),
      (size, story) => {
        const { balancer, clock, request } = balancerOf(
          Array.from({ length: size }, (_, n) => endpoint(n)),
          { ...IN_TURN, outlier: { failuresInRow: 2 } },
        )
        for (const [isGood, ms] of story) {
          request(isGood)
          clock.advance(ms)
          const resting = [...balancer.members].filter(({ circuit }) => circuit.is === 'resting').length
          if (resting * 2 > size || resting === size) t.fail(`${resting} of ${size} rest`)
        }
      },
    ),
    { numRuns: 100, seed: 12 },
  )
})

test('when the last good one is gone, those who were ejected are better than nothing', async (t) => {
  const { balancer, take, request } = balancerOf(two, { ...IN_TURN, outlier: { failuresInRow: 2 } })
  while (![...balancer.members].some(({ circuit }) => circuit.is === 'resting'))
    request((use) => hostOf(use) !== '10.0.0.1')
  balancer.replace([endpoint(1)])
  const { use } = take()
  t.equal(hostOf(use!), '10.0.0.1')
  use!.judged(true)
  t.equal(use!.member.circuit.is, 'ready')
})

test('a failed connect pauses an endpoint: 100 ms, doubling up to 60 s, each a little less by chance', async (t) => {
  const probes: ((isThere: boolean) => void)[] = []
  const { balancer, clock, take, drain } = balancerOf(two, IN_TURN, (found) => probes.push(found))
  while (drain().length === 0) {
    const { use } = take()
    if (hostOf(use!) === '10.0.0.1') use!.unreachable()
    else use!.released()
  }
  const member = [...balancer.members][0]!
  for (let pause = 100, again = 0; again < 14; again++, pause = Math.min(60_000, pause * 2)) {
    const { circuit } = member
    t.ok(circuit.is === 'resting' && circuit.because === 'connect')
    const left = circuit.is === 'resting' ? circuit.until - clock.now() : 0
    t.ok(left <= pause && left >= 0.9 * pause, `${left} of ${pause}`)
    for (let i = 0; i < 20; i++) {
      const { use } = take()
      t.equal(hostOf(use!), '10.0.0.2')
      use!.released()
    }
    clock.advance(left)
    probes.shift()!(false)
  }
  t.same(drain(), [], 'it is told of once')
  clock.advance(60_000)
  t.equal(probes.length, 1)
  t.not(hostOf(take().use!), '10.0.0.1', 'while it is probed nobody is sent there')
  probes.shift()!(true)
  t.same(drain(), ['ready 0.1'])
})

test('while nothing else is ready, nobody is left alone for longer than a second', async (t) => {
  const probes: ((isThere: boolean) => void)[] = []
  const { clock, take } = balancerOf([endpoint(1)], {}, (found) => probes.push(found))
  take().use!.unreachable()
  for (let i = 0; i < 12; i++) {
    clock.advance(1_000)
    t.equal(probes.length, 1)
    probes.shift()!(false)
  }
})

test('many connects that fail together are one failure', async (t) => {
  const { balancer, take } = balancerOf([endpoint(1)])
  const all = Array.from({ length: 10 }, () => take().use!)
  for (const use of all) use.unreachable()
  const [member] = balancer.members
  t.equal(member!.connectFailures, 1)
  t.equal(member!.inFlight, 0)
})

test('without a ready endpoint requests wait, in order and not too many; after 3 s nobody waits any more', async (t) => {
  const { balancer, clock, take, drain } = balancerOf([], { queueMax: 2 })
  const [a, b, c] = [take(), take(), take()]
  t.equal(c.refused, 'overloaded')
  t.equal(balancer.queued, 2)
  clock.advance(2_999)
  t.equal(a.refused, undefined)
  clock.advance(1)
  t.same([a.refused, b.refused], ['failfast', 'failfast'])
  t.equal(take().refused, 'failfast', 'at once')
  t.same(drain(), ['failfast'], 'told once')
  balancer.replace([endpoint(1)])
  t.ok(take().use)
  t.same(drain(), ['no more failfast'])
})

test('who waits gets the endpoint that appears, and who gave up gets nothing', async (t) => {
  const { balancer, clock, take } = balancerOf(undefined)
  const [a, b, c] = [take(), take(), take()]
  b.cancel!()
  clock.advance(1_000)
  balancer.replace([endpoint(1)])
  t.ok(a.use && c.use)
  t.equal(b.use, undefined)
  clock.advance(10_000)
  t.equal(a.refused, undefined)
})

test('an endpoint that is full makes requests wait for room; if none comes they are too many', async (t) => {
  const { clock, take } = balancerOf([endpoint(1)], { inFlightMax: 2 })
  const [a, b, c, d] = [take(), take(), take(), take()]
  t.ok(a.use && b.use && !c.use)
  a.use!.released()
  t.ok(c.use)
  clock.advance(3_000)
  t.equal(d.refused, 'overloaded')
})

test('who leaves gets nothing new, finishes what he has, and is known again when he returns anew', async (t) => {
  const { balancer, take, drain } = balancerOf(two)
  const uses = Array.from({ length: 40 }, () => take().use!)
  const old = uses.filter((use) => hostOf(use) === '10.0.0.1')
  t.ok(old.length > 0)
  balancer.replace([endpoint(2), endpoint(3)])
  t.same(drain(), ['left 0.1'])
  for (let i = 0; i < 40; i++) t.not(hostOf(take().use!), '10.0.0.1')
  for (const use of old) {
    use.judged(false)
    use.released()
  }
  t.same(drain(), [], 'nobody is ejected who is not there')
  t.equal(old[0]!.member.inFlight, 0)
  balancer.replace([endpoint(1)])
  t.not(take().use!.member, old[0]!.member)
})

test('what is known of an endpoint survives news of its weight', async (t) => {
  const { balancer, take } = balancerOf([endpoint(1)])
  const { use } = take()
  balancer.replace([endpoint(1, { weight: 7 })])
  t.equal(use!.member.endpoint.weight, 7)
  t.equal(balancer.inFlight, 1)
})

test('requests under way are counted exactly, whatever happens to them', async (t) => {
  const step = fc.tuple(fc.constantFrom('take', 'good', 'bad', 'unreachable', 'drop', 'wait', 'replace'), fc.nat(1_000))
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), (story) => {
      const { balancer, clock, take } = balancerOf([endpoint(1), endpoint(2), endpoint(3)], {
        inFlightMax: 4,
        queueMax: 3,
      })
      const asked: ReturnType<typeof take>[] = []
      for (const [what, n] of story) {
        if (what === 'take') asked.push(take())
        if (what === 'wait') clock.advance(n)
        if (what === 'replace') balancer.replace([endpoint(1 + (n % 4)), endpoint(1 + ((n + 1) % 4))])
        const use = asked[n % Math.max(1, asked.length)]?.use
        if (what === 'good') use?.judged(true)
        if (what === 'bad') use?.judged(false)
        if (what === 'unreachable') use?.unreachable()
        if (what === 'drop') use?.released()
        for (const { inFlight } of balancer.members) if (inFlight < 0 || inFlight > 4) t.fail(`${inFlight} under way`)
        if (balancer.queued > 3) t.fail('too many wait')
      }
      balancer.close()
      for (const { use } of asked) use?.released()
      for (const it of asked) if (!it.use && !it.refused) t.fail('somebody waits for ever')
      for (const { use } of asked) if (use && use.member.inFlight !== 0) t.fail('somebody was counted twice')
      if (clock.pending() > 0) t.fail('a timer runs on')
    }),
    { numRuns: 200, seed: 13 },
  )
})

test('active checks: so many failures in a row take an endpoint out, one success brings it back', async (t) => {
  const { balancer, take, drain } = balancerOf(two)
  const [first] = balancer.members
  balancer.checked(first!, false, 2)
  t.same(drain(), [])
  balancer.checked(first!, false, 2)
  balancer.checked(first!, false, 2)
  t.same(drain(), ['resting healthCheck 0.1'])
  for (let i = 0; i < 20; i++) t.equal(hostOf(take().use!), '10.0.0.2')
  balancer.checked(first!, true, 2)
  t.same(drain(), ['ready 0.1'])
})

test('an endpoint that fails fast does not look like a fast one', async (t) => {
  const { clock, take } = balancerOf(two, { outlier: { failuresInRow: 0, successPercent: 0 } })
  const chosen: Record<string, number> = {}
  for (let i = 0; i < 200; i++) {
    const use = take().use!
    chosen[hostOf(use)] = (chosen[hostOf(use)] ?? 0) + 1
    const isBad = hostOf(use) === '10.0.0.1'
    clock.advance(isBad ? 1 : 40)
    if (!isBad) use.answered()
    use.judged(!isBad)
    use.released()
  }
  t.ok((chosen['10.0.0.1'] ?? 0) < 20, `${chosen['10.0.0.1']} of 200 to the one that fails`)
})

test('one of five that is slow by 100× gets one request in a thousand, and a fifth of the clients does not hang on it', async (t) => {
  const { balancer, clock, take } = balancerOf([1, 2, 3, 4, 5].map((n) => endpoint(n)))
  const random = dice(21)
  let slow = 0
  let all = 0
  const ask = (): void => {
    const use = take().use!
    const isSlow = hostOf(use) === '10.0.0.5'
    all += 1
    if (isSlow) slow += 1
    // Now and then a fast one has a hiccup, of which the estimate makes a peak.
    const hiccup = random() < 0.01 ? 100 * random() : 0
    clock.after((isSlow ? 1000 : 10) + hiccup, () => {
      use.answered()
      use.judged(true)
      use.released()
      ask()
    })
  }
  for (let client = 0; client < 8; client++) ask()
  clock.advance(2_000)
  t.ok(slow <= 8, `${slow} of ${all} before anything was known`)
  slow = 0
  all = 0
  clock.advance(20_000)
  t.ok(all > 12_000 && slow * 1000 < all, `${slow} of ${all}`)
  t.equal(balancer.inFlight, 8)
})
