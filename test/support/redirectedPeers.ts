import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { fdOf, loadShim } from '../../src/native/shim.ts'

// Run inside a network namespace that redirects ports 8080 to the port in argv: prints what each listener saw.
const loaded = loadShim(process.argv[2])
if (loaded.is === 'missing') throw new Error(loaded.reason)
const port = Number(process.argv[3])

const seen: unknown[] = []
for (const [listen, family, to] of [
  ['127.0.0.1', 4, '10.9.9.9'],
  ['::', 4, '10.9.9.9'],
  ['::', 6, 'fd00::9'],
] as const) {
  const listener = createServer().listen(port, listen)
  await once(listener, 'listening')
  const client = connect(8080, to)
  const [accepted] = (await once(listener, 'connection')) as [Socket]
  seen.push(loaded.value.originalDestination(fdOf(accepted)!, family))
  client.destroy()
  accepted.destroy()
  listener.close()
  await once(listener, 'close')
}
process.stdout.write(JSON.stringify(seen))
