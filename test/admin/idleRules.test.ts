import assert from 'node:assert/strict'
import { test } from 'tap'
import { idleRules } from '../../src/admin/idleRules.ts'
import { policyOf } from '../support/world.ts'

const MINUTE = 60_000
const rule = (name: string, more = '') => `{ name: ${name}, ${more} when: { port: 25 }, then: { deny: true } }`

test('rules that decided nothing are named, once there was time and traffic enough', async () => {
  const live = ['a', 'b', 'c', 'd', 'e', 'f', 'g'].map((it) => rule(it)).join(', ')
  const policy = policyOf(`rules: [${live}, ${rule('h', 'dryRun: true,')}]`)
  // Rules are told apart by their place: each of these stands in the same line.
  const pulse = (connections: number, hit = '') => ({
    startedAt: 0,
    connections: () => connections,
    hits: ({ name }: { name: string }) => (hit.includes(name) ? 1 : 0),
  })
  assert.deepEqual(idleRules(policy, pulse(1000), 9 * MINUTE), [])
  assert.deepEqual(idleRules(policy, pulse(99), 60 * MINUTE), [])
  assert.deepEqual(idleRules(policy, pulse(1000, 'abcdefg'), 60 * MINUTE), [])
  assert.deepEqual(idleRules(policy, pulse(1000, 'abcdef'), 60 * MINUTE), [
    'This rule has decided nothing in 60 minutes: "g" (test.yaml:2).',
  ])
  assert.match(
    idleRules(policy, pulse(1000), 300 * MINUTE)[0] ?? '',
    /^These rules have decided nothing in 5 hours: "a" .*"e" \(test\.yaml:2\) and 2 more\.$/,
  )
})
