import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect as connectTls } from 'node:tls'
import { type Test, test } from 'tap'
import { startAdmin } from '../../src/admin/server.ts'
import { captureRoutes } from '../../src/admin/tapCapture.ts'
import { tapCommand } from '../../src/admin/tapCommand.ts'
import { openTls } from '../../src/forward/tlsWorld.ts'
import type { Address } from '../../src/net/address.ts'
import { systemClock } from '../../src/net/clock.ts'
import { replayCommand } from '../../src/replayCommand.ts'
import { createLedger } from '../../src/telemetry/ledger.ts'
import { createRecorder } from '../../src/telemetry/recording.ts'
import { front } from '../support/front.ts'
import { ask, scripted } from '../support/http.ts'
import { caller, readAll, upstream } from '../support/peers.ts'
import { runCommand } from '../support/runCommand.ts'
import { selfSigned } from '../support/selfSigned.ts'
import { policyOf } from '../support/world.ts'

const turn = () => new Promise((resolve) => setImmediate(resolve))

/** Sluice with a recorder before a server, and `sluice tap --pcapng` that has begun to write a file. */
const scene = async (t: Test, to: Address, policy: string, wanted: readonly string[], isAllowed = true) => {
  const ledger = createLedger(systemClock)
  const tls = await openTls(policyOf(policy).sections, systemClock, () => {})
  const recorder = createRecorder(ledger, systemClock, () => {}, tls.secrets)
  const outcomes: unknown[] = []
  ledger.subscribe((outcome) => outcomes.push(outcome))
  const sluice = await front(to, policy, { ledger, recorder, tls })
  const routes = captureRoutes(recorder, isAllowed, 'test')
  const admin = await startAdmin({ address: { host: '127.0.0.1', port: 0 }, routes })
  const file = `${t.testdirName}/capture.pcapng`
  mkdirSync(t.testdirName, { recursive: true })
  const at = `--admin=127.0.0.1:${admin.address.port}`
  const ran = runCommand(tapCommand, [at, `--pcapng=${file}`, ...wanted])
  t.teardown(() => {
    sluice.close()
    admin.close()
    tls.close()
  })
  if (isAllowed) while (!recorder.isOn()) await turn()
  return { sluice, file, ran, ended: outcomes }
}

const FIELDS = ['tcp.stream', 'tcp.flags.str', 'tcp.analysis.flags', 'tcp.checksum.status', 'frame.comment'] as const

interface Dissected {
  /** Each packet's fields, in the order of FIELDS. */
  readonly packets: readonly (readonly string[])[]
  /** Both directions of each stream asked for, as Wireshark follows it. */
  readonly streams: readonly { readonly client: Buffer; readonly server: Buffer }[]
  readonly text: string
}

/** What tshark makes of a file, with checksums looked at, in one run: each costs a second. */
const tshark = (file: string, streams: readonly number[], ...more: string[]): Dissected => {
  const checks = ['-o', 'tcp.check_checksum:TRUE', '-o', 'ip.check_checksum:TRUE']
  const fields = ['-T', 'fields', '-E', 'separator=|', ...FIELDS.flatMap((name) => ['-e', name])]
  const follow = streams.flatMap((stream) => ['-z', `follow,tcp,raw,${stream}`])
  const ran = spawnSync('tshark', ['-n', '-r', file, ...checks, ...fields, ...follow, ...more], {
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  })
  assert.equal(ran.status, 0, ran.stderr)
  const [list = '', ...followed] = ran.stdout.split(/^=+\nFollow: /m)
  return {
    packets: list
      .trim()
      .split(/\n(?=\d+\|)/)
      .map((line) => line.split('|')),
    // Taps print in the reverse of the order in which they were asked for.
    streams: followed.reverse().map((text) => {
      const hex = (tab: string) =>
        text
          .match(new RegExp(`^${tab}[0-9a-f]+$`, 'gm'))
          ?.join('')
          .replaceAll('\t', '')
      return { client: Buffer.from(hex('') ?? '', 'hex'), server: Buffer.from(hex('\\t') ?? '', 'hex') }
    }),
    text: ran.stdout,
  }
}

/** Packets that a reader would frown at. */
const faulty = ({ packets }: Dissected) =>
  packets.filter(([, , analysis, checksum]) => analysis !== '' || checksum !== '1')

const digest = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')
const ABC = Buffer.from('abc')
const BIG = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7919) & 255))

test('an opaque connection and HTTP are recorded whole, with the rule in the comment, and replay reads them back', async (t) => {
  const echo = await upstream((socket) => socket.pipe(socket))
  t.teardown(echo.close)
  const rule = 'rules: [{ name: all bytes, when: { direction: outbound }, then: { protocol: opaque } }]'
  const { sluice, file, ran } = await scene(t, echo.address, rule, ['--rule=all bytes', '--limit=2'])
  const client = await caller(sluice.address)
  client.end(BIG)
  assert.equal(digest(Buffer.from(await readAll(client), 'latin1')), digest(BIG))
  const broken = await caller(sluice.address)
  broken.write('abc')
  await once(broken, 'data')
  broken.resetAndDestroy()
  const { code, err } = await ran
  assert.match(err, /^\d+ packets in .*capture\.pcapng\n$/)
  assert.equal(code, 0)
  const seen = tshark(file, [0, 1])
  assert.deepEqual(
    seen.streams.map(({ client, server }) => [digest(client), digest(server)]),
    [
      [digest(BIG), digest(BIG)],
      [digest(ABC), digest(ABC)],
    ],
  )
  assert.deepEqual(faulty(seen), [])
  const last = (stream: string) => seen.packets.findLast(([of]) => of === stream) ?? []
  assert.match(last('0')[4] ?? '', /protocol by "all bytes" test\.yaml:2/)
  assert.match(last('1')[1] ?? '', /R/, 'the reset is a reset')
  const replayed = await runCommand(replayCommand, ['--config=policy/default.yaml', '--json', file])
  const lines = replayed.out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  assert.deepEqual(
    lines.map(({ bytes, complete }) => [bytes, complete]),
    [
      [{ sent: BIG.length, received: BIG.length }, true],
      [{ sent: 3, received: 3 }, true],
    ],
  )
})

test('what is known only at the end is held until then; others are left out', async (t) => {
  const web = await scripted((request) =>
    request.startsWith('GET /bad')
      ? 'HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n'
      : 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
  )
  t.teardown(web.close)
  const { sluice, file, ran } = await scene(t, web.address, '', ['--status=5xx', '--limit=1'])
  const get = (path: string) => ask(sluice.address, `GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
  await get('/good')
  const answer = await get('/bad?token=CANARY')
  assert.equal((await ran).code, 0)
  const { packets, streams } = tshark(file, [0])
  assert.equal(streams[0]?.server.toString(), answer)
  assert.match(streams[0]?.client.toString() ?? '', /^GET \/bad/)
  assert.equal(packets.at(-1)?.[0], '0', 'there is more than one connection')
  assert.match(packets.map((fields) => fields[4]).join(' '), /GET x\/bad\?token=\(redacted\).*500/s)
})

test('TLS that ends here is recorded as it came; only with tls.keyLog does the file hold what opens it', async (t) => {
  const echo = await upstream((socket) => socket.pipe(socket))
  t.teardown(echo.close)
  const { key, cert } = selfSigned('shop.example')
  const directory = t.testdir({ 'shop.pem': cert, 'shop.key': key })
  for (const keyLog of [true, false]) {
    const policy = `certificates: { shop: { cert: ${directory}/shop.pem, key: ${directory}/shop.key } }
tls: { ${keyLog ? `keyLog: ${directory}/keys.log` : ''} }
rules: [{ name: shop, when: { sni: shop.example }, then: { tls: { terminate: shop } } }]`
    const { sluice, file, ran } = await scene(t, echo.address, policy, ['--protocol=tls', '--limit=1'])
    const client = connectTls({ ...sluice.address, servername: 'shop.example', ca: cert })
    client.end('a secret word')
    let said = ''
    for await (const chunk of client) said += chunk
    assert.equal(said, 'a secret word')
    assert.equal((await ran).code, 0)
    assert.ok(!readFileSync(file).includes('secret word'), 'it is recorded in the clear')
    const { text } = tshark(file, [], '-z', 'follow,tls,ascii,0')
    assert.equal(text.includes('a secret word'), keyLog, text)
    assert.equal(readFileSync(file).includes('CLIENT_TRAFFIC_SECRET'), keyLog)
  }
})

test('without admin.captures nothing is recorded and no file is made; a proxy that is not there is named', async (t) => {
  const echo = await upstream((socket) => socket.pipe(socket))
  t.teardown(echo.close)
  const { file, ran } = await scene(t, echo.address, '', [], false)
  const { code, err } = await ran
  assert.deepEqual([code, existsSync(file)], [1, false])
  assert.match(err, /admin\.captures is not switched on/)
  const nobody = await runCommand(tapCommand, ['--admin=127.0.0.1:1', `--pcapng=${file}`])
  assert.match(nobody.err, /admin server at 127\.0\.0\.1:1 cannot be reached: ECONNREFUSED/)
})

test('a reader that is slow loses packets, never the proxy; the file says how many and stays whole', async (t) => {
  const ledger = createLedger(systemClock)
  const recorder = createRecorder(ledger, systemClock, () => {})
  const echo = await upstream((socket) => socket.pipe(socket))
  const sluice = await front(echo.address, '', { ledger, recorder })
  t.teardown(() => {
    sluice.close()
    echo.close()
  })
  const parts: Buffer[] = []
  let isSlow = false
  const recording = recorder.record({
    wanted: {},
    limit: 10,
    application: 'test',
    over: () => {},
    write: (bytes) => {
      parts.push(bytes)
      return !isSlow
    },
  })
  const client = await caller(sluice.address)
  client.write('\x00first')
  await once(client, 'data')
  isSlow = true
  client.end(BIG)
  assert.equal((await readAll(client)).length, BIG.length)
  while (ledger.open.size > 0) await turn()
  assert.ok(recording.dropped() > 3)
  isSlow = false
  recording.resumed()
  recording.stop()
  const dropped = recorder.dropped()
  assert.equal(dropped, recording.dropped())
  const file = `${t.testdir()}/slow.pcapng`
  writeFileSync(file, Buffer.concat(parts))
  const { packets } = tshark(file, [])
  assert.match(packets[0]?.[1] ?? '', /S/)
  assert.ok(packets.length < 15)
  assert.equal(Buffer.concat(parts).readBigUInt64LE(Buffer.concat(parts).length - 16), BigInt(dropped))
})
