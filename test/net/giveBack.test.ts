import { test } from 'tap'
import { giveBackWhenQuiet } from '../../src/net/giveBack.ts'
import { manualClock } from '../support/manualClock.ts'

const MIB = 2 ** 20

/** A process whose loop has worked and waited as the test says, and whose collections take 100 ms and leave 10 MiB. */
const played = () => {
  const clock = manualClock()
  const loop = { active: 0, idle: 0 }
  const it = { heap: 20 * MIB, collections: 0, trims: 0 }
  giveBackWhenQuiet(clock.after, () => void it.trims++, {
    loop: () => ({ ...loop }),
    heapBytes: () => it.heap,
    collect: () => {
      it.collections++
      it.heap = 10 * MIB
      loop.active += 100
    },
  })
  /** Five seconds pass, of which it worked so many milliseconds. */
  const pass = (activeMs: number) => {
    loop.active += activeMs
    loop.idle += 5_000 - activeMs
    clock.advance(5_000)
  }
  clock.advance(1_000)
  return { it, pass }
}

test('what starting left is given back a second after it, and then nothing while nothing happens', (t) => {
  const { it, pass } = played()
  t.equal(it.collections, 1)
  for (let i = 0; i < 100; i += 1) pass(0)
  t.same(it, { heap: 10 * MIB, collections: 1, trims: 1 })
  t.end()
})

test('what work left is given back once the loop is quiet, and never while it is busy', (t) => {
  const { it, pass } = played()
  it.heap = 100 * MIB
  for (let i = 0; i < 100; i += 1) pass(200)
  t.equal(it.collections, 1, 'busy for 4 % of the time')
  pass(50)
  t.equal(it.collections, 2)
  t.equal(it.trims, 2)
  t.end()
})

test('collecting takes a fifth of the time of the work before it at most', (t) => {
  const { it, pass } = played()
  // 20 ms of work in five seconds, and garbage again at once: 500 ms of work have to be there for 100 ms of collecting.
  for (let i = 0; i < 1_000; i += 1) {
    it.heap = 100 * MIB
    pass(20)
  }
  t.ok(it.collections > 20 && it.collections <= 1 + (1_000 * 20) / 500, `${it.collections}`)
  t.end()
})

test('a heap that is hardly larger than it was, or very large, is left alone', (t) => {
  const { it, pass } = played()
  for (const heap of [17 * MIB, 300 * MIB]) {
    it.heap = heap
    for (let i = 0; i < 10; i += 1) pass(140)
    t.equal(it.collections, 1)
  }
  t.end()
})
