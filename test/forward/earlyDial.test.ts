import { PassThrough } from 'node:stream'
import { test } from 'tap'
import type { Reached } from '../../src/forward/chooseUpstream.ts'
import { beginEarly, dialWhileSilent, SILENCE_MS } from '../../src/forward/earlyDial.ts'
import { manualClock } from '../support/manualClock.ts'

const turn = () => new Promise((done) => setImmediate(done))

const begun = () => {
  const { promise, resolve, reject } = Promise.withResolvers<Reached>()
  const clock = manualClock()
  let spoken = 0
  const end = dialWhileSilent(
    () => beginEarly('10.0.0.1:80', () => promise),
    clock,
    () => spoken++,
  )
  clock.advance(SILENCE_MS)
  return { resolve, reject, end, spoken: () => spoken }
}

test('a server that refuses while the client is silent has answered', async (t) => {
  const { reject, spoken } = begun()
  reject(new Error('refused'))
  await turn()
  t.equal(spoken(), 1)
})

test('what becomes of the dial when the wait is over is no answer any more', async (t) => {
  const refused = begun()
  t.ok(refused.end())
  refused.reject(new Error('refused'))
  await turn()
  t.equal(refused.spoken(), 0)

  const spoke = begun()
  t.ok(spoke.end())
  const stream = new PassThrough()
  spoke.resolve({ to: { host: '10.0.0.1', port: 80 }, stream })
  await turn()
  stream.write('220 hello\r\n')
  await turn()
  t.equal(spoke.spoken(), 0)
})
