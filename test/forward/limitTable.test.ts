import { test } from 'tap'
import { limitsIn, limitTable } from '../../src/forward/limitTable.ts'

const rule = { name: 'few', file: 'policy.yaml', line: 3 }
const other = { name: 'more', file: 'policy.yaml', line: 9 }

/** Two threads, each with its own view of the same memory. */
const twoThreads = () => {
  const time = { now: 1000 }
  const memory = limitTable()
  const open = () => limitsIn(memory, () => time.now)
  return { time, one: open(), two: open() }
}

test('requests that one thread let through are missing in the other', async ({ equal }) => {
  const { time, one, two } = twoThreads()
  equal(one.rates.take(rule, 'a', 2, 1000), 0)
  equal(two.rates.take(rule, 'a', 2, 1000), 0)
  equal(one.rates.take(rule, 'a', 2, 1000), 500, 'until there is one again')
  equal(two.rates.take(rule, 'b', 2, 1000), 0, 'another client')
  equal(two.rates.take(other, 'a', 2, 1000), 0, 'another rule')
  time.now += 500
  equal(two.rates.take(rule, 'a', 2, 1000), 0)
  equal(one.rates.take(rule, 'a', 2, 1000), 500)
})

test('retries are a share of the requests of both threads', async ({ equal }) => {
  const { time, one, two } = twoThreads()
  for (let i = 0; i < 5; i += 1) one.budgets.requested(rule, 'shop')
  for (let i = 0; i < 5; i += 1) two.budgets.requested(rule, 'shop')
  equal(one.budgets.spend(rule, 'shop', 20, 0), true)
  equal(two.budgets.spend(rule, 'shop', 20, 0), true)
  equal(one.budgets.spend(rule, 'shop', 20, 0), false)
  equal(one.budgets.spend(rule, 'other', 20, 0), false)
  equal(one.budgets.spend(other, 'shop', 20, 0), false)
  time.now += 60_000
  equal(two.budgets.spend(rule, 'shop', 20, 0), false, 'what was long ago counts no more')
})

test('more clients than there is room for forget those not seen for longest', async ({ fail, ok }) => {
  const { time, one } = twoThreads()
  for (let i = 0; i < 100_000; i += 1) {
    time.now += 1
    if (one.rates.take(rule, `client ${i}`, 1, 1e9) !== 0) fail(`client ${i} is a new one`)
    if (i % 1000 === 999) ok(one.rates.take(rule, `client ${i}`, 1, 1e9) > 0)
  }
})
