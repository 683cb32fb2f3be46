import fc from 'fast-check'
import { test } from 'tap'
import { ByteQueue } from '../../src/codec/byteQueue.ts'

const step = fc.oneof(
  fc.record({ of: fc.nat(1), push: fc.nat(200_000) }),
  fc.record({ of: fc.nat(1), take: fc.nat(70_000) }),
  fc.record({ of: fc.nat(1), clear: fc.constant(true) }),
)

test('two queues that share their memory give what they were given, in order and nothing else', async (t) => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const queues = [new ByteQueue(), new ByteQueue()]
      const pushed = [0, 0]
      const taken = [0, 0]
      const byteOf = (of: number, at: number) => (at + of * 101) % 251
      for (const it of steps) {
        const { of } = it
        const queue = queues[of]!
        if ('push' in it) {
          const chunk = Buffer.from(Array.from({ length: it.push % 90_000 }, (_, at) => byteOf(of, pushed[of]! + at)))
          queue.push(chunk)
          chunk.fill(255)
          pushed[of]! += chunk.length
        } else if ('take' in it) {
          const piece = queue.peek(it.take)
          for (const [at, byte] of piece.entries())
            if (byte !== byteOf(of, taken[of]! + at)) throw new Error(`byte ${taken[of]! + at} is another's`)
          if (it.take > 0 && queue.bytes > 0 && piece.length === 0) throw new Error('nothing came of what waits')
          queue.drop(piece.length)
          taken[of]! += piece.length
        } else {
          queue.clear()
          taken[of] = pushed[of]!
        }
        if (queue.bytes !== pushed[of]! - taken[of]!) throw new Error(`${queue.bytes} bytes wait`)
      }
    }),
  )
  t.equal(new ByteQueue().peek(1).length, 0)
})
