import { copyFileSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { test } from 'tap'
import { systemClock } from '../../../src/net/clock.ts'
import { readCertificate, readTrust } from '../../../src/net/tls/certificate.ts'
import { covers, identityOf, readAltNames } from '../../../src/net/tls/names.ts'
import { type CertificateSource, certificateFiles, type Entry, type Material } from '../../../src/net/tls/source.ts'
import { type CertificateEvent, openCertificates } from '../../../src/net/tls/store.ts'
import { type Made, openWorkshop } from '../../support/certificates.ts'

const DAY_MS = 86_400_000
const workshop = openWorkshop()
const root = workshop.make('root', { ca: true, names: [] })
const shop = workshop.make('shop.example', {
  issuer: root,
  chain: true,
  names: ['DNS:shop.example', 'DNS:*.shop.example'],
})
const live = workshop.make('live.shop.example', { issuer: root, kind: 'rsa' })
const liveToo = workshop.make('live-ec', { issuer: root, names: ['DNS:live.shop.example'] })
const svid = workshop.make('svid', {
  issuer: root,
  kind: 'ed25519',
  names: ['URI:spiffe://farm/ns/a/sa/cow', 'DNS:cow'],
})
const entry = ({ certPath, keyPath }: Made): Entry => ({ cert: certPath, key: keyPath })

test('subject alternative names are read by kind, quoted ones too', async (t) => {
  t.same(readAltNames('DNS:A.example, IP Address:10.0.0.1, URI:spiffe://a/b'), {
    dns: ['a.example'],
    uri: ['spiffe://a/b'],
    ip: ['10.0.0.1'],
  })
  t.same(readAltNames('DNS:"a, URI:spiffe://forged", URI:"x, y"'), {
    dns: ['a, uri:spiffe://forged'],
    uri: ['x, y'],
    ip: [],
  })
  t.same(readAltNames(undefined), { dns: [], uri: [], ip: [] })
})

test('the identity is the only URI, else the first DNS name that is one, else none', async (t) => {
  t.equal(identityOf({ subjectAltName: 'DNS:a, URI:spiffe://a/b' }), 'spiffe://a/b')
  t.equal(identityOf({ subjectAltName: 'DNS:*.a, DNS:b' }), 'b')
  t.equal(identityOf({ subjectAltName: 'URI:spiffe://a/b, URI:spiffe://a/c, DNS:d' }), null)
  t.equal(identityOf({ subjectAltName: undefined as unknown as string }), null)
})

test('a wildcard covers one label and not none, not two', async (t) => {
  t.ok(covers('a.example', 'a.example'))
  t.ok(covers('*.example', 'a.example'))
  t.notOk(covers('*.example', 'example'))
  t.notOk(covers('*.example', 'b.a.example'))
  t.notOk(covers('*.example', '.example'))
})

test('RSA, ECDSA and Ed25519 with a chain are read, with names, identity and the earliest end', async (t) => {
  t.match(readCertificate('shop', shop.cert, shop.key), {
    keyType: 'ec',
    identity: 'shop.example',
    chain: { length: 2 },
    warnings: [],
  })
  t.match(readCertificate('live', live.cert, live.key), { keyType: 'rsa', names: { dns: ['live.shop.example'] } })
  const read = readCertificate('svid', svid.cert, svid.key)
  t.match(read, { keyType: 'ed25519', identity: 'spiffe://farm/ns/a/sa/cow' })
  t.ok(Math.abs(read.notAfter - Date.now() - 30 * DAY_MS) < DAY_MS)
})

test('what is wrong with a file is said in words', async (t) => {
  const weak = workshop.make('weak', { kind: 'rsa1024' })
  const cases: readonly [string, string, string, RegExp][] = [
    ['an empty file', '', shop.key, /no PEM block named CERTIFICATE/],
    ['a key as certificate', shop.key, shop.key, /holds a PRIVATE KEY and no CERTIFICATE/],
    ['a cut certificate', shop.cert.replace(/MII.{40}/, 'MIIB'), shop.key, /certificate 1 of 2 cannot be decoded/],
    ['no key', shop.cert, '', /no private key found/],
    ['a cut key', shop.cert, shop.key.replace(/MI.{40}/, 'MIGH'), /private key cannot be decoded/],
    ['the key of another', shop.cert, live.key, /does not belong to the certificate/],
    [
      'the issuer first',
      root.cert + shop.cert,
      shop.key,
      /belongs to certificate 2; the certificate of the server comes first/,
    ],
    ['a short RSA key', weak.cert, weak.key, /1024 bits is too short/],
  ]
  for (const [name, cert, key, message] of cases) t.throws(() => readCertificate('x', cert, key), message, name)
  t.throws(() => readTrust('x', 'nothing'), /no PEM block/)
})

test('what works but should be mended is a warning', async (t) => {
  const nameless = workshop.make('nameless', { names: [] })
  t.match(readCertificate('x', nameless.cert, nameless.key).warnings, [/no subject alternative name/])
  const wrongChain = readCertificate(
    'x',
    shop.cert.slice(0, shop.cert.indexOf('-----END')) +
      shop.cert.slice(shop.cert.indexOf('-----END'), shop.cert.indexOf('-----END') + 26) +
      live.cert,
    shop.key,
  )
  t.match(wrongChain.warnings, [/certificate 2 of the chain did not issue certificate 1/])
})

/** A store over files, and a promise for each event that is waited for. */
const openStore = async (entries: Record<string, Entry>, today: () => number = Date.now) => {
  const events: CertificateEvent[] = []
  let told = () => {}
  const store = await openCertificates(certificateFiles(new Map(Object.entries(entries)), systemClock), {
    clock: { ...systemClock, time: today },
    warnMs: 14 * DAY_MS,
    report: (event) => {
      events.push(event)
      told()
    },
  })
  const until = async (is: CertificateEvent['is']): Promise<CertificateEvent> => {
    const awake = setInterval(() => {}, 60_000) // neither watchers nor clocks keep a process alive
    try {
      for (;;) {
        const found = events.find((event) => event.is === is)
        if (found) return found
        await new Promise<void>((resolve) => {
          told = resolve
        })
      }
    } finally {
      clearInterval(awake)
    }
  }
  return { store, events, until }
}

test('the most specific certificate is chosen by server name, one for each kind of key', async (t) => {
  const { store } = await openStore({ shop: entry(shop), live: entry(live), liveToo: entry(liveToo) })
  t.teardown(store.close)
  const chosen = (name: string) => store.forServer(name).map((one) => one.name)
  t.same(chosen('shop.example'), ['shop'])
  t.same(chosen('LIVE.shop.example'), ['live', 'liveToo'])
  t.same(chosen('other.shop.example'), ['shop'])
  t.same(chosen('a.b.shop.example'), [])
  t.same(chosen('elsewhere'), [])
})

test('a file that changes is taken, a bad one is reported and the old one stays, a mended one is taken again', async (t) => {
  const place = join(workshop.directory, 'rotating')
  mkdirSync(place)
  const [cert, key] = [join(place, 'a.pem'), join(place, 'a.key')]
  const put = (made: Made) => {
    copyFileSync(made.certPath, cert)
    copyFileSync(made.keyPath, key)
  }
  put(shop)
  const { store, events, until } = await openStore({ a: { cert, key } })
  t.teardown(store.close)
  const first = store.certificate('a')!
  t.match(events, [{ is: 'loaded', name: 'a' }])

  writeFileSync(cert, 'rubbish')
  t.match(await until('problem'), { name: 'a', kept: true, problem: /no PEM block/ })
  t.equal(store.certificate('a'), first, 'the old one is in use')
  t.match(store.loaded(), [{ name: 'a', problem: /no PEM block/, certificate: { fingerprint: first.fingerprint } }])

  put(live)
  t.match(await until('replaced'), { name: 'a' })
  t.same(store.certificate('a')?.names.dns, ['live.shop.example'])
  t.notOk(store.loaded()[0]!.problem)
})

test('a secret that Kubernetes swaps by its ..data link is seen', async (t) => {
  const place = join(workshop.directory, 'mounted')
  const version = (name: string, made: Made) => {
    mkdirSync(join(place, name), { recursive: true })
    copyFileSync(made.certPath, join(place, name, 'tls.crt'))
    copyFileSync(made.keyPath, join(place, name, 'tls.key'))
  }
  version('..1', shop)
  symlinkSync('..1', join(place, '..data'))
  for (const file of ['tls.crt', 'tls.key']) symlinkSync(join('..data', file), join(place, file))
  const { store, until } = await openStore({ a: { cert: join(place, 'tls.crt'), key: join(place, 'tls.key') } })
  t.teardown(store.close)

  version('..2', svid)
  symlinkSync('..2', join(place, '..data_tmp'))
  renameSync(join(place, '..data_tmp'), join(place, '..data'))
  rmSync(join(place, '..1'), { recursive: true })
  await until('replaced')
  t.equal(store.certificate('a')?.identity, 'spiffe://farm/ns/a/sa/cow')
})

test('a replacement that has expired does not push out one that is valid', async (t) => {
  const place = join(workshop.directory, 'expired')
  mkdirSync(place)
  const [cert, key] = [join(place, 'a.pem'), join(place, 'a.key')]
  const short = workshop.make('short', { days: 2 })
  copyFileSync(shop.certPath, cert)
  copyFileSync(shop.keyPath, key)
  const { store, until } = await openStore({ a: { cert, key } }, () => Date.now() + 5 * DAY_MS)
  t.teardown(store.close)
  copyFileSync(short.certPath, cert)
  copyFileSync(short.keyPath, key)
  t.match(await until('problem'), { problem: /the new certificate expired on \d{4}-/, kept: true })
  t.equal(store.certificate('a')?.identity, 'shop.example')
})

test('an end that is near is warned of once a day, and a file that is missing is a problem from the start', async (t) => {
  const { store, events } = await openStore(
    {
      soon: entry(shop),
      roots: { trust: root.certPath },
      gone: { cert: '/nonexistent/a.pem', key: '/nonexistent/a.key' },
    },
    () => Date.now() + 20 * DAY_MS,
  )
  t.teardown(store.close)
  await store.refresh()
  t.match(
    events.filter(({ is }) => is === 'expiring'),
    [
      { name: 'soon', days: 9 },
      { name: 'roots', days: 9 },
    ],
  )
  t.equal(events.filter(({ is }) => is === 'expiring').length, 2)
  t.match(
    events.find(({ is }) => is === 'problem'),
    { name: 'gone', kept: false, problem: /a.pem cannot be read \(ENOENT\)/ },
  )
  t.equal(store.trust('roots')?.roots.length, 1)
  t.equal(store.certificate('gone'), undefined)
})

test('another set of files takes the place of the first at once; what is gone from it is found by name until the next', async (t) => {
  const { store } = await openStore({ a: entry(shop), b: entry(live), roots: { trust: root.certPath } })
  t.teardown(store.close)
  const names = () => store.loaded().map(({ name }) => name)
  const [a, roots] = [store.certificate('a'), store.trust('roots')]
  const prepare = (entries: Record<string, Entry>) =>
    store.prepare(certificateFiles(new Map(Object.entries(entries)), systemClock))

  const use = await prepare({ b: entry(live), c: entry(svid) })
  t.same([names(), store.certificate('c')], [['a', 'b', 'roots'], undefined], 'read, and not in use')
  use()
  t.same(names(), ['b', 'c'])
  t.same(store.certificate('c')?.identity, 'spiffe://farm/ns/a/sa/cow')
  t.same([store.certificate('a'), store.trust('roots')], [a, roots], 'for connections of the policy before')
  t.same(store.forServer('shop.example'), [], 'no new connection gets it by its server name')
  await store.refresh()
  t.equal(store.certificate('a'), a)

  ;(await prepare({ c: entry(svid) }))()
  t.same([names(), store.certificate('a'), store.trust('roots')], [['c'], undefined, undefined])
})

test('the answer of a source that was replaced while it was read changes nothing', async (t) => {
  const made = { cert: shop.cert, key: shop.key }
  let answer: ((materials: ReadonlyMap<string, Material>) => void) | undefined
  let reads = 0
  const slow: CertificateSource = {
    read: () =>
      reads++ === 0 ? Promise.resolve(new Map([['a', made]])) : new Promise((resolve) => (answer = resolve)),
    watch: () => () => {},
  }
  const options = { clock: systemClock, warnMs: 0, report: () => {} }
  const store = await openCertificates(slow, options)
  t.teardown(store.close)
  const reading = store.refresh()
  while (!answer) await turn()
  ;(await store.prepare(certificateFiles(new Map([['b', entry(live)]]), systemClock)))()
  answer(new Map([['a', made]]))
  await reading
  t.same(
    store.loaded().map(({ name }) => name),
    ['b'],
  )
})

test('the workshop is swept', async () => workshop.close())
