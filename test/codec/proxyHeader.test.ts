import assert from 'node:assert/strict'
import fc from 'fast-check'
import { test } from 'tap'
import { proxyHeader, writeProxyHeader } from '../../src/codec/proxyHeader.ts'
import { ProtocolError } from '../../src/net/protocolError.ts'

const SIGNATURE = '0d0a0d0a000d0a515549540a'
const four = { source: { host: '192.0.2.1', port: 56324 }, destination: { host: '198.51.100.7', port: 443 } }
const six = { source: { host: '2001:db8::1', port: 1 }, destination: { host: 'fd00::9', port: 65535 } }

const good: readonly (readonly [what: string, bytes: Buffer, header: object])[] = [
  ['version 1 over IPv4', Buffer.from('PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n'), four],
  ['version 1 over IPv6', Buffer.from('PROXY TCP6 2001:db8::1 fd00::9 1 65535\r\n'), six],
  ['version 1 that knows nothing', Buffer.from('PROXY UNKNOWN\r\n'), {}],
  [
    'version 1 that knows nothing, at length',
    Buffer.from('PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n'),
    {},
  ],
  ['version 2 over IPv4', Buffer.from(`${SIGNATURE}2111000cc0000201c6336407dc0401bb`, 'hex'), four],
  [
    'version 2 over IPv6, with a TLV behind',
    Buffer.from(
      `${SIGNATURE}2121002920010db8000000000000000000000001fd0000000000000000000000000000090001ffff0400020000`,
      'hex',
    ),
    six,
  ],
  ['version 2 with a checksum', Buffer.from(`${SIGNATURE}21110013c0000201c6336407dc0401bb030004d45a11b9`, 'hex'), four],
  ['version 2, LOCAL of no known family', Buffer.from(`${SIGNATURE}20770000`, 'hex'), {}],
  ['version 2, LOCAL', Buffer.from(`${SIGNATURE}20000000`, 'hex'), {}],
  ['version 2, a UNIX socket', Buffer.from(`${SIGNATURE}21310002abcd`, 'hex'), {}],
]

for (const [what, bytes, header] of good) {
  test(`${what}: whole, byte by byte, and with what follows`, async () => {
    const expected = { is: 'yes', value: { length: bytes.length, ...header } }
    assert.deepEqual(proxyHeader(bytes), expected)
    for (let cut = 0; cut < bytes.length; cut++)
      assert.equal(proxyHeader(bytes.subarray(0, cut)).is, 'more', `${cut} bytes`)
    assert.deepEqual(proxyHeader(Buffer.concat([bytes, Buffer.from('GET / HTTP/1.1')])), expected)
  })
}

const bad = [
  'PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n',
  'PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 \r\n',
  'PROXY TCP4 192.0.2.1 198.51.100.7 56324 0443\r\n',
  'PROXY TCP4 192.0.2.1 198.51.100.7 56324 65536\r\n',
  'PROXY TCP4 192.0.2.01 198.51.100.7 56324 443\r\n',
  'PROXY TCP4 2001:db8::1 fd00::9 1 2\r\n',
  'PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n',
  'PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n',
  'PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\n',
  `PROXY UNKNOWN ${'x'.repeat(100)}\r\n`,
  Buffer.from(`${SIGNATURE}1111000cc0000201c6336407dc0401bb`, 'hex').toString('latin1'),
  Buffer.from(`${SIGNATURE}2211000cc0000201c6336407dc0401bb`, 'hex').toString('latin1'),
  Buffer.from(`${SIGNATURE}21110004c0000201`, 'hex').toString('latin1'),
  'PROXY UNKNOWN \n\r\n',
  'PROXY TCP6 2001:db8::1%eth0 fd00::9 1 2\r\n',
  ...[
    '2113000cc0000201c6336407dc0401bb', // no such transport
    '2141000cc0000201c6336407dc0401bb', // no such family
    '2111000ec0000201c6336407dc0401bb0400', // half a vector
    '21110010c0000201c6336407dc0401bb04000200', // a vector that ends behind the header
    '21110013c0000201c6336407dc0401bb03000400000000', // a wrong checksum
    '21110012c0000201c6336407dc0401bb030003000000', // half a checksum
  ].map((rest) => Buffer.from(SIGNATURE + rest, 'hex').toString('latin1')),
  Buffer.from(`${SIGNATURE}2111ffff`, 'hex').toString('latin1'),
]

test('what begins like a header and is none is an error that says what is wrong', async () => {
  for (const text of bad) {
    assert.throws(
      () => proxyHeader(Buffer.from(text, 'latin1')),
      { code: 'PROXY_HEADER_MALFORMED' },
      JSON.stringify(text),
    )
  }
})

test('what does not begin like one is left alone', async () => {
  for (const text of ['GET / HTTP/1.1\r\n', 'PROXYING', 'proxy TCP4 ', '\r\n\r\n\0\r\nQUIX']) {
    assert.equal(proxyHeader(Buffer.from(text, 'latin1')).is, 'no', JSON.stringify(text))
  }
})

test('what is written is read back the same, in both versions', async () => {
  const host = fc.oneof(
    fc.ipV4(),
    fc.ipV6().map((text) => new URL(`http://[${text}]`).hostname.slice(1, -1)),
  )
  const address = fc.record({ host, port: fc.integer({ min: 0, max: 65_535 }) })
  fc.assert(
    fc.property(fc.constantFrom('v1', 'v2'), address, address, (version, source, destination) => {
      const bytes = writeProxyHeader(version, source, destination)
      const found = proxyHeader(bytes)
      assert.equal(found.is, 'yes')
      const { value } = found as { value: { source: typeof source; destination: typeof source; length: number } }
      const same = (text: string) => new URL(`http://[${text.includes(':') ? text : `::ffff:${text}`}]`).hostname
      assert.equal(value.length, bytes.length)
      assert.equal(same(value.source.host), same(source.host))
      assert.equal(same(value.destination.host), same(destination.host))
      assert.deepEqual([value.source.port, value.destination.port], [source.port, destination.port])
    }),
  )
})

test('an address that is a name is not written down', async () => {
  const name = { host: 'shop.example', port: 443 }
  assert.equal(String(writeProxyHeader('v1', four.source, name)), 'PROXY UNKNOWN\r\n')
  assert.deepEqual(proxyHeader(writeProxyHeader('v2', four.source, name)), { is: 'yes', value: { length: 16 } })
})

test('no bytes make it throw anything but a ProtocolError', async () => {
  const start = fc.constantFrom(Buffer.from('PROXY '), Buffer.from(SIGNATURE, 'hex'), Buffer.alloc(0))
  fc.assert(
    fc.property(start, fc.uint8Array({ maxLength: 200 }), (head, tail) => {
      try {
        proxyHeader(Buffer.concat([head, tail]))
      } catch (error) {
        assert.ok(error instanceof ProtocolError)
      }
    }),
  )
})
