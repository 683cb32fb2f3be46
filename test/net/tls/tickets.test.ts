import { test } from 'tap'
import { sharedTicketKeys } from '../../../src/net/tls/tickets.ts'

test('threads with one secret have the same key at the same time, and another one in the next period', async (t) => {
  let now = 10_000
  const secret = new Uint8Array(32).fill(7)
  const open = (secret: Uint8Array) => sharedTicketKeys({ time: () => now, secret, periodMs: 1000 })
  const [one, two, stranger] = [open(secret), open(secret), open(new Uint8Array(32))]
  const first = one.current()
  t.same(first, two.current())
  t.equal(first.key.length, 48)
  t.notSame(first.key, stranger.current().key)
  now += 999
  t.equal(one.current(), first)
  now += 1
  t.not(one.current().serial, first.serial)
  t.notSame(one.current().key, first.key)
  t.same(one.current(), two.current())
})
