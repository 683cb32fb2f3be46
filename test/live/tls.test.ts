import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdirSync } from 'node:fs'
import { createServer as createHttp } from 'node:http'
import { createServer as createHttp2, type ServerHttp2Stream } from 'node:http2'
import { connect as connectTcp, createServer as createTcp, type Server as TcpServer } from 'node:net'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { connect } from 'node:tls'
import { promisify } from 'node:util'
import { Client, credentials, Server as GrpcServer, ServerCredentials } from '@grpc/grpc-js'
import { test } from 'tap'
import { type Made, openWorkshop } from '../support/certificates.ts'
import {
  echo,
  type Fronted,
  listening,
  portOf,
  sClient as sClientWith,
  sluice as sluiceWith,
} from '../support/tlsFront.ts'

/** TLS with programs that other people wrote. */
const workshop = openWorkshop()
const root = workshop.make('root', { ca: true, names: [] })
const shop = workshop.make('shop', { issuer: root, chain: true, names: ['DNS:shop.example', 'IP:127.0.0.1'] })
const rsa = workshop.make('rsa', { issuer: root, kind: 'rsa', names: ['DNS:rsa.example'] })
const cow = workshop.make('cow', { issuer: root, names: ['URI:spiffe://farm/ns/a/sa/cow'] })
const file = ({ certPath, keyPath }: Made) => `{ cert: ${certPath}, key: ${keyPath} }`
const MATERIAL = `
certificates: { shop: ${file(shop)}, rsa: ${file(rsa)}, cow: ${file(cow)} }
trust: { root: { ca: ${root.certPath} } }
`

const run = promisify(execFile)

/** What a program prints, whatever its exit code. */
const output = async (program: string, args: readonly string[]): Promise<string> => {
  try {
    const { stdout, stderr } = await run(program, args, { timeout: 60_000 })
    return stdout + stderr
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string }
    return stdout + stderr
  }
}

/** openssl s_client, which believes our root. */
const sClient = (port: number, args: readonly string[]): Promise<string> =>
  sClientWith(port, ['-CAfile', root.certPath, ...args])

/** Sluice with the certificates above, where the policy brings none of its own. */
const sluice = (server: TcpServer, policy: string, direction?: 'inbound' | 'outbound'): Promise<Fronted> =>
  sluiceWith(server, policy.includes('certificates:') ? policy : `${MATERIAL}${policy}`, direction)

const ingress = (then: string) => `rules: [{ name: ingress, when: { direction: inbound }, then: { tls: ${then} } }]`

test('openssl s_client: both versions, names, protocols, certificates, and what is refused', async (t) => {
  const cases: readonly [string, string, readonly string[], RegExp][] = [
    ['TLS 1.3', '{ terminate: shop }', ['-tls1_3'], /New, TLSv1.3, Cipher is TLS_AES_128_GCM_SHA256/],
    ['TLS 1.2', '{ terminate: shop }', ['-tls1_2'], /New, TLSv1.2, Cipher is ECDHE-ECDSA-AES128-GCM-SHA256/],
    ['TLS 1.2 with RSA', '{ terminate: rsa }', ['-tls1_2'], /Cipher is ECDHE-RSA-AES128-GCM-SHA256/],
    ['the chain', '{ terminate: shop }', ['-showcerts'], /1 s:CN = root[\s\S]*Verify return code: 0 \(ok\)/],
    ['a name', '{ terminate: true }', ['-servername', 'rsa.example'], /subject=CN = rsa\n/],
    ['a protocol', '{ terminate: shop, alpn: [y, x] }', ['-alpn', 'x,y'], /ALPN protocol: y/],
    [
      'no protocol in common',
      '{ terminate: shop, alpn: [y], alpnRequired: true }',
      ['-alpn', 'x'],
      /alert no application protocol/,
    ],
    ['an extension nobody knows', '{ terminate: shop }', ['-serverinfo', '65400'], /echo hello/],
    ['TLS 1.1', '{ terminate: shop }', ['-tls1_1', '-cipher', 'ALL:@SECLEVEL=0'], /alert protocol version/],
    ['TLS 1.0', '{ terminate: shop }', ['-tls1', '-cipher', 'ALL:@SECLEVEL=0'], /alert protocol version/],
    ['no cipher in common', '{ terminate: rsa }', ['-tls1_2', '-cipher', 'AES256-SHA256'], /alert handshake failure/],
    [
      'no cipher in common in TLS 1.3',
      '{ terminate: shop }',
      ['-tls1_3', '-ciphersuites', 'TLS_AES_128_CCM_SHA256'],
      /alert handshake failure/,
    ],
    ['no group in common', '{ terminate: shop }', ['-tls1_3', '-groups', 'secp521r1'], /alert handshake failure/],
    [
      'TLS 1.2 where 1.3 is the least',
      '{ terminate: shop, minVersion: TLSv1.3 }',
      ['-tls1_2'],
      /alert protocol version/,
    ],
    [
      'a client certificate',
      '{ terminate: shop, clientCertificates: { trust: root } }',
      ['-cert', cow.certPath, '-key', cow.keyPath],
      /Acceptable client certificate CA names\nCN = root[\s\S]*echo hello/,
    ],
    [
      'no client certificate',
      '{ terminate: shop, clientCertificates: { trust: root } }',
      [],
      /alert certificate required/,
    ],
    ['no compression, no renegotiation', '{ terminate: shop }', ['-tls1_2'], /Compression: NONE[\s\S]*echo hello/],
    ['no early data', '{ terminate: shop }', ['-tls1_3'], /Max Early Data: 0/],
  ]
  for (const [name, then, args, expected] of cases) {
    const front = await sluice(await echo(), ingress(then))
    t.match(await sClient(front.port, ['-servername', 'shop.example', ...args]), expected, name)
    front.close()
  }
})

test('openssl s_client resumes a session on either version', async (t) => {
  const front = await sluice(await echo(), ingress('{ terminate: shop }'))
  t.teardown(front.close)
  for (const version of ['-tls1_2', '-tls1_3']) {
    const session = join(workshop.directory, `session${version}`)
    t.match(await sClient(front.port, [version, '-sess_out', session]), /New, TLS/, version)
    t.match(await sClient(front.port, [version, '-sess_in', session]), /Reused, TLS/, version)
    t.match((await front.last()).tls, { resumed: true })
  }
})

test('a ClientHello in one-byte segments, and one in several records', async (t) => {
  const front = await sluice(await echo(), ingress('{ terminate: shop }'))
  t.teardown(front.close)
  for (const slice of ['bytes', 'records']) {
    // A wire that cuts up what the client sends first: Node's hello is post-quantum and longer than a segment.
    const wire = createTcp((near) => {
      const far = connectTcp({ port: front.port, host: '127.0.0.1', noDelay: true })
      far.pipe(near)
      near.once('data', async (hello: Buffer) => {
        near.pause()
        const cut = slice === 'bytes' ? hello : inRecords(hello, 100)
        const size = slice === 'bytes' ? 1 : 333
        for (let at = 0; at < cut.length; at += size) {
          far.write(cut.subarray(at, at + size))
          await turn()
        }
        near.pipe(far)
      })
      for (const socket of [near, far]) socket.on('error', () => {})
    })
    await listening(wire)
    const client = connect({ port: portOf(wire), servername: 'shop.example', ca: root.cert })
    await once(client, 'secureConnect')
    client.write('hello\n')
    t.match(String((await once(client, 'data'))[0]), /echo hello/, slice)
    client.destroy()
    wire.close()
    t.match(await front.last(), { sni: 'shop.example', tls: { version: 'TLSv1.3' } })
  }
})

/** The same handshake message, in records of this many bytes. */
const inRecords = (hello: Buffer, size: number): Buffer => {
  const message = hello.subarray(5)
  const records: Buffer[] = []
  for (let at = 0; at < message.length; at += size) {
    const part = message.subarray(at, at + size)
    records.push(Buffer.from([22, 3, 1, part.length >> 8, part.length & 255]), part)
  }
  return Buffer.concat(records)
}

test('a post-quantum key exchange is agreed on where the client offers one', async (t) => {
  const front = await sluice(await echo(), ingress('{ terminate: shop }'))
  t.teardown(front.close)
  const client = connect({ port: front.port, servername: 'shop.example', ca: root.cert, ecdhCurve: 'X25519MLKEM768' })
  await once(client, 'secureConnect')
  t.match(client.getEphemeralKeyInfo(), { name: 'X25519MLKEM768' })
  client.destroy()
})

test('sslscan sees TLS 1.2 and 1.3, forward secrecy everywhere, and nothing weak', async (t) => {
  for (const name of ['shop', 'rsa']) {
    const front = await sluice(await echo(), ingress(`{ terminate: ${name} }`))
    const text = await output('sslscan', [
      '--no-colour',
      '--no-heartbleed',
      `--sni-name=${name}.example`,
      `127.0.0.1:${front.port}`,
    ])
    for (const old of ['SSLv2', 'SSLv3', 'TLSv1.0', 'TLSv1.1']) t.match(text, new RegExp(`${old} +disabled`))
    for (const good of ['TLSv1.2', 'TLSv1.3']) t.match(text, new RegExp(`${good} +enabled`))
    const ciphers = [...text.matchAll(/^(?:Preferred|Accepted) +(TLSv1\.\d) +\d+ bits +(\S+)/gm)].map(
      ([, , cipher]) => cipher!,
    )
    t.ok(ciphers.length >= 5, `${ciphers.length} ciphers`)
    t.same(
      ciphers.filter((cipher) => !/^(TLS_|ECDHE-).*(GCM|CHACHA20|POLY1305)/.test(cipher)),
      [],
    )
    t.match(text, /Session renegotiation not supported/)
    front.close()
  }
})

test('curl and nghttp: h2 and http/1.1 by ALPN, to an HTTP upstream in the clear', async (t) => {
  const server = await listening(
    createHttp((request, response) =>
      response.end(
        `${request.httpVersion} ${request.headers.host} ${request.headers['sluice-identity'] ?? 'nobody'}\n`,
      ),
    ),
  )
  const front = await sluice(
    server,
    ingress('{ terminate: shop, clientCertificates: { trust: root, required: false } }'),
  )
  t.teardown(front.close)
  const curl = (...args: string[]) =>
    output('curl', [
      '-sS',
      '--cacert',
      root.certPath,
      '--resolve',
      `shop.example:${front.port}:127.0.0.1`,
      ...args,
      `https://shop.example:${front.port}/`,
    ])
  t.equal(await curl('--http1.1'), `1.1 shop.example:${front.port} nobody\n`)
  t.match(await front.last(), { protocols: ['tls', 'http1'], tls: { alpn: 'http/1.1' } })
  t.equal(await curl('--http1.1', '--no-alpn'), `1.1 shop.example:${front.port} nobody\n`, 'no ALPN: looked for inside')
  t.equal(
    await curl('--http1.1', '--cert', cow.certPath, '--key', cow.keyPath),
    `1.1 shop.example:${front.port} spiffe://farm/ns/a/sa/cow\n`,
  )
  t.equal(
    await curl('--http1.1', '-H', 'sluice-identity: spiffe://farm/ns/a/sa/cow'),
    `1.1 shop.example:${front.port} nobody\n`,
    'a client cannot forge it',
  )
})

test('HTTP/2 by ALPN with curl, nghttp and grpc-js, to an upstream that speaks it in the clear', async (t) => {
  const server = createHttp2()
  server.on('stream', (stream: ServerHttp2Stream, fields) => {
    stream.respond({ ':status': 200 })
    stream.end(`h2 ${fields[':authority']}\n`)
  })
  const front = await sluice(await listening(server as unknown as TcpServer), ingress('{ terminate: shop }'))
  t.teardown(front.close)
  const resolve = ['--resolve', `shop.example:${front.port}:127.0.0.1`]
  const curl = await output('curl', [
    '-sS',
    '--http2',
    '--cacert',
    root.certPath,
    ...resolve,
    `https://shop.example:${front.port}/`,
  ])
  t.equal(curl, `h2 shop.example:${front.port}\n`)
  t.match(
    await output('nghttp', ['-v', '-H', ':authority: shop.example', `https://127.0.0.1:${front.port}/`]),
    /:status: 200[\s\S]*h2 shop.example/,
  )

  const grpc = new GrpcServer()
  const plain = {
    requestSerialize: (b: Buffer) => b,
    requestDeserialize: (b: Buffer) => b,
    responseSerialize: (b: Buffer) => b,
    responseDeserialize: (b: Buffer) => b,
  }
  grpc.addService(
    { Say: { path: '/farm.Farm/Say', requestStream: false, responseStream: false, ...plain } },
    {
      Say: (call: { request: Buffer }, answer: (error: null, value: Buffer) => void) =>
        answer(null, Buffer.from(`moo ${call.request}`)),
    },
  )
  const port = await promisify(grpc.bindAsync.bind(grpc))('127.0.0.1:0', ServerCredentials.createInsecure())
  const before = { address: () => ({ port }), close: () => grpc.forceShutdown() } as unknown as TcpServer
  const second = await sluice(before, ingress('{ terminate: shop }'))
  t.teardown(second.close)
  const client = new Client(`127.0.0.1:${second.port}`, credentials.createSsl(Buffer.from(root.cert)), {
    'grpc.ssl_target_name_override': 'shop.example',
  })
  const said = await new Promise((settle, reject) =>
    client.makeUnaryRequest(
      '/farm.Farm/Say',
      plain.requestSerialize,
      plain.responseDeserialize,
      Buffer.from('hay'),
      (error, value) => (error ? reject(error) : settle(String(value))),
    ),
  )
  t.equal(said, 'moo hay')
  client.close()
})

test('HTTP goes to the upstream by TLS, by the name of the request, and a handshake that fails is a 502', async (t) => {
  const { createServer: createHttps } = await import('node:https')
  const server = await listening(
    createHttps({ cert: shop.cert, key: shop.key }, (request, response) =>
      response.end(`secure ${request.headers.host}\n`),
    ),
  )
  const front = await sluice(server, 'defaults: { upstream: { tls: { trust: root } } }', 'outbound')
  t.teardown(front.close)
  const curl = (host: string) =>
    output('curl', [
      '-sS',
      '--noproxy',
      '*',
      '-H',
      `Host: ${host}`,
      '-w',
      '%{http_code}',
      `http://127.0.0.1:${front.port}/`,
    ])
  t.equal(await curl('shop.example'), 'secure shop.example\n200')
  t.match(await curl('elsewhere.example'), /502$/)
})

test('a certificate is replaced again and again under load, and not one request fails', async (t) => {
  const place = join(workshop.directory, 'live')
  mkdirSync(place)
  const put = (made: Made) => {
    copyFileSync(made.certPath, join(place, 'a.pem'))
    copyFileSync(made.keyPath, join(place, 'a.key'))
  }
  const versions = [
    shop,
    workshop.make('shop2', { issuer: root, kind: 'rsa', names: ['DNS:shop.example'] }),
    workshop.make('shop3', { issuer: root, names: ['DNS:shop.example'] }),
  ]
  put(versions[0]!)
  const policy = `certificates: { a: { cert: ${place}/a.pem, key: ${place}/a.key } }\n${ingress('{ terminate: a }')}`
  const front = await sluice(await echo(), policy)
  t.teardown(front.close)
  const store = front.world.tls!.certificates
  const seen = new Set<string>()
  let made = 0
  let stop = false
  const caller = async () => {
    while (!stop) {
      const socket = connect({ port: front.port, servername: 'shop.example', ca: root.cert })
      await once(socket, 'secureConnect')
      seen.add(socket.getPeerX509Certificate()!.fingerprint256)
      socket.write('hello\n')
      await once(socket, 'data')
      socket.destroy()
      made++
    }
  }
  const callers = Promise.all(Array.from({ length: 8 }, caller))
  for (const next of [1, 2, 0, 1, 2]) {
    const before = store.certificate('a')!.fingerprint
    put(versions[next]!)
    while (store.certificate('a')!.fingerprint === before) await turn()
    const until = made + 20
    while (made < until) await turn()
  }
  stop = true
  await callers
  t.equal(seen.size, 3, 'all three were served')
  t.equal(front.outcomes.filter(({ result }) => result !== 'forwarded').length, 0, `of ${made} connections none failed`)
})

test('the workshop is swept', async () => workshop.close())
