import { test } from 'tap'
import { type Family, openLab, type RunningProxy, type Space } from '../support/netns.ts'
import { PORTS, prepare, startServers } from '../support/servers.ts'

/** Programs that know nothing of Sluice, through the real redirect, in both directions and families, without a rule. */
const lab = await openLab()
const { pod, peer, directory } = lab

const FAMILIES: readonly Family[] = [4, 6]
const WAYS = FAMILIES.flatMap((family) => [
  { name: `outbound IPv${family}`, direction: 'outbound', from: pod, host: peer.addresses[family] },
  { name: `inbound IPv${family}`, direction: 'inbound', from: peer, host: pod.addresses[family] },
])
const DETECT_MS = 5_000 // the built-in defaults.detect.timeout, which a greeting must never wait for

const inUrl = (host: string): string => (host.includes(':') ? `[${host}]` : host)

await prepare(peer, directory)
await Promise.all([
  startServers(pod, directory, 'pod', pod.addresses[4]),
  startServers(peer, directory, 'peer', pod.addresses[4]),
])
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

const withPolicy = async (policy: string): Promise<RunningProxy> => {
  await proxy.stop()
  proxy = await lab.serve(policy)
  return proxy
}

test('haproxy learns the client from the PROXY protocol header that the policy asks for', async (t) => {
  for (const version of ['v1', 'v2']) {
    for (const protocol of ['opaque', 'http1']) {
      await withPolicy(`rules:
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

test('the client that haproxy names in its header is the peer of the connection', async (t) => {
  await withPolicy('listeners: { inbound: { proxyProtocol: require } }\n')
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
