import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { connect as connectTcp } from 'node:net'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import { connect } from 'node:tls'
import { test } from 'tap'
import { keepPolicy, loadPolicy } from '../../src/admin/livePolicy.ts'
import { openTls } from '../../src/forward/tlsWorld.ts'
import { systemClock } from '../../src/net/clock.ts'
import { type Made, openWorkshop } from '../support/certificates.ts'
import { front } from '../support/front.ts'
import { echo, portOf } from '../support/tlsFront.ts'

const workshop = openWorkshop()
const root = workshop.make('root', { ca: true, names: [] })
const certificates = ['one', 'two', 'three'].map((name) =>
  workshop.make(name, { issuer: root, names: ['DNS:shop.example'] }),
)

/** Each document names its certificate differently, so that no name of one means anything to the next. */
const document = (name: string, { certPath, keyPath }: Made) => `apiVersion: sluice/v1
certificates: { ${name}: { cert: ${certPath}, key: ${keyPath} } }
rules: [{ name: ${name}, when: { direction: inbound }, then: { tls: { terminate: ${name} } } }]
`

test('a policy that names new certificates is taken under load, and not one handshake fails', async (t) => {
  const path = join(workshop.directory, 'policy.yaml')
  writeFileSync(path, document('first', certificates[0]!))
  const loaded = await loadPolicy([path])
  if (loaded.is !== 'policy') throw new Error('no policy')
  const tls = await openTls(loaded.policy.sections, systemClock, () => {})
  const reloads: string[] = []
  const live = keepPolicy([path], loaded, systemClock, {
    prepare: ({ sections }) => tls.prepare(sections),
    reloaded: (reload) => reloads.push(reload.is),
  })
  const server = await echo()
  const here = { host: '127.0.0.1', port: portOf(server) }
  const ours = await front(here, '', { tls, policy: live.policy }, { direction: 'inbound' })
  t.teardown(() => {
    ours.close()
    live.close()
    tls.close()
    server.close()
  })

  // It begins under the first policy, and its hello is whole only under the second.
  const slow = connectTcp(ours.address)
  const held: Buffer[] = []
  const gate = new Duplex({
    read: () => {},
    write: (chunk: Buffer, _encoding, done) => {
      held.push(chunk)
      done()
    },
  })
  const late = connect({ socket: gate, servername: 'shop.example', ca: root.cert })
  while (held.length === 0) await turn()
  const hello = Buffer.concat(held)
  slow.write(hello.subarray(0, 50))
  while (ours.world.ledger.open.size === 0) await turn()

  const seen = new Set<string>()
  let made = 0
  let stop = false
  const caller = async () => {
    while (!stop) {
      const socket = connect({ ...ours.address, servername: 'shop.example', ca: root.cert })
      await once(socket, 'secureConnect')
      seen.add(socket.getPeerX509Certificate()!.fingerprint256)
      socket.write('hello\n')
      await once(socket, 'data')
      socket.destroy()
      made++
    }
  }
  const callers = Promise.all(Array.from({ length: 6 }, caller))
  const change = async (name: string, certificate: Made) => {
    writeFileSync(path, document(name, certificate))
    await live.reload() // or the watch was there before it
    t.same(
      tls.certificates.loaded().map((one) => one.name),
      [name],
    )
    const until = made + 12
    while (made < until) await turn()
  }
  await change('second', certificates[1]!)

  slow.write(hello.subarray(50))
  slow.on('data', (chunk) => gate.push(chunk))
  gate._write = (chunk: Buffer, _encoding, done) => void slow.write(chunk, done)
  await once(late, 'secureConnect')
  t.match(late.getPeerX509Certificate()?.subject, 'CN=one', 'the certificate of the policy it began under')
  late.destroy()
  slow.destroy()

  await change('third', certificates[2]!)
  await change('fourth', certificates[0]!)
  await change('fifth', certificates[1]!)
  stop = true
  await callers
  while (ours.world.ledger.open.size > 0) await turn()
  t.same(reloads, ['replaced', 'replaced', 'replaced', 'replaced'])
  t.equal(seen.size, 3, 'all three certificates were served')
  const failed = ours.outcomes.filter(({ result }) => result !== 'forwarded')
  t.same(failed, [], `of ${made} connections none failed`)
})

test('the workshop is swept', async () => workshop.close())
