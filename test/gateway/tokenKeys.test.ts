import { once } from 'node:events'
import { rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import t, { test } from 'tap'
import type { GatewaySection } from '../../src/gateway/exposure.ts'
import { mint, type Verifier } from '../../src/gateway/token.ts'
import { keepTokenKeys } from '../../src/gateway/tokenKeys.ts'
import { systemClock } from '../../src/net/clock.ts'
import { JWKS_TEXT, tokenCases } from '../support/tokenCases.ts'
import { policyOf } from '../support/world.ts'

const sectionOf = (text: string): GatewaySection => policyOf(`gateway: { ${text} }`).sections.gateway
const [OLD, NEW] = [Buffer.alloc(32, 1), Buffer.alloc(32, 2)]
const by = (key: Buffer) => mint(key, { task: 'a', ttlMs: 60_000, now: Date.now() })
const accepts = async (verifier: Verifier, token: string) => (await verifier.verify(token, Date.now())).is

test('keys rotate without a restart, and a file that cannot be read changes nothing', async (t) => {
  const file = join(t.testdir(), 'keys')
  const problems: string[] = []
  let look = () => {}
  let looks = 0
  const clock = {
    ...systemClock,
    after: (_ms: number, run: () => void) => {
      look = run
      looks++
      return () => {}
    },
  }
  const section = sectionOf(`keys: { file: ${file} }`)
  const write = async (...keys: Buffer[]) => {
    writeFileSync(file, keys.map((key) => key.toString('base64')).join('\n'))
    await again()
  }
  /** Looks, and waits until it is waiting for the next time. */
  const again = async () => {
    const before = looks
    look()
    while (looks === before) await new Promise(setImmediate)
  }
  writeFileSync(file, OLD.toString('base64'))
  const live = await keepTokenKeys(
    () => section,
    {},
    clock,
    (problem) => problems.push(problem),
  )
  const [old, young] = [await by(OLD), await by(NEW)]
  const now = async () => [await accepts(live.verifier(), old), await accepts(live.verifier(), young)]
  t.same(await now(), ['good', 'bad'])
  await write(NEW, OLD)
  t.same(await now(), ['good', 'good'])
  await write(NEW)
  t.same(await now(), ['bad', 'good'], 'not even a token that was remembered')
  rmSync(file)
  await again()
  await again()
  t.same(await now(), ['bad', 'good'])
  t.match(problems, [/cannot read the secret in .*ENOENT; those before stay in use/])
  t.equal(problems.length, 1, 'it is told once')
  live.close()
})

test('public keys come from a URL too; while it cannot be reached that is not the fault of the token', async (t) => {
  const server = createServer((_, response) => response.end(JWKS_TEXT)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const section = sectionOf(`jwks: { url: "http://127.0.0.1:${port}/jwks.json" }`)
  const cases = tokenCases(Date.now() / 1000)
  const signed = cases.find(([what]) => what === 'EdDSA')![1]
  const live = await keepTokenKeys(() => section, {}, systemClock, t.fail)
  t.equal(await accepts(live.verifier(), signed), 'good')
  server.close()
  server.closeAllConnections()
  const later = await keepTokenKeys(
    () => sectionOf(`jwks: { url: "http://127.0.0.1:${port}/x" }`),
    {},
    systemClock,
    t.fail,
  )
  t.equal(await accepts(later.verifier(), signed), 'unavailable')
  live.close()
  later.close()
})

t.end()
