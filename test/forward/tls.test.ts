import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createTcp, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { type ConnectionOptions, connect, createServer, type TlsOptions } from 'node:tls'
import { test } from 'tap'
import { type ListenerOptions, listen } from '../../src/accept/listen.ts'
import { openTls, type TlsWorld } from '../../src/forward/tlsWorld.ts'
import type { Address } from '../../src/net/address.ts'
import { systemClock } from '../../src/net/clock.ts'
import type { World } from '../../src/proxy.ts'
import type { Outcome } from '../../src/telemetry/outcome.ts'
import { type Made, openWorkshop } from '../support/certificates.ts'
import { toldDiscovery } from '../support/discovery.ts'
import { caller, upstream } from '../support/peers.ts'
import { policyOf, worldOf } from '../support/world.ts'

const workshop = openWorkshop()
const root = workshop.make('root', { ca: true, names: [] })
const stranger = workshop.make('stranger', { ca: true, names: [] })
const shop = workshop.make('shop', { issuer: root, names: ['DNS:shop.example', 'DNS:*.shop.example'] })
const live = workshop.make('live', { issuer: root, kind: 'rsa', names: ['DNS:live.shop.example'] })
const cow = workshop.make('cow', { issuer: root, names: ['URI:spiffe://farm/ns/a/sa/cow'] })
const pig = workshop.make('pig', { issuer: root, names: ['URI:spiffe://farm/ns/b/sa/pig'] })
const wolf = workshop.make('wolf', { issuer: stranger, names: ['URI:spiffe://farm/ns/a/sa/cow'] })

const file = ({ certPath, keyPath }: Made) => `{ cert: ${certPath}, key: ${keyPath} }`
const MATERIAL = `
certificates: { shop: ${file(shop)}, live: ${file(live)}, cow: ${file(cow)}, pig: ${file(pig)}, wolf: ${file(wolf)} }
trust: { root: { ca: ${root.certPath} }, stranger: { ca: ${stranger.certPath} } }
`

interface Front {
  readonly address: Address
  readonly world: World
  readonly tls: TlsWorld
  readonly outcomes: Outcome[]
  /** The next Outcome that is written, or the last one. */
  readonly outcome: () => Promise<Outcome>
  readonly close: () => void
}

/** Sluice on loopback in front of `destination`. */
const front = async (destination: Address, policy: string, changes: Partial<World> = {}): Promise<Front> => {
  const document = `${MATERIAL}${policy}`
  const tls = await openTls(policyOf(document).sections, systemClock, () => {})
  const world = worldOf(document, { tls, ...changes })
  const options = { name: 'test', direction: 'inbound', address: { host: '127.0.0.1', port: 0 }, maxConnections: 100 }
  const listening = await listen({ ...options, destination } as ListenerOptions, world, undefined)
  return {
    address: listening.address,
    world,
    tls,
    outcomes: world.outcomes,
    outcome: async () => {
      if (world.ledger.open.size > 0 || world.outcomes.length === 0)
        await new Promise<void>((resolve) => world.ledger.subscribe(() => resolve()))
      return world.outcomes.at(-1)!
    },
    close: () => {
      listening.close()
      tls.close()
    },
  }
}

const echo = (socket: Duplex) => void socket.pipe(socket)
const nobody: Partial<World> = { dial: () => assert.fail('dialled') }

/** A TLS client, and what it got: what came back for `said`, or the error. */
const call = async ({ port }: Address, options: ConnectionOptions = {}, said = 'hello') => {
  const socket = connect({ port, host: '127.0.0.1', servername: 'shop.example', ca: root.cert, ...options })
  let got = ''
  let code: string | undefined
  socket.on('data', (chunk) => (got += chunk)).on('error', (error: NodeJS.ErrnoException) => (code ??= error.code))
  socket.once('secureConnect', () => socket.end(said))
  let alpn: string | false | null = null
  let subject: string | undefined
  socket.once('secureConnect', () => {
    alpn = socket.alpnProtocol
    subject = socket.getPeerX509Certificate()?.subject
  })
  await once(socket, 'close').catch(() => once(socket, 'close'))
  return { got, code, alpn, subject }
}

/** An upstream that speaks TLS and sends back what it gets. */
const tlsUpstream = async (made: Made, options: TlsOptions = {}) => {
  const seen: { alpn: string | false | null; identity: string | undefined; sni: string | false | null | undefined }[] =
    []
  const server = createServer({ cert: made.cert, key: made.key, allowHalfOpen: true, ...options }, (socket) => {
    socket.on('error', () => {})
    const { alpnProtocol: alpn, servername: sni } = socket as unknown as { alpnProtocol: string; servername: string }
    seen.push({ alpn, sni, identity: socket.getPeerX509Certificate()?.subjectAltName })
    echo(socket)
  }).on('tlsClientError', () => {})
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    address: { host: '127.0.0.1', port: (server.address() as unknown as Address).port },
    seen,
    close: () => server.close(),
  }
}

const inboundTls = (then: string, when = 'protocol: tls') =>
  `rules: [{ name: ingress, when: { ${when} }, then: ${then} }]`

test('TLS that no rule ends is passed through to the upstream untouched', async (t) => {
  const back = await tlsUpstream(shop)
  const sluice = await front(back.address, '')
  t.match(await call(sluice.address), { got: 'hello', subject: 'CN=shop' })
  t.match(await sluice.outcome(), { result: 'forwarded', protocols: ['tls'], sni: 'shop.example' })
  t.notOk((await sluice.outcome()).tls)
  sluice.close()
  back.close()
})

test('the certificate is chosen by server name, the most specific first, or is the one that is named', async (t) => {
  const back = await upstream(echo)
  const cases: readonly [string, string, string | undefined][] = [
    ['true', 'shop.example', 'CN=shop'],
    ['true', 'LIVE.shop.example', 'CN=live'],
    ['true', 'other.shop.example', 'CN=shop'],
    ['live', 'shop.example', 'CN=live'],
    ['[shop, live]', 'live.shop.example', 'CN=live'],
    ['[shop, live]', 'nowhere', 'CN=shop'],
  ]
  for (const [terminate, servername, subject] of cases) {
    const sluice = await front(back.address, inboundTls(`{ tls: { terminate: ${terminate} } }`))
    const found = await call(sluice.address, { servername, checkServerIdentity: () => undefined })
    t.match(found, { got: 'hello', subject }, `${terminate} ${servername}`)
    t.match(await sluice.outcome(), { result: 'forwarded', ended: 'closed', protocols: ['tls', 'opaque'] })
    sluice.close()
  }
  back.close()
})

test('a name that no certificate covers is passed through where any certificate would do', async (t) => {
  const back = await tlsUpstream(pig)
  const sluice = await front(back.address, inboundTls('{ tls: { terminate: true } }'))
  t.match(await call(sluice.address, { servername: 'elsewhere', checkServerIdentity: () => undefined }), {
    subject: 'CN=pig',
  })
  sluice.close()
  back.close()
})

test('ALPN: the order of the policy, none in common, and the alert where one is demanded', async (t) => {
  const back = await upstream(echo)
  const cases: readonly [string, string[], object, object][] = [
    [
      '{ tls: { terminate: shop, alpn: [x, y] } }',
      ['y', 'x'],
      { alpn: 'x', got: 'hello' },
      { reason: 'alpn', tls: { alpn: 'x' } },
    ],
    [
      '{ tls: { terminate: shop, alpn: [x] } }',
      ['z'],
      { alpn: false, got: 'hello' },
      { reason: 'closed', tls: { version: 'TLSv1.3' } },
    ],
    [
      '{ tls: { terminate: shop, alpn: [x] } }',
      [],
      { alpn: false, got: 'hello' },
      { reason: 'closed', tls: { version: 'TLSv1.3' } },
    ],
    [
      '{ tls: { terminate: shop, alpn: [x], alpnRequired: true } }',
      ['z'],
      { code: 'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL', got: '' },
      { ended: 'tlsFailed', error: { code: 'TLS_NO_APPLICATION_PROTOCOL' }, bytes: { sent: 0 } },
    ],
    [
      '{ tls: { terminate: shop, alpn: [x], alpnRequired: true } }',
      [],
      { got: '' },
      { ended: 'tlsFailed', result: 'failed' },
    ],
  ]
  for (const [then, ALPNProtocols, found, outcome] of cases) {
    const sluice = await front(back.address, inboundTls(then))
    t.match(await call(sluice.address, { ALPNProtocols }), found, `${then} ${ALPNProtocols}`)
    t.match(await sluice.outcome(), outcome, `${then} ${ALPNProtocols}`)
    sluice.close()
  }
  back.close()
})

test('a server that speaks first is heard inside TLS', async (t) => {
  const back = await upstream((socket) => {
    socket.write('220 mail\r\n')
    echo(socket)
  })
  const sluice = await front(back.address, inboundTls('{ tls: { terminate: shop, alpn: [] } }'))
  const socket = connect({ port: sluice.address.port, servername: 'shop.example', ca: root.cert })
  t.equal(String((await once(socket, 'data'))[0]), '220 mail\r\n')
  socket.end()
  t.match(await sluice.outcome(), { reason: 'serverFirst', protocols: ['tls', 'opaque'] })
  sluice.close()
  back.close()
})

const BY_IDENTITY = `
rules:
  - { name: ingress, when: { protocol: tls }, then: { tls: { terminate: shop, clientCertificates: { trust: root, required: false } } } }
  - { name: cows may, when: { identity: "spiffe://farm/ns/a/**" }, then: { deny: false } }
  - { name: others may not, when: { direction: inbound }, then: { deny: true } }
`

test('the identity of a client decides, and one that is not verified is none; the denied are not dialled for', async (t) => {
  const back = await upstream(echo)
  const rule = { name: 'ingress' }
  const cases: readonly [string, ConnectionOptions, object, object][] = [
    [
      'a cow',
      cow,
      { got: 'hello' },
      { result: 'forwarded', identity: 'spiffe://farm/ns/a/sa/cow', rules: { deny: { name: 'cows may' } } },
    ],
    [
      'a pig',
      pig,
      { got: '' },
      { result: 'denied', identity: 'spiffe://farm/ns/b/sa/pig', rules: { deny: { name: 'others may not' } } },
    ],
    ['a wolf in the name of a cow', wolf, { got: '' }, { result: 'denied', identity: undefined }],
    ['nobody', {}, { got: '' }, { result: 'denied', rules: { deny: { name: 'others may not' } } }],
  ]
  for (const [name, options, found, outcome] of cases) {
    const sluice = await front(back.address, BY_IDENTITY)
    t.match(await call(sluice.address, options), found, name)
    t.match(await sluice.outcome(), outcome, name)
    t.match(rule, { name: 'ingress' })
    sluice.close()
  }
  t.equal(back.connections.length, 1, 'dialled for the cow alone')
  back.close()
})

test('a client without the certificate that is required is told so, and nothing is dialled', async (t) => {
  const policy = inboundTls('{ tls: { terminate: shop, clientCertificates: { trust: root } } }')
  const sluice = await front({ host: '127.0.0.1', port: 9 }, policy, nobody)
  t.match(await call(sluice.address), { code: 'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED' })
  t.match(await sluice.outcome(), {
    ended: 'tlsFailed',
    sni: 'shop.example',
    error: { code: 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE', message: /showed no certificate, and one is required/ },
    rules: { 'tls.clientCertificates': { name: 'ingress' } },
  })
  sluice.close()
})

test('a plain client passes where policy allows it, and is refused where policy demands an identity', async (t) => {
  const back = await upstream(echo)
  for (const [policy, result] of [
    ['', 'forwarded'],
    [BY_IDENTITY, 'denied'],
  ] as const) {
    const sluice = await front(back.address, policy)
    const socket = await caller(sluice.address)
    socket.resume().end('hello')
    t.match(await sluice.outcome(), { result })
    sluice.close()
  }
  back.close()
})

test('hostile hellos end in an Outcome and nothing else', async (t) => {
  const sluice = await front({ host: '127.0.0.1', port: 9 }, inboundTls('{ tls: { terminate: shop } }'), nobody)
  const body = (extensions: Buffer) => {
    const head = Buffer.concat([Buffer.from([3, 3]), Buffer.alloc(32, 7), Buffer.from([0, 0, 2, 0x13, 0x01, 1, 0])])
    const size = Buffer.from([extensions.length >> 8, extensions.length & 255])
    const hello = Buffer.concat([head, size, extensions])
    const message = Buffer.concat([Buffer.from([1, 0, hello.length >> 8, hello.length & 255]), hello])
    return Buffer.concat([Buffer.from([22, 3, 1, message.length >> 8, message.length & 255]), message])
  }
  const extension = (type: number, size: number) =>
    Buffer.concat([Buffer.from([type >> 8, type & 255, size >> 8, size & 255]), Buffer.alloc(size)])
  const cases: readonly [string, Buffer][] = [
    ['no extensions at all', body(Buffer.alloc(0))],
    ['GREASE and nothing else', body(extension(0x0a0a, 3))],
    ['16 KiB of extensions', body(extension(0xfafa, 16_000))],
    ['an SNI list with wrong lengths', body(Buffer.from([0, 0, 0, 5, 0, 9, 0, 0, 1]))],
    ['supported_versions of SSL 3.0', body(Buffer.from([0, 43, 0, 3, 2, 3, 0]))],
    [
      'the form of SSL 2.0',
      Buffer.concat([Buffer.from([0x80, 28, 1, 3, 1, 0, 3, 0, 0, 0, 16, 0, 0, 4]), Buffer.alloc(16, 5)]),
    ],
  ]
  for (const [name, bytes] of cases) {
    const socket = await caller(sluice.address)
    socket.resume().write(bytes)
    await once(socket, 'end').catch(() => {})
    socket.destroy()
    t.match(await sluice.outcome(), { result: 'failed', ended: 'tlsFailed', error: { code: /./, message: /./ } }, name)
  }
  t.equal(sluice.tls.terminator.active(), 0)
  sluice.close()
})

test('old versions, and hellos with nothing in common, get the right alert and a true Outcome', async (t) => {
  const policy = inboundTls('{ tls: { terminate: [shop, live] } }')
  const sluice = await front({ host: '127.0.0.1', port: 9 }, policy, nobody)
  const hello = (version: number, suites: string, extensions = '') => {
    const two = (value: number) => value.toString(16).padStart(4, '0')
    const list = extensions === '' ? '' : two(extensions.length / 2) + extensions
    const body = `${two(version)}${'07'.repeat(32)}00${two(suites.length / 2)}${suites}0100${list}`
    const message = `0100${two(body.length / 2)}${body}`
    return `16${two(Math.min(version, 0x301))}${two(message.length / 2)}${message}`
  }
  const VERSION = /no TLS version that is allowed here/
  const CIPHER = /no cipher that is allowed here/
  const SIGNATURES = '000d000400020403'
  const cases: readonly [string, string, number, { code: string; message: RegExp }][] = [
    ['SSL 3.0', hello(0x300, '002f00350005'), 70, { code: 'TLS_SSL3_HELLO', message: /SSL 3.0/ }],
    [
      'SSL 3.0 that claims TLS 1.3',
      hello(0x300, '1301', `002b0003020304${SIGNATURES}`),
      70,
      { code: 'TLS_SSL3_HELLO', message: /SSL 3.0/ },
    ],
    ['TLS 1.0', hello(0x301, 'c009c013002f'), 70, { code: 'ERR_SSL_UNSUPPORTED_PROTOCOL', message: VERSION }],
    ['TLS 1.1', hello(0x302, 'c009c013002f'), 70, { code: 'ERR_SSL_UNSUPPORTED_PROTOCOL', message: VERSION }],
    [
      'TLS 1.1 as a second try (TLS_FALLBACK_SCSV)',
      hello(0x302, 'c009c0135600'),
      70,
      { code: 'ERR_SSL_UNSUPPORTED_PROTOCOL', message: VERSION },
    ],
    [
      'TLS 1.1 in supported_versions alone',
      hello(0x303, 'c02b', '002b0003020302'),
      70,
      { code: 'ERR_SSL_UNSUPPORTED_PROTOCOL', message: VERSION },
    ],
    [
      'TLS 1.2 with RSA key exchange',
      hello(0x303, '002f0035'),
      40,
      { code: 'ERR_SSL_NO_SHARED_CIPHER', message: CIPHER },
    ],
    [
      'TLS 1.2 with CBC',
      hello(0x303, 'c009c013c023c027', `000a00040002001d${SIGNATURES}`),
      40,
      { code: 'ERR_SSL_NO_SHARED_CIPHER', message: CIPHER },
    ],
    ['TLS 1.2 with GREASE alone', hello(0x303, '0a0a'), 40, { code: 'ERR_SSL_NO_SHARED_CIPHER', message: CIPHER }],
    [
      'TLS 1.2 with a group we do not have',
      hello(0x303, 'c02bc02f', `000a000400020019${SIGNATURES}`),
      40,
      { code: 'ERR_SSL_NO_SHARED_CIPHER', message: /goes with its groups/ },
    ],
    [
      'TLS 1.3 with CCM',
      hello(0x303, '1304', `002b0003020304${SIGNATURES}000a00040002001d`),
      40,
      { code: 'ERR_SSL_NO_SHARED_CIPHER', message: CIPHER },
    ],
    [
      'TLS 1.3 without a list of signatures',
      hello(0x303, '1301', '002b0003020304'),
      109,
      { code: 'ERR_SSL_MISSING_SIGALGS_EXTENSION', message: /which signatures/ },
    ],
  ]
  for (const [name, bytes, alert, error] of cases) {
    const socket = await caller(sluice.address)
    const heard: Buffer[] = []
    socket.on('data', (chunk: Buffer) => heard.push(chunk)).write(Buffer.from(bytes, 'hex'))
    await once(socket, 'end')
    socket.destroy()
    t.match(
      Buffer.concat(heard).toString('hex'),
      new RegExp(`^1503..000202${alert.toString(16)}$`),
      `${name}: the alert`,
    )
    const { protocols, ...outcome } = await sluice.outcome()
    t.match(outcome, { result: 'failed', ended: 'tlsFailed', error }, name)
    t.same(protocols, ['tls'], `${name}: it was TLS`)
  }
  t.equal(sluice.tls.terminator.active(), 0)
  sluice.close()
})

test('the upstream is spoken to by TLS: verified, by name, by identity, with a certificate of ours', async (t) => {
  const cases: readonly [string, Made, string, object, TlsOptions?][] = [
    [
      'by its name',
      shop,
      '{ serverName: shop.example, trust: root }',
      { result: 'forwarded', upstreamTls: { version: 'TLSv1.3', identity: 'shop.example' } },
    ],
    [
      'by another name',
      shop,
      '{ serverName: other, trust: root }',
      { ended: 'tlsFailed', error: { code: 'ERR_TLS_CERT_ALTNAME_INVALID' } },
    ],
    ['by the address', shop, '{ trust: root }', { ended: 'tlsFailed', error: { message: /127.0.0.1/ } }],
    ['by the roots of the system', shop, 'true', { ended: 'tlsFailed' }],
    ['not at all', shop, '{ verify: false }', { result: 'forwarded', upstreamTls: { identity: undefined } }],
    [
      'by its identity',
      cow,
      '{ trust: root }, identity: "spiffe://farm/ns/a/**"',
      { result: 'forwarded', upstreamTls: { identity: 'spiffe://farm/ns/a/sa/cow' } },
    ],
    [
      'by another identity',
      pig,
      '{ trust: root }, identity: "spiffe://farm/ns/a/**"',
      { ended: 'tlsFailed', error: { code: 'TLS_IDENTITY_MISMATCH' } },
    ],
    [
      'with our certificate',
      shop,
      '{ serverName: shop.example, trust: root, certificate: cow }',
      { result: 'forwarded' },
      { requestCert: true, ca: root.cert },
    ],
    [
      'without one that is wanted',
      shop,
      '{ serverName: shop.example, trust: root }',
      {},
      { requestCert: true, ca: root.cert },
    ],
  ]
  for (const [name, made, tls, outcome, options] of cases) {
    const back = await tlsUpstream(made, options)
    const sluice = await front(back.address, `defaults: { upstream: { tls: ${tls} } }`)
    const socket = await caller(sluice.address)
    socket.resume().end('\x00plain')
    t.match(await sluice.outcome(), outcome, name)
    sluice.close()
    back.close()
  }
})

test('what is agreed on with the client is offered to the upstream, and a bridge asks the upstream first', async (t) => {
  const back = await tlsUpstream(shop, { ALPNProtocols: ['b', 'c'] })
  const to = 'upstream: { tls: { serverName: shop.example, trust: root } }'
  const carried = await front(
    back.address,
    inboundTls(`{ tls: { terminate: shop, alpn: [c] }, ${to} }`, 'direction: inbound'),
  )
  t.match(await call(carried.address, { ALPNProtocols: ['a', 'b', 'c'] }), { alpn: 'c', got: 'hello' })
  t.match(await carried.outcome(), { tls: { alpn: 'c' }, upstreamTls: { alpn: 'c' } })
  carried.close()

  const bridged = await front(
    back.address,
    inboundTls(`{ tls: { terminate: shop, alpn: upstream }, ${to} }`, 'direction: inbound'),
  )
  t.match(await call(bridged.address, { ALPNProtocols: ['a', 'c', 'b'] }), { alpn: 'b', got: 'hello' })
  t.match(await call(bridged.address, { ALPNProtocols: ['a'] }), { got: '' })
  t.match(await bridged.outcome(), { ended: 'tlsFailed', error: { message: /none of the application protocols/ } })
  t.equal(back.seen.length, 2, 'one connection to the upstream for each client that was answered')
  bridged.close()
  back.close()
})

test('an upstream that agrees to nothing is no answer where policy demands a protocol', async (t) => {
  const back = await tlsUpstream(shop)
  const to = 'upstream: { tls: { serverName: shop.example, trust: root } }'
  for (const [demanded, code, outcome] of [
    [false, undefined, { result: 'forwarded' }],
    [true, 'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL', { error: { code: 'TLS_NO_APPLICATION_PROTOCOL' } }],
  ] as const) {
    const then = `{ tls: { terminate: shop, alpn: upstream, alpnRequired: ${demanded} }, ${to} }`
    const sluice = await front(back.address, inboundTls(then, 'direction: inbound'))
    t.equal((await call(sluice.address, { ALPNProtocols: ['a'] })).code, code)
    t.match(await sluice.outcome(), outcome)
    sluice.close()
  }
  back.close()
})

const mesh = (certificate: string) => `mesh: { certificate: ${certificate}, trust: root }`

/** Two Sluices on the way: the first takes plain bytes and calls the second, which stands before `back`. */
const twoSluices = async (back: Address, ours: string, theirs: string) => {
  const far = await front(back, theirs)
  // The second one's listener has a fixed destination; its port is what the header must name.
  const near = await front(far.address, ours)
  return {
    near,
    far,
    close: () => {
      near.close()
      far.close()
    },
  }
}

test('two Sluices know each other, and the second is told what is spoken and which port was called', async (t) => {
  const back = await upstream(echo)
  const theirs = `${mesh('pig')}
rules:
  - { name: only cows, when: { identity: "spiffe://farm/ns/a/**" }, then: { deny: false, upstream: { address: "${back.address.host}:${back.address.port}" } } }
  - { name: nobody else, when: { direction: inbound }, then: { deny: true } }
`
  for (const how of ['require', 'prefer']) {
    const path = await twoSluices(back.address, `${mesh('cow')}\ndefaults: { upstream: { mesh: ${how} } }`, theirs)
    const socket = await caller(path.near.address)
    socket.end('\x00hello')
    t.equal(String((await once(socket, 'data'))[0]), '\x00hello')
    socket.destroy()
    t.match(await path.near.outcome(), {
      upstreamTls: { version: 'TLSv1.3', alpn: 'sluice/1', identity: 'spiffe://farm/ns/b/sa/pig' },
    })
    t.match(await path.far.outcome(), {
      identity: 'spiffe://farm/ns/a/sa/cow',
      protocols: ['tls', 'opaque'],
      reason: 'mesh',
      tls: { alpn: 'sluice/1' },
      rules: { upstream: { name: 'only cows' } },
    })
    path.close()
  }
  back.close()
})

test('a Sluice of strangers is not believed, on either side', async (t) => {
  const back = await upstream(echo)
  const cases = [
    ['they do not believe us', mesh('wolf'), mesh('pig')],
    ['we do not believe them', mesh('cow'), mesh('wolf')],
    [
      'we want another',
      `${mesh('cow')}\nrules: [{ name: x, when: { direction: inbound }, then: { upstream: { identity: spiffe://farm/x } } }]`,
      mesh('pig'),
    ],
  ] as const
  for (const [name, ours, theirs] of cases) {
    const path = await twoSluices(back.address, `${ours}\ndefaults: { upstream: { mesh: require } }`, theirs)
    const socket = await caller(path.near.address)
    socket.resume().end('\x00hello')
    const outcome = await path.near.outcome()
    t.match(outcome.ended, /tlsFailed|upstreamReset|closed/, name)
    path.close()
  }
  t.equal(back.connections.length, 0)
  back.close()
})

test('a peer without a Sluice is spoken to in the clear where policy prefers mesh, is remembered, and fails where it requires it', async (t) => {
  const back = await upstream((socket) => {
    // A server of its own kind: it hangs up on what it does not understand.
    socket.once('data', (first) => {
      if (first[0] === 22) return socket.destroy()
      socket.write(first)
      echo(socket)
    })
  })
  const prefer = await front(back.address, `${mesh('cow')}\ndefaults: { upstream: { mesh: prefer } }`)
  for (const _ of [1, 2]) {
    const socket = await caller(prefer.address)
    socket.end('\x00hello')
    t.equal(String((await once(socket, 'data'))[0]), '\x00hello')
    socket.destroy()
    t.match(await prefer.outcome(), { result: 'forwarded' })
  }
  t.equal(back.connections.length, 3, 'asked once, and then no more')
  prefer.close()

  const require = await front(back.address, `${mesh('cow')}\ndefaults: { upstream: { mesh: require } }`)
  const socket = await caller(require.address)
  socket.resume().end('\x00hello')
  t.match(await require.outcome(), { ended: 'tlsFailed' })
  require.close()
  back.close()
})

test('a peer that agrees on sluice/1 and sends no header, or a wrong one, is told off and nothing is dialled', async (t) => {
  const sluice = await front(
    { host: '127.0.0.1', port: 9 },
    `${mesh('pig')}\ndefaults: { detect: { serverFirst: never } }`,
    nobody,
  )
  const options = { ...cow, ALPNProtocols: ['sluice/1'], checkServerIdentity: () => undefined }
  for (const [said, code] of [
    ['', 'MESH_HEADER_MISSING'],
    ['\xff\xff', 'MESH_HEADER_TOO_LARGE'],
    ['\x00\x03\x02\x01\x01', 'MESH_HEADER_NO_PORT'],
  ] as const) {
    await call(sluice.address, options, Buffer.from(said, 'latin1') as never)
    t.match(await sluice.outcome(), { ended: 'tlsFailed', error: { code }, identity: 'spiffe://farm/ns/a/sa/cow' })
  }
  sluice.close()
})

test('the port in the header may not lead back to us', async (t) => {
  const sluice = await front(
    { host: '127.0.0.1', port: 9 },
    `${mesh('pig')}\ndefaults: { detect: { serverFirst: never } }`,
    {
      ...nobody,
      isOwn: ({ port }) => port === 4143,
    },
  )
  await call(
    sluice.address,
    { ...cow, ALPNProtocols: ['sluice/1'], checkServerIdentity: () => undefined },
    Buffer.from([0, 4, 1, 2, 4143 >> 8, 4143 & 255]) as never,
  )
  t.match(await sluice.outcome(), { result: 'refused', error: { code: 'LOOP' } })
  sluice.close()
})

test('the marker counts only with section mesh, and a rule can ignore it', async (t) => {
  const back = await tlsUpstream(shop, { ALPNProtocols: ['sluice/1'] })
  for (const policy of ['', `${mesh('pig')}\ndefaults: { tls: { mesh: ignore } }`]) {
    const sluice = await front(back.address, policy)
    t.match(await call(sluice.address, { ALPNProtocols: ['sluice/1'] }), { subject: 'CN=shop', got: 'hello' })
    sluice.close()
  }
  back.close()
})

test('a hundred handshakes that come to nothing leave nothing behind', async (t) => {
  const server = createTcp((socket: Socket) => socket.destroy()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const sluice = await front(server.address() as unknown as Address, inboundTls('{ tls: { terminate: shop } }'))
  await Promise.all(
    Array.from({ length: 100 }, async (_, n) => {
      const socket = await caller(sluice.address)
      socket.resume()
      if (n % 2) socket.end(Buffer.from([22, 3, 1, 0]))
      else socket.resetAndDestroy()
      await once(socket, n % 2 ? 'end' : 'close').catch(() => {})
      socket.destroy()
    }),
  )
  while (sluice.world.ledger.open.size > 0) await sluice.outcome()
  t.equal(sluice.tls.terminator.active(), 0)
  t.equal(sluice.outcomes.length, 100)
  sluice.close()
  server.close()
})

test('the identity that discovery gives for an endpoint has to be proven, beside what the policy wants', async (t) => {
  const cases: readonly (readonly [identity: string, policy: string, outcome: object])[] = [
    ['spiffe://farm/ns/a/sa/cow', '', { result: 'forwarded', name: 'cows.farm.svc.cluster.local.' }],
    ['spiffe://farm/ns/a/sa/calf', '', { ended: 'tlsFailed', error: { code: 'TLS_IDENTITY_MISMATCH' } }],
    ['spiffe://farm/ns/a/sa/cow', ', identity: "spiffe://farm/ns/a/**"', { result: 'forwarded' }],
    ['spiffe://farm/ns/a/sa/cow', ', identity: "spiffe://farm/ns/b/**"', { ended: 'tlsFailed' }],
  ]
  for (const [identity, more, outcome] of cases) {
    const back = await tlsUpstream(cow)
    const names = toldDiscovery()
    names.at('cows:443', { address: back.address, weight: 1, labels: {}, identity })
    const then = `{ protocol: opaque, upstream: { authority: "cows:443", tls: { trust: root }${more} } }`
    const sluice = await front(back.address, `rules: [{ name: cows, then: ${then} }]`, { discovery: names })
    const client = await caller(sluice.address)
    client.end('hello')
    await once(client.resume(), 'close').catch(() => {})
    t.match(await sluice.outcome(), outcome, `${identity}${more}`)
    sluice.close()
    back.close()
  }
})

test('the workshop is swept', async () => workshop.close())
