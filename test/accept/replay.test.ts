import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { Replayed } from '../../src/accept/replay.ts'
import { formatAddress } from '../../src/net/address.ts'
import type { Io } from '../../src/net/commandLine.ts'
import { parseCommand } from '../../src/net/commandLine.ts'
import { replayCommand, replayFile } from '../../src/replayCommand.ts'
import { redactedTarget } from '../../src/telemetry/redact.ts'
import { captureOf, connection, frame, packet, pcap, type Wire } from '../support/capture.ts'
import { helloBytes } from '../support/clientHello.ts'
import { tlsTalk } from '../support/tlsTalk.ts'
import { policyOf } from '../support/world.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/pcap', import.meta.url))

const CAPTURES = fileURLToPath(new URL('../captures', import.meta.url))

const outbound = () => 'outbound' as const

const replayed = async (bytes: Uint8Array, policy = ''): Promise<Replayed[]> => {
  const file = join(tmpdir(), `sluice-replay-${process.pid}.pcap`)
  writeFileSync(file, bytes)
  const all: Replayed[] = []
  const problem = await replayFile(file, { policy: policyOf(policy), directionOf: outbound }, (each) => all.push(each))
  rmSync(file)
  if (problem !== undefined) throw new Error(problem)
  return all
}

interface Truth {
  readonly file: string
  readonly flow: string
  readonly accept: readonly string[]
  readonly truth: {
    readonly kind: string
    readonly sni?: string
    readonly alpn?: readonly string[]
    readonly method?: string
    readonly target?: string
    readonly http_version?: string
  }
}

/** What was seen or is true, in the same words. */
const seen = ({ outcome: { protocols, sni, alpn, http } }: Replayed): string =>
  JSON.stringify([
    protocols[0],
    sni ?? null,
    alpn ?? null,
    http ? [http.method, http.target, `HTTP/${http.version}`] : null,
  ])
const expected = ({ truth: { kind, sni, alpn, method, target, http_version } }: Truth): string =>
  JSON.stringify([
    kind,
    sni ?? null,
    alpn ?? null,
    kind === 'http1' ? [method, redactedTarget(target ?? ''), http_version] : null,
  ])

/** See test/detect/detect.test.ts: what begins with a greeting of the server is no TLS connection. */
const DISPUTED = ['10.4.16.101:50649>104.131.33.237:465']

t.test('every capture of others is replayed without a crash, and each flow is what it truly is', async (t) => {
  const policy = policyOf('')
  const flows = new Map<string, Replayed[]>()
  const files = readdirSync(FIXTURES).filter((file) => file.includes('.pcap'))
  for (const file of files) {
    const problem = await replayFile(join(FIXTURES, file), { policy, directionOf: outbound }, (each) => {
      const { client, server } = each.flow
      const key = `${file} ${client.host}:${client.port}>${server.host}:${server.port}`
      flows.set(key, [...(flows.get(key) ?? []), each])
    })
    if (problem !== undefined) t.fail(`${file}: ${problem}`)
  }
  const lines = readFileSync(join(FIXTURES, 'truth.jsonl'), 'utf8').trim().split('\n')
  const wrong = lines
    .map((line) => JSON.parse(line) as Truth)
    .filter((one) => {
      const [found, ...more] = flows.get(`${one.file} ${one.flow}`) ?? []
      if (found === undefined || more.length > 0) return true
      const kind = found.outcome.protocols[0] ?? ''
      return !one.accept.includes(kind) || (kind === one.truth.kind && seen(found) !== expected(one))
    })
  t.same(
    wrong.map(({ flow }) => flow),
    DISPUTED,
  )
  t.equal(files.length, 146)
  t.equal(lines.length, 309)
})

const talk = (turns: Parameters<typeof connection>[0], options: Parameters<typeof connection>[1] = {}): Buffer =>
  captureOf(connection(turns, options))

t.test('a conversation goes the way of a live connection: bytes, rules, times', async (t) => {
  const [one] = await replayed(
    talk([
      ['client', 'GET /prices HTTP/1.1\r\n'],
      ['client', 'Host: shop.example\r\n\r\n'],
      ['server', 'HTTP/1.1 204 No Content\r\n\r\n'],
    ]),
  )
  t.match(one?.outcome, {
    protocols: ['http1'],
    http: { method: 'GET', target: '/prices', version: '1.1' },
    result: 'forwarded',
    ended: 'closed',
    bytes: { sent: 44, received: 27 },
    startedAt: 1_700_000_000_000,
    upstream: { host: '10.0.0.2', port: 80 },
  })
  t.equal(one?.outcome.ms, 6)
  t.same(one?.missing, [])
})

/** Name, capture, protocol and reason. */
const REASONS: readonly (readonly [string, Buffer, string, string | undefined])[] = [
  [
    'the server greets first',
    talk([
      ['server', '220 mail\r\n'],
      ['client', 'EHLO me\r\n'],
      ['server', '250 hello\r\n'],
    ]),
    'opaque',
    'serverFirst',
  ],
  ['only the server speaks', talk([['server', '220 mail\r\n']]), 'opaque', 'serverFirst'],
  [
    'an HTTP/2 server sends its settings first',
    talk([
      ['server', '\0\0\0\x04\0\0\0\0\0'],
      ['client', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ]),
    'http2',
    undefined,
  ],
  ['nobody speaks', talk([]), 'opaque', 'closed'],
  [
    'the client says something unknown',
    talk([
      ['client', '*1\r\n$4\r\nPING\r\n'],
      ['server', '+PONG\r\n'],
    ]),
    'opaque',
    'unknown',
  ],
  [
    'the client is answered while it is undecided',
    talk([
      ['client', 'PING'],
      ['server', 'PONG'],
    ]),
    'opaque',
    'timeout',
  ],
  [
    'a request line in two segments',
    talk([
      ['client', 'GET /pri'],
      ['client', 'ces HTTP/1.1\r\nHost: a\r\n\r\n'],
      ['server', 'HTTP/1.1 204 No Content\r\n\r\n'],
    ]),
    'http1',
    undefined,
  ],
]
for (const [name, bytes, protocol, reason] of REASONS)
  t.test(`${name}: ${reason ?? protocol}`, async (t) => {
    const [one] = await replayed(bytes)
    t.match(one?.outcome, { protocols: [protocol], ...(reason && { reason }) })
    t.equal(one?.outcome.result, 'forwarded')
  })

t.test('a client that is silent for longer than detection waits is opaque, by the time of the capture', async (t) => {
  const wires = connection([['client', 'GET / HTTP/1.1\r\n']])
  const bytes = pcap(wires.map((wire, at) => ({ time: at < 3 ? at : 60_000 + at, bytes: frame(packet(wire)) })))
  const [one] = await replayed(bytes)
  t.match(one?.outcome, { protocols: ['opaque'], reason: 'timeout', detected: { ms: 5_000 }, bytes: { sent: 16 } })
})

t.test('what the policy denies is not replayed to a server, and the rule is named', async (t) => {
  const policy = `rules:
  - name: not this shop
    when: { sni: ["*.shop.example"] }
    then: { deny: true }`
  const hello = helloBytes({ sni: 'www.shop.example', alpn: ['h2'] }).toString('latin1')
  const wires = connection(
    [
      ['client', hello],
      ['server', 'never'],
    ],
    { server: '10.0.0.2:443' },
  )
  const bytes = captureOf(
    wires.map((wire) => ({ ...wire, payload: Buffer.from((wire.payload ?? '') as string, 'latin1') })),
  )
  const [one] = await replayed(bytes, policy)
  t.match(one?.outcome, {
    result: 'denied',
    protocols: ['tls'],
    sni: 'www.shop.example',
    alpn: ['h2'],
    bytes: { sent: 0, received: 0 },
    rules: { deny: { name: 'not this shop' } },
  })
  t.equal(one?.outcome.upstream, undefined, 'nothing was dialled')
})

t.test('a server that says much before anybody has dialled it is heard in full', async (t) => {
  const wires = connection(Array.from({ length: 60 }, () => ['server', 'x'.repeat(1_000)] as const))
  const bytes = pcap(wires.map((wire, at) => ({ time: at / 100, bytes: frame(packet(wire)) })))
  const [one] = await replayed(bytes)
  t.match(one?.outcome, { reason: 'serverFirst', bytes: { received: 60_000 }, ended: 'closed' })
})

t.test('resets end as resets', async (t) => {
  const wires = connection(
    [
      ['client', '\x00\x01 sixteen bytes'],
      ['server', 'seventeen bytes \n'],
    ],
    { close: false },
  )
  const last = wires.at(-1)!
  const byServer: Wire = { ...last, sequence: last.sequence + 17, flags: 4, payload: '' }
  const byClient: Wire = { from: last.to, to: last.from, sequence: last.acknowledgement!, flags: 4 }
  t.match((await replayed(captureOf([...wires, byServer])))[0]?.outcome, {
    ended: 'upstreamReset',
    bytes: { received: 17 },
  })
  t.match((await replayed(captureOf([...wires, byClient])))[0]?.outcome, { ended: 'clientReset', bytes: { sent: 16 } })
})

/** Runs the command as the shell would, and returns what it wrote. */
const command = async (...argv: string[]): Promise<{ code: number; out: string; err: string }> => {
  const written = { out: '', err: '' }
  const io: Io = {
    out: (text) => (written.out += text),
    err: (text) => (written.err += text),
    env: { HASURA_CONFIGURATION_DIRECTORY: EMPTY },
    cwd: '/',
    stopped: new Promise(() => {}),
    onReload: () => {},
  }
  const code = await replayCommand.run(parseCommand(replayCommand, argv), io)
  return { code, ...written }
}

const EMPTY = t.testdir({ 'policy.yaml': 'apiVersion: sluice/v1\n' })

t.test('with a key log the command shows the first request inside TLS, or says why it cannot', async (t) => {
  const { client, server, log } = await tlsTalk({ minVersion: 'TLSv1.3' })
  const turns = [
    ['client', client.subarray(0, 100)],
    ['server', server],
    ['client', client.subarray(100)],
  ] as const
  const capture = talk(turns as never, { server: '10.0.0.2:443' })
  const directory = t.testdir({ 'tls.pcap': capture, 'keys.log': log, 'other.log': '' })
  const file = join(directory, 'tls.pcap')
  t.match((await command(file, '--keylog', join(directory, 'keys.log'))).out, / {2}inside TLS: GET \/secret HTTP\/1.1/)
  const json = await command(file, '--json', '--keylog', join(directory, 'keys.log'))
  t.same(JSON.parse(json.out).insideTls, { request: 'GET /secret HTTP/1.1' })
  t.match(
    (await command(file, '--keylog', join(directory, 'other.log'))).out,
    /inside TLS: the key log has nothing about/,
  )
  t.notMatch((await command(file)).out, /inside TLS/)
  await t.rejects(command(file, '--keylog', '/nonexistent'), { message: /--keylog .nonexistent: ENOENT/ })
})

t.test('the command writes one JSON object a connection, and what is unknown is absent', async (t) => {
  const turns = [
    ['client', 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'],
    ['server', 'HTTP/1.1 204 No Content\r\n\r\n'],
  ] as const
  const directory = t.testdir({ 'talk.pcap': talk(turns, { server: '10.0.0.2:8080' }) })
  const file = join(directory, 'talk.pcap')
  const { code, out, err } = await command(file, '--json', '--workload', '10.0.0.2')
  t.equal(err, '')
  t.equal(code, 0)
  t.same(JSON.parse(out), {
    file,
    flow: '10.0.0.1:40000>10.0.0.2:8080',
    direction: 'inbound',
    protocol: 'http1',
    http: { method: 'GET', target: '/', version: 'HTTP/1.1' },
    verdict: 'forwarded',
    rules: {},
    bytes: { sent: 27, received: 27 },
    ended: 'closed',
    complete: true,
  })
  const text = await command(file)
  t.match(
    text.out,
    /talk\.pcap: .*outbound {2}10\.0\.0\.1:40000 -> 10\.0\.0\.2:8080 {2}http1 GET \/ HTTP\/1\.1 {2}forwarded/,
  )
})

t.test('a capture that is cut, and files that are none, give what can be read and say what is wrong', async (t) => {
  const whole = talk([['client', 'GET / HTTP/1.1\r\n']])
  const directory = t.testdir({
    'cut.pcap': whole.subarray(0, -10),
    'text.pcap': 'this is a text that somebody called a capture',
    'wireless.pcap': pcap([{ time: 0, bytes: Buffer.alloc(40) }], { linkType: 105 }),
    'good.pcap': whole,
  })
  const names = ['cut.pcap', 'text.pcap', 'wireless.pcap', 'missing.pcap', 'good.pcap'].map((name) =>
    join(directory, name),
  )
  const { code, out, err } = await command('--json', ...names)
  t.equal(code, 1)
  const lines = out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  t.same(
    lines.map(({ file, complete }) => [basename(file), complete]),
    [
      ['cut.pcap', true],
      ['good.pcap', true],
    ],
  )
  const problems = err.trim().split('\n')
  t.match(problems[0], /cut\.pcap: packet 7: the file ends \d+ bytes into it/)
  t.match(problems[1], /text\.pcap: packet 1: this is neither pcap nor pcapng/)
  t.match(problems[2], /wireless\.pcap: 1 packets of link type 105 were skipped/)
  t.match(problems[3], /missing\.pcap: ENOENT/)
  t.equal(problems.length, 4)
})

t.test('captures of real programs give the verdicts that lie beside them', async (t) => {
  const files = readdirSync(CAPTURES).filter((file) => file.includes('.pcap'))
  const paths = files.sort().map((file) => join(CAPTURES, file))
  const { code, out, err } = await command('--json', '--config', join(CAPTURES, 'policy.yaml'), ...paths)
  t.equal(code, 1, 'one of them is cut')
  t.match(err, /^sluice replay: [^\n]*truncated\.pcap: packet \d+: the file ends \d+ bytes into it\n$/)
  const golden = readFileSync(join(CAPTURES, 'verdicts.jsonl'), 'utf8')
  t.same(verdicts(out), verdicts(golden))
})

/** Lines as objects, without where this checkout lies, and without the bytes of messages that are written anew. */
const verdicts = (lines: string): unknown[] =>
  lines
    .replaceAll(/"file":"[^"]*\//g, '"file":"')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .map((verdict) => ({ ...verdict, bytes: String(verdict.protocol).startsWith('http') ? undefined : verdict.bytes }))

t.test('a capture without a name, and a policy with a mistake, are told apart from a finding', async (t) => {
  await t.rejects(command('--json'), { message: /which capture/ })
  const directory = t.testdir({ 'policy.yaml': 'apiVersion: sluice/v1\nrulez: []\n' })
  const { code, err } = await command('x.pcap', '--config', directory)
  t.equal(code, 1)
  t.match(err, /policy\.yaml:2:1: error: .*rulez/)
  t.equal(formatAddress({ host: '::1', port: 1 }), '[::1]:1')
})

t.test('the workload is an IP address, written in any way; anything else is wrong usage', async (t) => {
  await t.rejects(command('--workload', 'localhost', join(CAPTURES, 'mysql.pcap')), /'localhost'/)
  const ipv6 = join(CAPTURES, 'curl-http1-ipv6-nano.pcap')
  t.match((await command('--workload', '0:0::1', ipv6)).out, /inbound/)
})
