import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Test, test } from 'tap'

const policy = (more: string): string =>
  `apiVersion: sluice/v1\nlisteners: { outbound: { address: "127.0.0.1:0" }, inbound: { address: [] } }\nadmin: { address: "127.0.0.1:0" }\n${more}`

/** `sluice serve` with a document that can be changed; `says` waits until it has said something. */
const serve = (t: Test, more: string) => {
  const file = join(t.testdir(), 'policy.yaml')
  const write = (text: string) => writeFileSync(file, policy(text))
  write(more)
  const sluice = spawn('bin/sluice', ['serve', '--config', file], { stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => sluice.kill('SIGKILL'))
  let text = ''
  for (const stream of [sluice.stdout, sluice.stderr]) stream.on('data', (bytes: Buffer) => (text += bytes))
  const says = async (what: RegExp): Promise<string> => {
    for (;;) {
      const found = what.exec(text)
      if (found !== null) {
        text = text.slice(found.index + found[0].length)
        return found[0]
      }
      await Promise.race([once(sluice.stdout, 'data'), once(sluice.stderr, 'data')])
    }
  }
  return { sluice, write, says }
}

test('a reload takes what can change, and names what waits for a restart', { timeout: 20_000 }, async (t) => {
  const { sluice, write, says } = serve(t, '')
  await says(/sluice is ready.*\n/)
  write('log: { format: json }\nsockets: { keepalive: 20s }\n')
  t.match(JSON.parse((await says(/\{.*restart.*\}\n/)) || '{}').msg, /only after a restart: sockets$/)
  write('log: { format: text }\n')
  await says(/^the policy was replaced\n/m)
  sluice.kill('SIGTERM')
  t.same(await once(sluice, 'exit'), [0, null])
})
