import fc from 'fast-check'
import t from 'tap'
import { type ClientHello, clientHello, clientHelloBytes } from '../../src/codec/clientHello.ts'
import { helloBytes, helloMessage, inRecords } from '../support/clientHello.ts'

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex')

const parsed = (bytes: Uint8Array): ClientHello => {
  const answer = clientHello(bytes)
  if (answer.is !== 'yes') throw new Error(answer.is)
  return answer.value
}

t.test('a hello tells its names, versions and extension types in order', async (t) => {
  const hello = parsed(
    helloBytes({
      sni: 'Shop.example',
      alpn: ['h2', 'sluice/1'],
      versions: [0x0a0a, 0x0304, 0x0303],
      session: 32,
      extra: [[0xff01, hex('00')]],
    }),
  )
  t.same(hello, {
    recordVersion: 0x0301,
    legacyVersion: 0x0303,
    supportedVersions: [0x0a0a, 0x0304, 0x0303],
    sni: 'Shop.example',
    alpn: ['h2', 'sluice/1'],
    extensions: [0xff01, 0, 16, 43],
  })
})

t.test('a hello without extensions is one', async (t) => {
  t.match(parsed(helloBytes({})), { sni: null, alpn: null, supportedVersions: null, extensions: [] })
})

t.test('a hello in records of any size is the same hello, and more until its last byte', async (t) => {
  const hello = { sni: 'shop.example', alpn: ['h2'], padding: 300 }
  const whole = parsed(helloBytes(hello))
  for (const size of [1, 2, 3, 4, 5, 7, 100, 1_000, 16_384]) {
    const bytes = helloBytes(hello, size)
    t.same(parsed(bytes), whole, `records of ${size}`)
    t.same(parsed(Buffer.concat([bytes, hex('1403030001 01')])), whole, `records of ${size}, early bytes after`)
    for (let end = 0; end < bytes.length; end++)
      if (clientHello(bytes.subarray(0, end)).is !== 'more') t.fail(`records of ${size}, ${end} bytes`)
  }
})

t.test('two messages in one record: the second is not looked at', async (t) => {
  const message = helloMessage({ sni: 'a.example' })
  t.equal(parsed(inRecords(Buffer.concat([message, hex('01000000')]), 16_384)).sni, 'a.example')
})

const MESSAGE = helloMessage({ sni: 'a.example' })
const withByte = (at: number, value: number, message = MESSAGE): Buffer => {
  const changed = Buffer.from(message)
  changed[at] = value
  return inRecords(changed, 16_384)
}

const REFUSED: readonly (readonly [string, Buffer])[] = [
  ['a record of major version 2', hex('16 02 01')],
  ['a record of no bytes', hex('16 0301 0000')],
  ['a record longer than 2^14', hex('16 0301 4001')],
  ['another handshake message', hex('16 0301 0004 02')],
  ['a message too short to be one', hex('16 0301 0004 01 000010')],
  [
    'another record in the middle',
    Buffer.concat([helloBytes({ padding: 100 }, 50).subarray(0, 55), hex('15 0301 0002')]),
  ],
  ['client_version 2', withByte(4, 2)],
  ['a session id of 33 bytes', withByte(4 + 34, 33)],
  ['an odd number of bytes of cipher suites', withByte(4 + 36, 3)],
  ['no cipher suites', withByte(4 + 36, 0)],
  ['no compression methods', withByte(4 + 39, 0)],
  ['extensions longer than the message', withByte(4 + 42, 200)],
  ['an extension longer than the extensions', withByte(4 + 46, 200)],
]
for (const [name, bytes] of REFUSED) {
  t.test(`${name} is no hello`, async (t) => {
    t.equal(clientHello(bytes).is, 'no')
    t.equal(clientHello(Buffer.concat([bytes, Buffer.alloc(100)])).is, 'no', 'with trailing bytes')
    const first = [...bytes.keys()].find((end) => clientHello(bytes.subarray(0, end)).is === 'no')
    t.ok(first === undefined || first > 0, 'byte by byte never yes')
    for (let end = 0; end <= bytes.length; end++) t.not(clientHello(bytes.subarray(0, end)).is, 'yes')
  })
}

const oneExtension = (type: number, body: string): ClientHello => parsed(helloBytes({ extra: [[type, hex(body)]] }))

t.test('an extension that does not add up tells nothing, and the hello stands', async (t) => {
  for (const body of [
    '',
    '00',
    '0005 00 0003 61',
    '0004 00 0002 61',
    '0003 00 0000',
    '0004 00 0001 0a',
    '0004 00 0001 ff',
    '0004 01 0001 61',
  ])
    t.equal(oneExtension(0, body).sni, null, `server_name ${body}`)
  for (const body of ['', '00', '0003 0268', '0002 0268', '0001 00'])
    t.equal(oneExtension(16, body).alpn, null, `ALPN ${body}`)
  for (const body of ['', '00', '03 0304 03', '02 03']) t.equal(oneExtension(43, body).supportedVersions, null)
  t.equal(oneExtension(0, '0004 00 0001 61').sni, 'a')
  t.equal(oneExtension(0, '0008 01 0001 7a 00 0001 61').sni, 'a', 'a name of another kind first')
})

t.test('of an extension that comes twice the first counts', async (t) => {
  const name = (letter: string) => [0, hex(`0004 00 0001 ${letter}`)] as const
  const hello = parsed(helloBytes({ extra: [name('61'), name('62')] }))
  t.match(hello, { sni: 'a', extensions: [0] })
})

t.test('a hello in SSL 2.0 form is one, when its lengths add up', async (t) => {
  const form = hex(`802e 01 0301 0015 0000 0010 ${'000039'.repeat(7)} ${'11'.repeat(16)}`)
  t.match(parsed(form), { recordVersion: 2, legacyVersion: 0x0301, sni: null, alpn: null, extensions: [] })
  t.match(parsed(Buffer.concat([form, hex('00')])), { legacyVersion: 0x0301 })
  for (let end = 0; end < form.length; end++) t.equal(clientHello(form.subarray(0, end)).is, 'more')
  for (const [at, value] of [
    [2, 2],
    [3, 1],
    [4, 9],
    [6, 0x14],
    [8, 5],
    [10, 40],
    [1, 0x2f],
  ] as const) {
    const changed = Buffer.from(form)
    changed[at] = value
    t.equal(clientHello(changed).is, 'no', `byte ${at}`)
  }
})

t.test('the length field is believed only where it stands in the first record', async (t) => {
  t.equal(clientHelloBytes(hex('16 0301 4000 01 010000')), 65_536 + 9)
  t.equal(clientHelloBytes(hex('16 0301 4000 01 0100')), 0)
  t.equal(clientHelloBytes(hex('16 0301 0003 01 010000')), 0)
  t.equal(clientHelloBytes(hex('17 0301 4000 01 010000')), 0)
})

t.test('no bytes throw, and an answer once given stands', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 120 }), fc.nat(120), (bytes, cut) => {
      const hello = Buffer.concat([
        helloBytes({ sni: 'a.example', alpn: ['h2'] }, 1 + (cut % 40)).subarray(0, cut),
        bytes,
      ])
      let before = 'more'
      for (let end = 0; end <= hello.length; end++) {
        const { is } = clientHello(hello.subarray(0, end))
        if (before !== 'more' && is !== before) throw new Error(`${before}, then ${is}`)
        before = is
      }
    }),
    { numRuns: 300 },
  )
})
