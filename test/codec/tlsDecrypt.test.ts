import fc from 'fast-check'
import { test } from 'tap'
import { decryptClient, readKeyLog } from '../../src/codec/tlsDecrypt.ts'
import { own, tlsTalk } from '../support/tlsTalk.ts'

const { key, cert } = own

const CASES: readonly [string, object, boolean?][] = [
  ['TLS 1.3, AES-128-GCM', { minVersion: 'TLSv1.3', ciphers: 'TLS_AES_128_GCM_SHA256' }],
  ['TLS 1.3, AES-256-GCM', { minVersion: 'TLSv1.3', ciphers: 'TLS_AES_256_GCM_SHA384' }],
  ['TLS 1.3, ChaCha20', { minVersion: 'TLSv1.3', ciphers: 'TLS_CHACHA20_POLY1305_SHA256' }],
  ['TLS 1.3 after a HelloRetryRequest', { minVersion: 'TLSv1.3', ecdhCurve: 'P-521:P-256' }],
  ['TLS 1.3 with a client certificate', { minVersion: 'TLSv1.3', key, cert }, true],
  ['TLS 1.2, AES-128-GCM', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-GCM-SHA256' }],
  ['TLS 1.2, AES-256-GCM', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES256-GCM-SHA384' }],
  ['TLS 1.2, ChaCha20', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-CHACHA20-POLY1305' }],
]

for (const [name, options, requestCert] of CASES)
  test(`${name} opens with its key log`, async (t) => {
    const { client, server, log } = await tlsTalk(options, requestCert)
    const found = decryptClient(client, server, readKeyLog(log))
    t.match(found, { is: 'yes' })
    t.match(found.is === 'yes' && String(found.bytes), /^GET \/secret HTTP\/1.1/)
    for (let cut = 0; cut < client.length; cut += 7)
      t.ok(decryptClient(client.subarray(0, cut), server, readKeyLog(log)).is)
  })

test('where it does not open, it says why', async (t) => {
  const { client, server, log } = await tlsTalk({ minVersion: 'TLSv1.3' })
  const secrets = readKeyLog(log)
  const why = (...args: Parameters<typeof decryptClient>) =>
    t.match(decryptClient(...args), { is: 'no' }) && decryptClient(...args)
  t.match(why(client, server, readKeyLog('')), { why: /nothing about this session/ })
  t.match(why(client.subarray(0, 20), server, secrets), { why: /does not hold the ClientHello/ })
  t.match(why(client, Buffer.alloc(0), secrets), { why: /does not hold the ServerHello/ })
  t.match(why(client, server, readKeyLog(log.replace(/^CLIENT_TRAFFIC.*$/m, ''))), { why: /lacks one of the two/ })
  t.match(why(client, server, readKeyLog(log.replace(/^(CLIENT_HANDSHAKE\S+ \S+ )\S\S/m, '$1ff'))), {
    why: /does not open|nothing inside/,
  })
  const cbc = await tlsTalk({ maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-SHA256' })
  t.match(why(cbc.client, cbc.server, readKeyLog(cbc.log)), { why: /cipher suite 0xc023 cannot be opened here/ })
})

test('any bytes are opened or refused, never thrown over', async () => {
  const { client, server, log } = await tlsTalk({ minVersion: 'TLSv1.3' })
  const secrets = readKeyLog(log)
  fc.assert(
    fc.property(fc.nat(client.length - 1), fc.nat(server.length - 1), fc.nat(255), (at, there, byte) => {
      const [one, other] = [Buffer.from(client), Buffer.from(server)]
      one[at] = byte
      other[there] = byte
      return decryptClient(one, other, secrets).is.length > 0
    }),
  )
})
