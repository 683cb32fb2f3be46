import assert from 'node:assert/strict'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { certificateWarnings, keepTls, missingCertificates } from '../../src/admin/liveTls.ts'
import type { TlsWorld } from '../../src/forward/tlsWorld.ts'
import { systemClock } from '../../src/net/clock.ts'
import type { Log } from '../../src/telemetry/log.ts'
import { policyOf } from '../support/world.ts'

const DAY = 86_400_000
const NOW = Date.UTC(2026, 10, 21)

const worldWith = (loaded: readonly object[]): TlsWorld =>
  ({ certificates: { loaded: () => loaded } }) as unknown as TlsWorld

test('what is wrong with certificates is said in words: on the page ahead of time, and in /ready when one is missing', async () => {
  const tls = worldWith([
    { name: 'good', certificate: { notAfter: NOW + 90 * DAY } },
    { name: 'soon', certificate: { notAfter: NOW + 3 * DAY } },
    { name: 'past', certificate: { notAfter: NOW - DAY } },
    { name: 'kept', certificate: { notAfter: NOW + 90 * DAY }, problem: 'the key does not fit' },
    { name: 'absent', problem: 'ENOENT' },
    { name: 'trust mesh', trust: { notAfter: NOW + 6 * DAY } },
  ])
  assert.deepEqual(certificateWarnings(tls, NOW, 14 * DAY), [
    'Certificate soon expires in 3 days, on 2026-11-24.',
    'Certificate past has expired, on 2026-11-20.',
    'The newest file of certificate kept cannot be used: the key does not fit',
    'The newest file of certificate absent cannot be used: ENOENT',
    'Certificate trust mesh expires in 6 days, on 2026-11-27.',
  ])
  assert.deepEqual(missingCertificates(tls), ['certificate absent: ENOENT'])
})

test('a key log is opened only where the policy names one, for its owner alone, with a warning', async (t) => {
  const path = join(t.testdir({}), 'keys.log')
  for (const [document, expected] of [
    ['', []],
    [`tls: { keyLog: ${path} }`, [/the secrets of every TLS session are written to .*keys\.log/]],
  ] as const) {
    const warnings: string[] = []
    const log = { warn: (text: string) => warnings.push(text) } as unknown as Log
    const tls = await keepTls(policyOf(document).sections, systemClock, log)
    t.match(warnings, expected)
    t.equal(warnings.length, expected.length)
    tls.close()
  }
  t.equal(statSync(path).mode & 0o777, 0o600)
})
