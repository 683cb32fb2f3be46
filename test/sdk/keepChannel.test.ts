import fc from 'fast-check'
import { test } from 'tap'
import { heartbeat } from '../../src/sdk/heartbeat.ts'
import { type Channel, type ChannelState, keepChannel, type Opened, type Reached } from '../../src/sdk/keepChannel.ts'
import { backoffMs, TIMING } from '../../src/sdk/timing.ts'
import { manualClock } from '../support/manualClock.ts'

/** Lets everything run that waits for nothing but other promises. */
const settled = () => new Promise((resolve) => setImmediate(resolve))

interface FakeChannel extends Channel {
  lose(why: string): void
  askToLeave(why: string): void
  isLeft: boolean
}

const fakeChannel = (): FakeChannel => {
  let lose = (_: string): void => {}
  let askToLeave = (_: string): void => {}
  const channel: FakeChannel = {
    ended: new Promise((resolve) => (lose = resolve)),
    leaving: new Promise((resolve) => (askToLeave = resolve)),
    leave: () => (channel.isLeft = true),
    lose: (why) => lose(why),
    askToLeave: (why) => askToLeave(why),
    isLeft: false,
  }
  return channel
}

/** The loop with a proxy that does what the test says, full jitter at its longest, and a clock that stands still. */
const keeping = (random = 1) => {
  const clock = manualClock()
  const states: ChannelState[] = []
  const reaching: ((reached: Reached | undefined) => void)[] = []
  const opening: ((opened: Opened) => void)[] = []
  const stop = new AbortController()
  let replace = (_: string): void => {}
  const ended = keepChannel(
    {
      reach: (signal) =>
        new Promise<Reached | undefined>((resolve) => {
          reaching.push(resolve)
          signal.addEventListener('abort', () => resolve(undefined))
        }),
      open: () => new Promise((resolve) => opening.push(resolve)),
    },
    {
      clock,
      random: () => random,
      timing: TIMING,
      tell: (state) => states.push(state),
      signal: stop.signal,
      onReplacer: (given) => (replace = given),
    },
  )
  const isReaching = () => reaching.length > 0
  const isOpening = () => opening.length > 0
  const reach = async (wasAway = false): Promise<() => void> => {
    let lose = () => {}
    const gone = new Promise<void>((resolve) => (lose = resolve))
    reaching.shift()!({ wasAway, gone, discard: () => {} })
    await settled()
    return lose
  }
  const open = async (): Promise<FakeChannel> => {
    const channel = fakeChannel()
    opening.shift()!({ is: 'channel', channel })
    await settled()
    return channel
  }
  const fail = async (because: string, isSilent = false) => {
    opening.shift()!({ is: 'failed', because, isSilent })
    await settled()
  }
  const advance = async (ms: number) => {
    clock.advance(ms)
    await settled()
  }
  return {
    clock,
    states,
    stop,
    ended,
    isReaching,
    isOpening,
    reach,
    open,
    fail,
    advance,
    replace: () => replace('asked'),
  }
}

test('backoff: anything up to 100 ms, which doubles with each failure in a row, up to 30 s', async (t) => {
  t.equal(
    backoffMs(0, TIMING, () => 1),
    0,
  )
  const longest = Array.from({ length: 12 }, (_, i) => backoffMs(i + 1, TIMING, () => 1))
  t.same(longest, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000])
  const dice = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 5_000 }), dice, (failures, dice) => {
      const ms = backoffMs(failures, TIMING, () => dice)
      return ms >= 0 && ms < 30_000 && ms === dice * backoffMs(failures, TIMING, () => 1)
    }),
  )
})

test('a proxy that refuses is asked again after 100, 200, 400, 800 ms, and at last every 30 s, for ever', async (t) => {
  const app = keeping()
  const waits: number[] = []
  await settled()
  for (let tries = 0; tries < 12; tries++) {
    await app.reach()
    if (tries > 0) {
      const state = app.states.at(-1)!
      if (state.is !== 'waiting') return t.fail(JSON.stringify(state))
      t.equal(state.because, 'UNAUTHENTICATED')
      waits.push(state.ms)
      await app.advance(state.ms - 1)
      t.notOk(app.isOpening(), 'not a millisecond earlier')
      await app.advance(1)
    }
    t.ok(app.isOpening())
    await app.fail('UNAUTHENTICATED')
  }
  t.same(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000])
})

test('a proxy that was away, or silent, has a clean slate: a restart never waits for the backoff', async (t) => {
  const app = keeping()
  await settled()
  for (let tries = 0; tries < 6; tries++) {
    await app.reach()
    await app.advance(30_000)
    await app.fail('it is starting up')
  }
  await app.reach(true)
  t.ok(app.isOpening(), 'asked at once')
  await app.fail('it does not answer', true)
  await app.reach()
  t.ok(app.isOpening(), 'it answered nothing: no backoff')
  await app.fail('it refuses')
  await app.reach()
  t.match(app.states.at(-1), { is: 'waiting', ms: 100 }, 'the first failure again')
})

test('a proxy that goes while we wait for the backoff is noticed, and tried again at once when it is back', async (t) => {
  const app = keeping()
  await settled()
  for (let tries = 0; tries < 9; tries++) {
    await app.reach()
    await app.advance(30_000)
    await app.fail('no')
  }
  const lose = await app.reach()
  t.match(app.states.at(-1), { is: 'waiting', ms: 25_600 })
  lose()
  await settled()
  t.notOk(app.isReaching(), 'something that accepts and closes is not tried in a tight loop')
  await app.advance(TIMING.probeMs)
  t.ok(app.isReaching())
  await app.reach(true)
  t.ok(app.isOpening())
})

test('what accepts and closes at once does not shorten the backoff', async (t) => {
  const app = keeping()
  await settled()
  for (let tries = 0; tries < 9; tries++) {
    await app.reach()
    await app.advance(30_000)
    await app.fail('no')
  }
  const from = app.clock.now()
  while (!app.isOpening()) {
    const lose = await app.reach()
    lose()
    await settled()
    await app.advance(TIMING.probeMs)
    if (app.clock.now() - from > 60_000) break
  }
  t.ok(app.clock.now() - from >= 25_600)
})

test('a channel that lived for five seconds was a success; one that did not counts as a failure', async (t) => {
  const app = keeping()
  await settled()
  for (let i = 0; i < 3; i++) {
    await app.reach()
    await app.advance(1_000)
    const channel = await app.open()
    await app.advance(4_999)
    channel.lose('gone')
    await settled()
  }
  await app.reach()
  t.match(app.states.at(-1), { is: 'waiting', ms: 400, because: 'gone' })
  await app.advance(400)
  const channel = await app.open()
  await app.advance(5_000)
  channel.lose('gone')
  await settled()
  t.match(app.states.at(-2), { is: 'lost', channel: 4, because: 'gone' })
  await app.reach()
  t.match(app.states.at(-1), { is: 'waiting', ms: 100 })
})

test('the replacement is up before the old channel is left', async (t) => {
  for (const how of ['goaway', 'asked'] as const) {
    const app = keeping()
    await settled()
    await app.reach()
    const old = await app.open()
    await app.advance(60_000)
    if (how === 'goaway') old.askToLeave('GOAWAY')
    else app.replace()
    await settled()
    t.match(app.states.at(-1), { is: 'replacing', channel: 1 })
    t.notOk(old.isLeft)
    await app.reach()
    await app.advance(100)
    t.notOk(old.isLeft, 'the proxy was reached, but there is no channel yet')
    await app.fail('not now')
    await app.reach()
    await app.advance(200)
    t.notOk(old.isLeft, 'a failed try does not cost the old one')
    const next = await app.open()
    t.ok(old.isLeft)
    t.notOk(next.isLeft)
    t.match(app.states.at(-1), { is: 'up', channel: 2 })
  }
})

test('told to stop, it leaves every channel, and ends when the last call has', async (t) => {
  const app = keeping()
  await settled()
  await app.reach()
  const old = await app.open()
  old.askToLeave('GOAWAY')
  await settled()
  await app.reach()
  await app.advance(100)
  const next = await app.open()
  app.stop.abort()
  await settled()
  t.same([old.isLeft, next.isLeft], [true, true])
  t.equal(app.states.at(-1)?.is, 'draining')
  old.lose('left')
  next.lose('left')
  await app.ended
  t.equal(app.states.at(-1)?.is, 'closed')
})

test('told to stop, it ends whatever it waits for', async (t) => {
  const reaching = keeping()
  await settled()
  reaching.stop.abort()
  await reaching.ended

  const waiting = keeping()
  await settled()
  await waiting.reach()
  await waiting.fail('no')
  await waiting.reach()
  t.equal(waiting.states.at(-1)?.is, 'waiting')
  waiting.stop.abort()
  await waiting.ended
  t.equal(waiting.clock.pending(), 0, 'no timer is left')
})

/** A heart that beats every five seconds, and what it did at which second. */
const beating = () => {
  const clock = manualClock()
  const log: string[] = []
  let heard = 0
  const stop = heartbeat({
    clock,
    periodMs: 5_000,
    beat: () => log.push(`beat ${clock.now() / 1_000}`),
    heard: () => heard,
    dead: () => log.push(`dead ${clock.now() / 1_000}`),
  })
  return { clock, log, stop, hear: () => heard++ }
}

test('a peer that answers nothing is dead after two PINGs, ten seconds after the first', async (t) => {
  const heart = beating()
  heart.clock.advance(60_000)
  t.same(heart.log, ['beat 5', 'beat 10', 'dead 15'])
  t.equal(heart.clock.pending(), 0)
})

test('a peer that is heard of lives, though it answers late; then it needs two misses again', async (t) => {
  const heart = beating()
  for (let second = 1; second <= 60; second++) {
    heart.clock.advance(1_000)
    if (second % 9 === 0) heart.hear() // now and then one beat in a row is missed
  }
  t.notMatch(heart.log.join(), /dead/)
  t.equal(heart.log.length, 12)
  heart.clock.advance(60_000)
  t.equal(heart.log.at(-1), 'dead 65', 'it was last heard of at 54; the PINGs of 55 and 60 brought nothing')
})

test('a heart that is stopped beats no more', async (t) => {
  const heart = beating()
  heart.clock.advance(7_000)
  heart.stop()
  heart.clock.advance(60_000)
  t.same(heart.log, ['beat 5'])
})
