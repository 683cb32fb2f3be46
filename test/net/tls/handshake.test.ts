import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, statSync } from 'node:fs'
import { createConnection, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { type Duplex, duplexPair } from 'node:stream'
import { type ConnectionOptions, connect } from 'node:tls'
import { test } from 'tap'
import { systemClock } from '../../../src/net/clock.ts'
import { reset } from '../../../src/net/relay.ts'
import { chooseAlpn } from '../../../src/net/tls/alpn.ts'
import { readCertificate, readTrust } from '../../../src/net/tls/certificate.ts'
import type { TlsFailure } from '../../../src/net/tls/failure.ts'
import { openKeyLog } from '../../../src/net/tls/keyLog.ts'
import { type ClientTerms, createOriginator } from '../../../src/net/tls/originate.ts'
import {
  createTerminator,
  refuseHello,
  type Secured,
  type ServerTerms,
  type TerminatorOptions,
} from '../../../src/net/tls/terminate.ts'
import { rotatingTicketKeys } from '../../../src/net/tls/tickets.ts'
import { type Made, openWorkshop } from '../../support/certificates.ts'

const workshop = openWorkshop()
const root = workshop.make('root', { ca: true, names: [] })
const stranger = workshop.make('stranger', { ca: true, names: [] })
const made = {
  ec: workshop.make('shop.example', { issuer: root }),
  rsa: workshop.make('shop-rsa', { issuer: root, kind: 'rsa', names: ['DNS:shop.example'] }),
  ed: workshop.make('shop-ed', { issuer: root, kind: 'ed25519', names: ['DNS:shop.example'] }),
  cow: workshop.make('cow', { issuer: root, names: ['URI:spiffe://farm/cow', 'DNS:cow'] }),
  wolf: workshop.make('wolf', { issuer: stranger, names: ['URI:spiffe://farm/wolf'] }),
}
const certificate = (one: Made) => readCertificate('one', one.cert, one.key)
const trust = readTrust('root', root.cert)
const TERMS: ServerTerms = { certificates: [certificate(made.ec)], minVersion: 'TLSv1.2', alpn: null }
const MUTUAL: ServerTerms = { ...TERMS, clients: { trust, required: true } }

const terminator = (more: Partial<TerminatorOptions> = {}) =>
  createTerminator({
    clock: systemClock,
    tickets: rotatingTicketKeys({ now: systemClock.now, random: randomBytes, periodMs: 3_600_000 }),
    handshakeMs: 5_000,
    handshakesMax: 100,
    ...more,
  })
const originate = createOriginator({ clock: systemClock, handshakeMs: 5_000 })

/** A TLS client of Node's own at one end of a pipe, and what it saw. */
const client = (stream: Duplex, options: ConnectionOptions = {}) => {
  const socket = connect({ socket: stream, servername: 'shop.example', ca: root.cert, ...options })
  const failed = new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
    socket.once('error', resolve).once('close', () => resolve(undefined))
  })
  const secure = new Promise<void>((resolve) => socket.once('secureConnect', resolve))
  return { socket, failed, secure }
}

const succeeded = (result: Secured | TlsFailure): Secured => {
  if (result.failed) throw new Error(`${result.code}: ${result.message}`)
  return result
}

/** All that comes, as text. Unlike a loop over the stream, it leaves the other direction open. */
const text = async (stream: Duplex): Promise<string> => {
  const chunks: Buffer[] = []
  stream.on('data', (chunk) => chunks.push(chunk))
  await once(stream, 'end')
  return String(Buffer.concat(chunks))
}

/** Two sockets of the kernel, joined. */
const socketPair = async (): Promise<[Socket, Socket]> => {
  const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const there = createConnection({ port, host: '127.0.0.1', allowHalfOpen: true })
  const [here] = (await once(server, 'connection')) as [Socket]
  server.close()
  for (const socket of [here, there]) opened.push(socket.on('error', () => {}))
  return [here, there]
}
const opened: Socket[] = []

const PIPES: readonly [string, () => Promise<[Duplex, Duplex]>][] = [
  ['sockets', socketPair],
  ['any two streams', async () => duplexPair()],
]

for (const [name, pipe] of PIPES) {
  test(`TLS ends on ${name}: bytes both ways, half-closed one after the other`, async (t) => {
    const [here, there] = await pipe()
    const { socket } = client(there, { ALPNProtocols: ['h2', 'x'] })
    const result = succeeded(await terminator().terminate(here, { ...TERMS, alpn: 'x' }))
    t.match(result, { sni: 'shop.example', alpn: 'x', version: 'TLSv1.3', identity: null, resumed: false })
    t.match(result.cipher, /^TLS_AES_128_GCM/)
    socket.end('ping')
    t.equal(await text(result.stream), 'ping')
    result.stream.end('pong')
    t.equal(await text(socket), 'pong', 'the answer goes out after the client said goodbye')
  })

  test(`a client's first bytes that were read and put back are not lost on ${name}`, async (t) => {
    const [here, there] = await pipe()
    const { socket } = client(there)
    await once(here, 'readable')
    here.unshift(here.read())
    const result = succeeded(await terminator().terminate(here, TERMS))
    result.stream.end('hello')
    t.equal(await text(socket), 'hello')
    socket.destroy()
  })

  test(`a client that hangs up on ${name} in the handshake ends it at once, by FIN and by reset`, async (t) => {
    for (const leave of [(s: Duplex) => s.end(), (s: Duplex) => s.destroy()]) {
      const [here, there] = await pipe()
      here.on('error', () => {})
      there.write(Buffer.from([22, 3, 1, 2, 0, 1]))
      const result = terminator().terminate(here, TERMS)
      leave(there)
      t.match(await result, { failed: true, code: 'TLS_PEER_CLOSED', message: /closed the connection/ })
    }
  })
}

test('a stream inside TLS can be reset, which its socket alone cannot', async (t) => {
  const [here, there] = await socketPair()
  const { socket } = client(there)
  const result = succeeded(await terminator().terminate(here, TERMS))
  socket.resume()
  const lost = once(socket, 'error')
  reset(result.stream)
  t.match(await lost.catch((error: Error) => [error]), [{ code: 'ECONNRESET' }])
})

test('the kind of key is chosen by what the client can verify', async (t) => {
  const terms = { ...TERMS, certificates: [certificate(made.rsa), certificate(made.ec)] }
  for (const [sigalgs, kind] of [
    ['rsa_pss_rsae_sha256', 'rsa'],
    ['ecdsa_secp256r1_sha256', 'ec'],
  ] as const) {
    const [here, there] = duplexPair()
    const { socket, secure } = client(there, { sigalgs })
    succeeded(await terminator().terminate(here, terms))
    await secure
    t.equal(socket.getPeerX509Certificate()?.publicKey.asymmetricKeyType, kind)
    socket.destroy()
  }
  const [here, there] = duplexPair()
  const { socket } = client(there)
  t.match(await terminator().terminate(here, { ...TERMS, certificates: [certificate(made.ed)] }), { failed: false })
  socket.destroy()
})

test('a client certificate is verified, and its name is the identity', async (t) => {
  const cases: readonly [string, ServerTerms, ConnectionOptions, object][] = [
    ['a good one', MUTUAL, made.cow, { failed: false, identity: 'spiffe://farm/cow' }],
    [
      'none, required, TLS 1.3',
      MUTUAL,
      {},
      { failed: true, alert: 'certificate_required', message: /showed no certificate/ },
    ],
    ['none, required, TLS 1.2', MUTUAL, { maxVersion: 'TLSv1.2' }, { failed: true, message: /showed no certificate/ }],
    [
      'one of a stranger, required',
      MUTUAL,
      made.wolf,
      { failed: true, code: /UNABLE/, message: /the client's certificate/ },
    ],
    ['none, optional', { ...MUTUAL, clients: { trust, required: false } }, {}, { failed: false, identity: null }],
    [
      'one of a stranger, optional',
      { ...MUTUAL, clients: { trust, required: false } },
      made.wolf,
      { failed: false, identity: null, unverified: /UNABLE/ },
    ],
    ['one that nobody asked for', TERMS, made.cow, { failed: false, identity: null }],
  ]
  for (const [pipe, open] of PIPES)
    for (const [name, terms, options, expected] of cases) {
      const [here, there] = await open()
      const { socket } = client(there, options)
      socket.on('error', () => {})
      t.match(await terminator().terminate(here, terms), expected, `${name}, on ${pipe}`)
      socket.destroy()
    }
})

test('every failure says why, with the alert where there is one', async (t) => {
  const cases: readonly [string, ServerTerms, ConnectionOptions, object][] = [
    ['a client without our root', TERMS, { ca: stranger.cert }, { code: /ALERT|CLOSED/ }],
    [
      'TLS 1.2 where 1.3 is the least',
      { ...TERMS, minVersion: 'TLSv1.3' },
      { maxVersion: 'TLSv1.2' },
      { alert: 'protocol_version', message: /no TLS version/ },
    ],
    [
      'TLS 1.1',
      TERMS,
      { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL:@SECLEVEL=0' },
      { alert: 'protocol_version' },
    ],
    [
      'a weak cipher',
      TERMS,
      { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-SHA256' },
      { alert: 'handshake_failure', message: /no cipher/ },
    ],
    [
      'a signature we cannot make',
      TERMS,
      { sigalgs: 'rsa_pss_rsae_sha256' },
      { message: /no signature that the certificate can make/ },
    ],
    ['a strange group', TERMS, { ecdhCurve: 'secp521r1' }, { message: /no key exchange group|no suitable|no cipher/ }],
  ]
  for (const [name, terms, options, expected] of cases) {
    const [here, there] = duplexPair()
    here.on('error', () => {})
    const { failed } = client(there, options)
    t.match(await terminator().terminate(here, terms), { failed: true, ...expected }, name)
    t.ok(await failed, `${name}: the client is told`)
  }
})

test('rubbish after a record header is a failure and not a crash', async (t) => {
  for (const bytes of [
    '160301000401000000',
    '1603010200',
    '16030100050100000103',
    '80 2e 01 00 02',
    'ff'.repeat(100),
  ]) {
    const [here, there] = duplexPair()
    here.on('error', () => {})
    there.on('error', () => {}).resume()
    there.end(Buffer.from(bytes.replaceAll(' ', ''), 'hex'))
    t.match(await terminator().terminate(here, TERMS), { failed: true, code: /./, message: /./ }, bytes)
  }
})

test('the deadline and the number of handshakes hold, and a place is free again afterwards', async (t) => {
  const one = terminator({ handshakeMs: 20, handshakesMax: 1 })
  const [slow, far] = duplexPair()
  slow.on('error', () => {})
  far.on('error', () => {}).write(Buffer.from([22]))
  const awake = setInterval(() => {}, 1_000)
  t.teardown(() => clearInterval(awake))
  const waiting = one.terminate(slow, TERMS)
  t.equal(one.active(), 1)
  t.match(await one.terminate(duplexPair()[0], TERMS), {
    code: 'TLS_HANDSHAKE_LIMIT',
    message: /1 handshakes are under way/,
  })
  t.match(await waiting, { code: 'TLS_HANDSHAKE_TIMEOUT', message: /in 20 ms/ })
  t.equal(one.active(), 0)
  far.destroy()
})

test('handshakes at once are told apart', async (t) => {
  const both = terminator()
  const results = await Promise.all(
    ['h2', 'http/1.1', 'x', 'h2', 'http/1.1', 'x'].map(async (alpn) => {
      const [here, there] = await socketPair()
      const { socket } = client(there, { ALPNProtocols: [alpn] })
      const result = succeeded(await both.terminate(here, { ...TERMS, alpn }))
      result.stream.end(alpn)
      t.equal(await text(socket), alpn)
      return result.alpn
    }),
  )
  t.same(results, ['h2', 'http/1.1', 'x', 'h2', 'http/1.1', 'x'])
})

/** The ticket that a first connection gets, and whether a second with it resumes. */
const ticketFor = async (end: ReturnType<typeof terminator>, terms: ServerTerms, options: ConnectionOptions = {}) => {
  const [here, there] = duplexPair()
  const { socket } = client(there, options)
  const session = once(socket, 'session')
  const result = succeeded(await end.terminate(here, terms))
  result.stream.write('x')
  socket.resume()
  const [ticket] = (await session) as [Buffer]
  socket.destroy()
  return ticket
}
const resumes = async (end: ReturnType<typeof terminator>, terms: ServerTerms, session: Buffer, options = {}) => {
  const [here, there] = duplexPair()
  const { socket } = client(there, { session, ...options })
  const result = succeeded(await end.terminate(here, terms))
  socket.destroy()
  return result.resumed
}

test('sessions resume by ticket on either version, also after the certificate was replaced', async (t) => {
  const end = terminator()
  for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
    const ticket = await ticketFor(end, TERMS, { maxVersion })
    t.ok(await resumes(end, TERMS, ticket, { maxVersion }), maxVersion)
    t.ok(await resumes(end, { ...TERMS, certificates: [certificate(made.rsa)] }, ticket, { maxVersion }), 'replaced')
  }
})

test('a ticket does not resume under other terms, nor once its key is gone', async (t) => {
  let now = 0
  const end = terminator({ tickets: rotatingTicketKeys({ now: () => now, random: randomBytes, periodMs: 1_000 }) })
  const ticket = await ticketFor(end, TERMS)
  t.notOk(await resumes(end, { ...TERMS, minVersion: 'TLSv1.3' }, ticket), 'other terms')
  now = 999
  t.ok(await resumes(end, TERMS, ticket), 'the same key')
  now = 1_000
  t.notOk(await resumes(end, TERMS, ticket), 'the next key: a full handshake, no failure')
})

test('with client certificates nothing is resumed: the certificate is asked for each time', async (t) => {
  const end = terminator()
  const ticket = await ticketFor(end, TERMS, made.cow)
  t.notOk(await resumes(end, MUTUAL, ticket, made.cow))
})

test('a client that renegotiates is not followed', async (t) => {
  const [here, there] = duplexPair()
  const { socket, secure } = client(there, { maxVersion: 'TLSv1.2' })
  const result = succeeded(await terminator().terminate(here, TERMS))
  await secure
  result.stream.resume()
  const error = once(socket, 'error').catch((e: Error) => [e])
  socket.renegotiate({}, () => {})
  t.match(await error, [{ code: /NO_RENEGOTIATION/ }])
  socket.destroy()
})

test('ALPN: the order of the policy, nothing in common, nothing offered', async (t) => {
  t.same(chooseAlpn(['http/1.1', 'h2'], ['h2', 'http/1.1'], true), { is: 'agreed', protocol: 'h2' })
  t.same(chooseAlpn(['x'], ['h2'], false), { is: 'none' })
  t.same(chooseAlpn(null, ['h2'], false), { is: 'none' })
  t.same(chooseAlpn(['x'], [], true), { is: 'none' })
  t.match(chooseAlpn(['x'], ['h2'], true), { is: 'refused', message: /offers x, the policy wants h2/ })
  t.match(chooseAlpn(null, ['h2'], true), { is: 'refused', message: /offers no protocol/ })
})

test('a refusal before any key is the alert in clear, and the client understands it', async (t) => {
  const [here, there] = duplexPair()
  const { failed } = client(there, { ALPNProtocols: ['x'] })
  await once(here, 'readable')
  const result = refuseHello(here, 'TLS_NO_APPLICATION_PROTOCOL', 'no_application_protocol', 'nothing in common')
  t.same(result, {
    failed: true,
    code: 'TLS_NO_APPLICATION_PROTOCOL',
    message: 'nothing in common',
    alert: 'no_application_protocol',
  })
  t.equal((await failed)?.code, 'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL')
})

/** Our client against our server. */
const between = async (server: ServerTerms, asClient: Partial<ClientTerms>) => {
  const [here, there] = duplexPair()
  for (const stream of [here, there]) stream.on('error', () => {})
  const both = [
    terminator().terminate(here, server),
    originate(there, { serverName: 'shop.example', verify: true, trust, alpn: [], minVersion: 'TLSv1.2', ...asClient }),
  ] as const
  const [, result] = await Promise.all(both)
  there.destroy()
  return result
}
const spiffe = (expected: string) => ({ expected, matches: (found: string) => found === expected })

test('the upstream is verified by name, by identity, or not at all', async (t) => {
  const cow = { ...TERMS, certificates: [certificate(made.cow)] }
  const cases: readonly [string, ServerTerms, Partial<ClientTerms>, object][] = [
    ['the right name', TERMS, {}, { failed: false, identity: 'shop.example', version: 'TLSv1.3' }],
    ['another name', TERMS, { serverName: 'other' }, { code: 'ERR_TLS_CERT_ALTNAME_INVALID', message: /other/ }],
    ['an address', TERMS, { serverName: '10.0.0.1' }, { code: 'ERR_TLS_CERT_ALTNAME_INVALID', message: /10.0.0.1/ }],
    [
      'the right identity',
      cow,
      { serverName: 'x', identity: spiffe('spiffe://farm/cow') },
      { failed: false, identity: 'spiffe://farm/cow' },
    ],
    [
      'another identity',
      cow,
      { identity: spiffe('spiffe://farm/pig') },
      { code: 'TLS_IDENTITY_MISMATCH', message: /is for spiffe:\/\/farm\/cow, expected spiffe:\/\/farm\/pig/ },
    ],
    [
      'another root',
      TERMS,
      { trust: readTrust('s', stranger.cert) },
      { code: /UNABLE/, message: /the upstream's certificate/ },
    ],
    ['the roots of the system', TERMS, { trust: undefined } as never, { code: /UNABLE/ }],
    [
      'another root, unverified',
      TERMS,
      { trust: readTrust('s', stranger.cert), verify: false },
      { failed: false, identity: null, unverified: /UNABLE/ },
    ],
    [
      'another name, unverified',
      TERMS,
      { serverName: 'other', verify: false },
      { failed: false, identity: null, unverified: /ALTNAME/ },
    ],
    ['a client certificate', MUTUAL, { certificate: certificate(made.cow) }, { failed: false }],
    ['an agreed protocol', { ...TERMS, alpn: 'h2' }, { alpn: ['x', 'h2'] }, { failed: false, alpn: 'h2' }],
    [
      'no protocol in common',
      { ...TERMS, alpn: 'h2' },
      { alpn: ['x'] },
      { failed: true, alert: 'no_application_protocol' },
    ],
  ]
  for (const [name, server, asClient, expected] of cases) t.match(await between(server, asClient), expected, name)
})

test('an upstream that does not speak TLS, says nothing, or hangs up is a failure in words', async (t) => {
  const ask = async (answer: (upstream: Duplex) => void, ms = 5_000) => {
    const [here, there] = duplexPair()
    for (const stream of [here, there]) stream.on('error', () => {})
    answer(here)
    const terms = { serverName: 'a', verify: true, alpn: [], minVersion: 'TLSv1.2' } as const
    return createOriginator({ clock: systemClock, handshakeMs: ms })(there, terms)
  }
  const awake = setInterval(() => {}, 1_000)
  t.teardown(() => clearInterval(awake))
  t.match(await ask((up) => up.write('220 mail.example ESMTP\r\n')), {
    message: 'the upstream does not speak TLS here',
  })
  t.match(await ask((up) => up.write('HTTP/1.1 400 Bad Request\r\n\r\n')), { message: /does not speak TLS|plain HTTP/ })
  t.match(await ask((up) => up.end()), { code: 'TLS_PEER_CLOSED' })
  t.match(await ask((up) => up.destroy()), { code: 'TLS_PEER_CLOSED' })
  t.match(await ask(() => {}, 20), { code: 'TLS_HANDSHAKE_TIMEOUT' })
})

test('the key log holds the secrets of both sides and is for its owner alone', async (t) => {
  const path = join(workshop.directory, 'keys.log')
  const keyLog = openKeyLog(path)
  const [here, there] = duplexPair()
  const { socket } = client(there)
  succeeded(await terminator({ keyLog }).terminate(here, TERMS))
  socket.destroy()
  keyLog.close()
  t.match(readFileSync(path, 'utf8'), /^(CLIENT|SERVER)_HANDSHAKE_TRAFFIC_SECRET [0-9a-f]{64} [0-9a-f]+$/m)
  t.equal(statSync(path).mode & 0o777, 0o600)
})

test('the workshop is swept', async () => {
  for (const socket of opened) socket.destroy()
  workshop.close()
})
