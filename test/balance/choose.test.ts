import fc from 'fast-check'
import { test } from 'tap'
import { type Candidates, candidatesOf, choose, type Wish } from '../../src/balance/choose.ts'
import { hashOf, hashRing, ownersFrom } from '../../src/balance/hashRing.ts'
import { cost, estimated, expected, measured } from '../../src/balance/latency.ts'
import { type Member, newMember } from '../../src/balance/member.ts'
import type { BalanceSettings } from '../../src/balance/settings.ts'
import type { Endpoint } from '../../src/net/endpoint.ts'
import { balanceSettings, dice, endpoint, slack } from '../support/balance.ts'

const ANY: Wish = { hash: undefined, tried: [] }
const members = (all: readonly Endpoint[]): Member[] => all.map((it) => newMember(it, 30, 0))

/** How often each is chosen in so many tries, while nothing is under way. */
const counts = (all: readonly Member[], settings: BalanceSettings, tries: number, random: () => number): number[] => {
  const among = candidatesOf(all, settings)
  const chosen = new Map<Member, number>(all.map((it) => [it, 0]))
  for (let i = 0; i < tries; i++) {
    const member = choose(among, ANY, settings, 0, random)!
    chosen.set(member, chosen.get(member)! + 1)
  }
  return [...chosen.values()]
}

const TRIES = 4_000
const seeds = fc.integer({ min: 0, max: 2 ** 32 - 1 })
const ALGORITHMS = ['p2c', 'leastRequest', 'roundRobin'] as const

test('weights are honoured within statistics, whatever the algorithm and the latencies', async (t) => {
  fc.assert(
    fc.property(
      fc.constantFrom(...ALGORITHMS),
      fc.array(fc.integer({ min: 0, max: 100 }), { minLength: 2, maxLength: 6 }),
      seeds,
      (algorithm, weights, seed) => {
        // Weights that differ: those that are the same are compared by what they can bear, which is another test.
        const distinct = [...new Set(weights)]
        if (!distinct.some((weight) => weight > 0)) return
        const all = members(distinct.map((weight, n) => endpoint(n, { weight })))
        for (const [n, member] of all.entries()) measured(member.latency, 1 + n * 50, 0, 10_000)
        const total = distinct.reduce((sum, weight) => sum + weight, 0)
        for (const [n, seen] of counts(all, balanceSettings({ algorithm }), TRIES, dice(seed)).entries()) {
          const p = distinct[n]! / total
          if (Math.abs(seen - TRIES * p) > slack(TRIES, p)) t.fail(`${distinct} by ${algorithm}: ${seen} of ${p}`)
          if (p === 0 && seen > 0) t.fail(`weight 0 was chosen ${seen} times`)
        }
      },
    ),
    { numRuns: 60, seed: 5 },
  )
  for (const algorithm of ALGORITHMS) {
    const [most, least] = counts(
      members([endpoint(1, { weight: 90 }), endpoint(2, { weight: 10 })]),
      balanceSettings({ algorithm }),
      TRIES,
      dice(1),
    )
    t.ok(Math.abs(most! - 3600) <= slack(TRIES, 0.9), `${algorithm}: 90:10 is ${most}:${least}`)
  }
})

test('a weight of zero gets nothing, unless all are zero', async (t) => {
  const settings = balanceSettings()
  const some = members([endpoint(1, { weight: 0 }), endpoint(2)])
  t.same(counts(some, settings, 500, dice(2)), [0, 500])
  const none = members([endpoint(1, { weight: 0 }), endpoint(2, { weight: 0 })])
  const [one, other] = counts(none, settings, 500, dice(2))
  t.ok(one! > 100 && other! > 100, `${one} and ${other}`)
})

test('power of two choices: the costlier of two is taken only if both dice say so', async (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 8 }), seeds, (size, seed) => {
      const all = members(Array.from({ length: size }, (_, n) => endpoint(n)))
      // In order of cost: the k-th of n is chosen when the other die shows a costlier one.
      for (const [n, member] of all.entries()) measured(member.latency, 100 * (n + 1), 0, 10_000)
      for (const [k, seen] of counts(all, balanceSettings(), TRIES, dice(seed)).entries()) {
        const p = (2 * (size - 1 - k)) / (size * (size - 1))
        if (Math.abs(seen - TRIES * p) > slack(TRIES, p)) t.fail(`${k} of ${size}: ${seen}, not ${TRIES * p}`)
      }
    }),
    { numRuns: 40, seed: 6 },
  )
})

test('requests under way weigh as much as latency', async (t) => {
  const all = members([endpoint(1), endpoint(2)])
  const [fast, slow] = all as [Member, Member]
  measured(fast.latency, 100, 0, 10_000)
  measured(slow.latency, 300, 0, 10_000)
  const chosen = () => choose(candidatesOf(all, balanceSettings()), ANY, balanceSettings(), 0, dice(3))
  for (const inFlight of [0, 1]) {
    fast.inFlight = inFlight
    t.equal(chosen(), fast)
  }
  fast.inFlight = 3
  t.equal(chosen(), slow)
})

test('least request takes whoever has least to do, and chance decides among equals', async (t) => {
  const all = members([1, 2, 3, 4].map((n) => endpoint(n)))
  all.forEach((member, n) => {
    member.inFlight = n % 2
  })
  const [a, b, c, d] = counts(all, balanceSettings({ algorithm: 'leastRequest' }), TRIES, dice(4)) as [
    number,
    number,
    number,
    number,
  ]
  t.same([b, d], [0, 0])
  // A start on a busy one goes on to the next that is not.
  t.ok(Math.abs(a - c) <= 2 * slack(TRIES, 0.5), `${a} and ${c}`)
})

test('round robin takes each in turn, and a heavy one not several times in a row', async (t) => {
  const settings = balanceSettings({ algorithm: 'roundRobin' })
  const all = members([endpoint(1, { weight: 3 }), endpoint(2), endpoint(3)])
  const among = candidatesOf(all, settings)
  const order = Array.from({ length: 10 }, () => all.indexOf(choose(among, ANY, settings, 0, dice(1))!))
  t.same(order, [0, 1, 0, 2, 0, 0, 1, 0, 2, 0])
})

test('with a hash, the same key goes to the same endpoint, and when one leaves no other key moves', async (t) => {
  const settings = balanceSettings({ algorithm: 'hash' })
  const at = (among: Candidates, key: number) =>
    choose(among, { hash: hashOf(`key ${key}`), tried: [] }, settings, 0, dice(1))
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 12 }), fc.nat(), fc.integer({ min: 1, max: 40 }), (size, n, weight) => {
      const all = members(Array.from({ length: size }, (_, i) => endpoint(i, { weight: i === 0 ? weight : 1 })))
      const leaving = all[1 + (n % (size - 1))]!
      const before = candidatesOf(all, settings)
      const after = candidatesOf(
        all.filter((it) => it !== leaving),
        settings,
      )
      leaving.circuit = { is: 'resting', because: 'connect', until: 9 }
      const resting = candidatesOf(all, settings)
      leaving.circuit = { is: 'ready' }
      for (let key = 0; key < 200; key++) {
        const was = at(before, key)
        const is = at(after, key)
        if (was !== leaving && was !== is) t.fail(`key ${key} of ${size} moved from one that stayed`)
        if (at(resting, key) !== is) t.fail('one who rests is not the same as one who left')
        if (at(before, key) !== was) t.fail('not the same twice')
      }
    }),
    { numRuns: 40, seed: 7 },
  )
})

test('on the ring each has a share like its weight', async (t) => {
  for (const weights of [
    [1, 1, 1, 1],
    [90, 10],
    [10_000, 10_000, 5_000],
  ]) {
    const ring = hashRing(weights.map((weight, n) => ({ name: `10.0.0.${n}:80`, weight })))
    const seen = weights.map(() => 0)
    for (let key = 0; key < 20_000; key++) seen[ownersFrom(ring, hashOf(`k${key}`)).next().value as number]! += 1
    const total = weights.reduce((sum, weight) => sum + weight, 0)
    for (const [n, weight] of weights.entries()) {
      const share = seen[n]! / 20_000
      t.ok(Math.abs(share - weight / total) < 0.08, `${weights}: ${share} for ${weight}`)
    }
  }
})

test('our own zone comes first for as long as enough of it is ready', async (t) => {
  const settings = balanceSettings({ zone: 'a', zoneMinPercent: 50 })
  const all = members([1, 2, 3, 4].map((n) => endpoint(n, { zone: n <= 2 ? 'a' : 'b' })))
  const rest = (n: number) => {
    all[n]!.circuit = { is: 'resting', because: 'connect', until: 9 }
  }
  const near = () => counts(all, settings, 400, dice(8)).map((seen) => seen > 0)
  t.same(near(), [true, true, false, false])
  rest(0)
  t.same(near(), [false, true, false, false], 'half of it is enough')
  rest(1)
  t.same(near(), [false, false, true, true], 'none is not')
  t.same(
    counts(all, balanceSettings({ zone: 'c' }), 400, dice(8)).map((seen) => seen > 0),
    [false, false, true, true],
    'a zone that nobody is in is no preference',
  )
  const strict = balanceSettings({ zone: 'a', zoneMinPercent: 80 })
  all[1]!.circuit = { is: 'ready' }
  t.same(
    counts(all, strict, 900, dice(8)).map((seen) => seen > 0),
    [false, true, true, true],
  )
})

test('who is full, or was tried before, comes last', async (t) => {
  const settings = balanceSettings({ inFlightMax: 2 })
  const all = members([1, 2, 3].map((n) => endpoint(n)))
  const [a, b, c] = all as [Member, Member, Member]
  const among = candidatesOf(all, settings)
  a.inFlight = 2
  for (let i = 0; i < 50; i++) t.equal(choose(among, { hash: undefined, tried: [b] }, settings, 0, dice(i)), c)
  c.inFlight = 2
  t.equal(choose(among, { hash: undefined, tried: [b] }, settings, 0, dice(1)), b, 'rather again than never')
  b.inFlight = 2
  t.equal(choose(among, ANY, settings, 0, dice(1)), undefined)
})

test('the estimate of latency jumps to a peak, forgets it slowly, and falls while nothing is measured', async (t) => {
  const latency = expected(30, 0)
  measured(latency, 500, 1_000, 10_000)
  t.equal(latency.ms, 500)
  t.ok(Math.abs(estimated(latency, 11_000, 10_000) - 500 / Math.E) < 1e-9)
  measured(latency, 10, 11_000, 10_000)
  t.ok(Math.abs(latency.ms - (500 / Math.E + 10 * (1 - 1 / Math.E))) < 1e-9)
  t.equal(cost({ ms: 0, at: 0 }, 3, 0, 10_000), 4, 'no latency at all: the requests under way decide')
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(60_000), fc.nat(5_000)), { maxLength: 20 }), (samples) => {
      const it = expected(30, 0)
      let now = 0
      let peak = 30
      for (const [sample, ms] of samples) {
        now += ms
        peak = Math.max(peak, sample)
        measured(it, sample, now, 10_000)
        if (!(it.ms <= peak && it.ms >= Math.min(sample, it.ms))) t.fail(`${it.ms} with a peak of ${peak}`)
      }
    }),
    { seed: 9 },
  )
})
