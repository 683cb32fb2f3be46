import { test } from 'tap'
import type { Outcome } from '../../src/telemetry/outcome.ts'
import { type Family, openLab, type Space } from '../support/netns.ts'
import { PORTS, prepare, startServers } from '../support/servers.ts'

/** Programs that know nothing of Sluice, through the real redirect, in both directions and families, without a rule. */
const lab = await openLab()
const { pod, peer, directory } = lab

const FAMILIES: readonly Family[] = [4, 6]
const WAYS = FAMILIES.flatMap((family) => [
  { name: `outbound IPv${family}`, direction: 'outbound', from: pod, host: peer.addresses[family] },
  { name: `inbound IPv${family}`, direction: 'inbound', from: peer, host: pod.addresses[family] },
])
const NGINX_KEEPS_MS = 75_000 // its keepalive_timeout
const DETECT_MS = 5_000 // the built-in defaults.detect.timeout, which a greeting must never wait for

const inUrl = (host: string): string => (host.includes(':') ? `[${host}]` : host)

await prepare(peer, directory)
await Promise.all([startServers(pod, directory, 'pod', lab), startServers(peer, directory, 'peer', lab)])
await lab.redirect('apply')
let proxy = await lab.serve('')

interface Program {
  readonly name: string
  readonly port: number
  readonly command: (host: string) => readonly string[]
  readonly input?: string
  readonly says: RegExp
  /** What the Outcome must say beside the address. */
  readonly outcome: object
}

const ssh = [
  '-F',
  'none',
  '-i',
  `${directory}/id`,
  '-o',
  'StrictHostKeyChecking=no',
  '-o',
  'UserKnownHostsFile=/dev/null',
]
const PROGRAMS: readonly Program[] = [
  {
    name: 'curl',
    port: PORTS.http,
    command: (host) => ['curl', '-sS', '--noproxy', '*', `http://${inUrl(host)}:${PORTS.http}/path`],
    says: /^hello over HTTP\/1.1\n$/,
    outcome: { protocols: ['http1'], http: { method: 'GET', target: '/path', version: '1.1' } },
  },
  {
    name: 'nghttp',
    port: PORTS.h2c,
    command: (host) => ['nghttp', `http://${inUrl(host)}:${PORTS.h2c}/`],
    says: /^hello over HTTP\/2.0\n$/,
    outcome: { protocols: ['http2'] },
  },
  {
    name: 'openssl',
    port: PORTS.https,
    command: (host) => [
      ...['openssl', 's_client', '-connect', `${inUrl(host)}:${PORTS.https}`, '-servername', 'shop.example'],
      ...['-CAfile', `${directory}/cert.pem`, '-verify_return_error', '-quiet', '-ign_eof'],
    ],
    input: 'GET / HTTP/1.0\r\n\r\n',
    says: /hello over HTTP\/1.0\n$/,
    // nginx closes first, and answers the client's goodbye with a reset, as it does without a proxy between them.
    outcome: { protocols: ['tls'], sni: 'shop.example', ended: /closed|upstreamReset/ },
  },
  {
    name: 'curl with TLS and HTTP/2',
    port: PORTS.https,
    command: (host) => [
      ...['curl', '-sS', '--noproxy', '*', '--cacert', `${directory}/cert.pem`],
      ...['--resolve', `shop.example:${PORTS.https}:${inUrl(host)}`, `https://shop.example:${PORTS.https}/`],
    ],
    says: /^hello over HTTP\/2.0\n$/,
    outcome: { protocols: ['tls'], sni: 'shop.example', alpn: ['h2', 'http/1.1'] },
  },
  {
    name: 'mariadb',
    port: PORTS.mariadb,
    command: (host) => ['mariadb', '--no-defaults', '-h', host, '-P', `${PORTS.mariadb}`, '-N', '-e', 'select 6 * 7'],
    says: /^42\n$/,
    outcome: { protocols: ['opaque'], reason: 'serverFirst' },
  },
  {
    name: 'ssh',
    port: PORTS.ssh,
    command: (host) => ['ssh', ...ssh, '-p', `${PORTS.ssh}`, `root@${host}`, 'echo hello'],
    says: /^hello\n$/,
    outcome: { protocols: ['opaque'] }, // both sides greet at once, so either may be first
  },
  {
    name: 'mail to Postfix',
    port: PORTS.smtp,
    command: (host) => [
      ...[
        'curl',
        '-sSv',
        `smtp://${inUrl(host)}:${PORTS.smtp}`,
        '--mail-from',
        'a@a.example',
        '--mail-rcpt',
        'b@b.example',
      ],
      ...['--upload-file', '-'],
    ],
    input: 'Subject: hello\r\n\r\nhello\r\n',
    says: /< 250 2.0.0 Ok: queued as/,
    outcome: { protocols: ['opaque'], reason: 'serverFirst' },
  },
]

test('programs find their servers as if nothing were between them', async (t) => {
  for (const { name: way, direction, from, host } of WAYS) {
    for (const { name, port, command, input, says, outcome } of PROGRAMS) {
      proxy.forget()
      const { code, out, err } = await from.run(command(host), input === undefined ? {} : { input })
      t.equal(code, 0, `${way}: ${name}: ${err}`)
      t.match(name.startsWith('mail') ? err : out, says, `${way}: ${name}`)
      const found = await proxy.outcome(({ destination }) => destination.port === port)
      t.match(
        found,
        { direction, destination: { host, port }, result: 'forwarded', ended: 'closed', ...outcome },
        `${way}: ${name}`,
      )
    }
  }
})

/** How long a client that says nothing waits for the first byte, and what it is. */
const greeting = (from: Space, host: string, port: number): Promise<{ ms: number; text: string }> =>
  from.evaluate(
    ({ net }, to) =>
      new Promise<{ ms: number; text: string }>((settle, reject) => {
        const start = performance.now()
        const socket = net.connect(to)
        socket.on('error', reject)
        socket.once('data', (bytes) => {
          settle({ ms: performance.now() - start, text: bytes.toString('latin1') })
          socket.destroy()
        })
      }),
    { host, port },
  )

test('a server that greets is heard at once, without a rule and without waiting for detection', async (t) => {
  const greets: readonly (readonly [port: number, text: RegExp])[] = [
    [PORTS.mariadb, /MariaDB/],
    [PORTS.ssh, /^SSH-2.0-OpenSSH/],
    [PORTS.smtp, /^220 mail.example ESMTP/],
  ]
  const times: number[] = []
  for (const { name, from, host } of WAYS) {
    for (const [port, text] of greets) {
      proxy.forget()
      const heard = await greeting(from, host, port)
      t.match(heard.text, text, name)
      t.ok(heard.ms < DETECT_MS / 5, `${name}, port ${port}: ${Math.round(heard.ms)} ms`)
      times.push(Math.round(heard.ms))
      const { reason, rules } = await proxy.outcome(({ destination }) => destination.port === port)
      t.equal(reason, 'serverFirst')
      t.ok(
        Object.values(rules).every(({ line }) => line === 0),
        'no rule of a document',
      )
    }
  }
  t.comment(`greetings after ${times.join(', ')} ms`)
})

/** A client of HTTP, known by its server and by the target that it alone asks for. */
interface HttpProgram {
  readonly name: string
  readonly port: number
  readonly target: string
  readonly command: (url: string, host: string) => readonly string[]
  readonly input?: string
  /** What it prints, to either stream, and what it prints as body where that is long. */
  readonly says: RegExp
  readonly body?: string
  readonly protocols: readonly string[]
  /** What the record of its request must say beside the address. */
  readonly request: object
}

const curl = (...flags: string[]) => ['curl', '-sS', '--noproxy', '*', ...flags]
const UPLOAD = 'uploaded '.repeat(20_000)
/** The Node client of this name in nodePeer.ts. */
const node = (name: string) => (_: string, host: string) =>
  curl(`http://127.0.0.1:${PORTS.nodeClients}/${name}?host=${host}`)

const HTTP_PROGRAMS: readonly HttpProgram[] = [
  {
    name: 'curl, HTTP/1.0',
    port: PORTS.http,
    target: '/curl-1.0',
    command: (url) => curl('-0', url),
    says: /^hello over HTTP\/1.0\n$/,
    protocols: ['http1'],
    request: { version: '1.0' },
  },
  {
    name: 'curl, upgrade to h2c',
    port: PORTS.http,
    target: '/curl-h2c',
    command: (url) => curl('--http2', '-w', '%{http_version}', url),
    says: /^hello over HTTP\/1.1\n2$/,
    protocols: ['http1', 'http2'],
    request: { version: '1.1' },
  },
  {
    name: 'curl, HTTP/2 with prior knowledge',
    port: PORTS.h2c,
    target: '/curl-2',
    command: (url) => curl('--http2-prior-knowledge', '-w', '%{http_version}', url),
    says: /^hello over HTTP\/2.0\n2$/,
    protocols: ['http2'],
    request: { version: '2' },
  },
  {
    name: 'curl, CONNECT',
    port: PORTS.nodeConnect,
    target: 'far.example:80',
    command: (_, host) => [
      ...curl('--noproxy', '', '--proxytunnel', '--proxy', `http://${inUrl(host)}:${PORTS.nodeConnect}`),
      'http://far.example/',
    ],
    says: /^hello over HTTP\/1.1\n$/,
    protocols: ['http1'],
    request: { method: 'CONNECT' },
  },
  {
    name: 'curl, upload with Expect',
    port: PORTS.nodeHttp,
    target: '/curl-expect',
    command: (url) => curl('-v', '-H', 'Expect: 100-continue', '--upload-file', '-', url),
    input: UPLOAD,
    says: /< HTTP\/1.1 100 Continue\r\n[\s\S]*< x-seen: 1.1 100-continue\r\n/,
    body: UPLOAD,
    protocols: ['http1'],
    request: { method: 'PUT', bytes: { sent: UPLOAD.length, received: UPLOAD.length } },
  },
  {
    name: 'nghttp, upgrade to h2c',
    port: PORTS.http,
    target: '/nghttp-u',
    command: (url) => ['nghttp', '-u', url],
    says: /^hello over HTTP\/1.1\n$/,
    protocols: ['http1', 'http2'],
    request: { version: '1.1' },
  },
  {
    name: 'h2load',
    port: PORTS.h2c,
    target: '/h2load',
    // It would write an IPv6 address without its brackets.
    command: (url, host) => ['h2load', '-n40', '-c2', '-m8', '-H', `:authority: ${inUrl(host)}:${PORTS.h2c}`, url],
    says: /40 succeeded, 0 failed, 0 errored, 0 timeout\n[\s\S]*\(800\) data\n/, // 40 times `hello over HTTP/2.0`
    protocols: ['http2'],
    request: { version: '2' },
  },
  ...[[], ['-k']].map((flags) => ({
    name: ['ab', ...flags].join(' '),
    port: PORTS.http,
    target: ['/ab', ...flags].join(''),
    command: (url: string) => ['ab', '-q', '-n40', '-c4', ...flags, url],
    says: /Complete requests: +40\nFailed requests: +0\n[\s\S]*HTML transferred: +800 bytes\n/,
    protocols: ['http1'],
    request: { version: '1.0' },
  })),
  {
    name: 'nginx as a client',
    port: PORTS.http,
    target: '/by-nginx',
    command: (_, host) => curl(`http://127.0.0.1:${PORTS.http}/relay/${host.includes(':') ? 6 : 4}/`),
    says: /^hello over HTTP\/1.0\n$/,
    protocols: ['http1'],
    request: { version: '1.0' }, // as nginx does unless it is told otherwise
  },
  {
    name: 'haproxy as a client',
    port: PORTS.http,
    target: '/by-haproxy',
    command: (_, host) => curl(`http://127.0.0.1:${host.includes(':') ? PORTS.relays6 : PORTS.relays4}/by-haproxy`),
    says: /^hello over HTTP\/1.1\n$/,
    protocols: ['http1'],
    request: { version: '1.1' },
  },
  {
    name: 'haproxy as a server',
    port: PORTS.answers,
    target: '/to-haproxy',
    command: (url) => curl(url),
    says: /^haproxy over HTTP\/1.1$/,
    protocols: ['http1'],
    request: { version: '1.1' },
  },
  {
    name: 'node:http',
    port: PORTS.nodeHttp,
    target: '/by-node',
    command: node('http'),
    says: /^node:http and back, 1.1 100-continue$/,
    protocols: ['http1'],
    request: { method: 'PUT', version: '1.1' },
  },
  {
    name: 'undici',
    port: PORTS.nodeHttp,
    target: '/by-undici',
    command: node('undici'),
    says: /^undici and back$/,
    protocols: ['http1'],
    request: { method: 'PUT', version: '1.1' },
  },
  {
    name: 'a pair of ws',
    port: PORTS.nodeWebSocket,
    target: '/by-ws',
    command: node('ws'),
    says: /^ws and back, 1000$/,
    protocols: ['http1'],
    request: { version: '1.1', status: 101, upgrade: 'websocket' },
  },
  {
    name: 'grpc-js',
    port: PORTS.nodeGrpc,
    target: '/lab.Lab/Say',
    command: node('grpc'),
    says: /^grpc-js and back$/,
    protocols: ['http2'],
    request: { version: '2', grpcStatus: '0' },
  },
]

test('clients of HTTP in all its versions find their servers, and each request has its record', async (t) => {
  // Nothing but a websocket needs a rule: what Sluice does not understand passes by every rule about requests.
  await proxy.reload(`rules:
  - name: websockets
    when: { port: ${PORTS.nodeWebSocket} }
    then: { http: { upgrade: { allow: [websocket] } } }
`)
  const asks = async (way: (typeof WAYS)[number], program: HttpProgram): Promise<void> => {
    const { direction, from, host } = way
    const { port, target, input } = program
    const name = `${way.name}: ${program.name}`
    const command = program.command(`http://${inUrl(host)}:${port}${target}`, host)
    const { code, out, err } = await from.run(command, input === undefined ? {} : { input })
    t.equal(code, 0, `${name}: ${err.slice(-500)}`)
    t.match(out.slice(0, 2_000) + err, program.says, name)
    if (program.body !== undefined) t.ok(out === program.body, `${name}: the body`)
    // What a program did before it was done may be logged later than that, when the next way has begun.
    const isHere = (each: Pick<Outcome, 'direction' | 'destination'>) =>
      each.direction === direction && each.destination.host === host && each.destination.port === port
    const request = await proxy.request((each) => isHere(each) && each.target === target)
    t.match(request, { status: 200, attempts: 1, ...program.request }, name)
    const { peer: client } = request
    const found = await proxy.outcome(
      (each) => isHere(each) && each.peer.host === client.host && each.peer.port === client.port,
    )
    t.match(found, { result: 'forwarded', error: undefined }, name)
    t.same(found.protocols, program.protocols, name)
  }
  for (const way of WAYS) {
    proxy.forget()
    await Promise.all(HTTP_PROGRAMS.map((program) => asks(way, program)))
  }
})

test('haproxy learns the client from the PROXY protocol header that the policy asks for', async (t) => {
  for (const version of ['v1', 'v2']) {
    for (const protocol of ['opaque', 'http1']) {
      await proxy.reload(`rules:
  - name: tell haproxy
    when: { port: ${PORTS.accepts} }
    then: { protocol: ${protocol}, upstream: { proxyProtocol: ${version} } }
`)
      for (const { name, from, host } of WAYS) {
        const { out, err } = await from.run([
          'curl',
          '-sS',
          '--noproxy',
          '*',
          `http://${inUrl(host)}:${PORTS.accepts}/`,
        ])
        const client = Object.values(from.addresses).find((each) => each.includes(':') === host.includes(':'))
        t.equal(out, `${client} ${host} ${PORTS.accepts}`, `${version}, ${protocol}, ${name} ${err}`)
      }
    }
  }
})

test('a proxy that is told to end waits for no idle connection to an upstream', async (t) => {
  await proxy.reload('defaults: { http: { pool: { idle: 10m } } }\n')
  const { out } = await pod.run(curl(`http://${peer.addresses[4]}:${PORTS.http}/`))
  t.equal(out, 'hello over HTTP/1.1\n')
  const start = Date.now()
  t.equal((await proxy.stop()).code, 0)
  t.ok(Date.now() - start < NGINX_KEEPS_MS / 2, `ended after ${Date.now() - start} ms`)
})

test('the client that haproxy names in its header is the peer of the connection', async (t) => {
  proxy = await lab.serve('listeners: { inbound: { proxyProtocol: require } }\n')
  for (const port of [PORTS.sendsV1, PORTS.sendsV2]) {
    for (const caller of ['127.0.0.1', '::1']) {
      proxy.forget()
      const { out } = await peer.run(['curl', '-sS', '--noproxy', '*', `http://${inUrl(caller)}:${port}/`])
      t.equal(out, 'hello over HTTP/1.1\n')
      const { peer: named, destination } = await proxy.outcome(({ direction }) => direction === 'inbound')
      t.equal(named.host, caller)
      t.same(destination, { host: pod.addresses[4], port: PORTS.http })
    }
  }
  proxy.forget()
  const { code } = await peer.run(['curl', '-sS', '--noproxy', '*', `http://${pod.addresses[4]}:${PORTS.http}/`])
  t.not(code, 0, 'whoever does not name its client is refused')
  t.match(await proxy.outcome(() => true), { result: 'refused', error: { code: 'PROXY_HEADER_MISSING' } })
})

test('the lab goes', async () => {
  await proxy.stop()
  await lab.close()
})
