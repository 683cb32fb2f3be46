import { test } from 'tap'
import { decide } from '../../src/policy/decide.ts'
import { parsePolicy } from '../../src/policy/parsePolicy.ts'
import { settled } from '../../src/policy/verdict.ts'
import { policyOf } from '../support/world.ts'

const MATERIAL = `
certificates: { shop: { cert: a.pem, key: a.key } }
trust: { farm: { ca: roots.pem } }
`
const address = { host: '10.0.0.1', port: 443 }
const facts = { direction: 'inbound', peer: address, destination: address, request: null, identity: null } as const

/** The messages of a document's mistakes. */
const mistakes = (text: string): string[] => {
  const parsed = parsePolicy([{ path: 'a.yaml', text: `apiVersion: sluice/v1\n${text}` }])
  return parsed.is === 'policy' ? [] : parsed.diagnostics.map(({ message }) => message)
}

test('nothing is terminated, asked for or wrapped unless the document says so; verification is on', async (t) => {
  const verdict = decide(policyOf(''), facts)
  t.same(settled(verdict['tls.terminate']), { is: 'never' })
  t.same(settled(verdict['tls.alpn']), ['h2', 'http/1.1'])
  t.equal(settled(verdict['tls.minVersion']), 'TLSv1.2')
  t.equal(settled(verdict['tls.clientCertificates']), false)
  t.equal(settled(verdict['upstream.tls']), false)
  t.equal(settled(verdict['upstream.mesh']), 'never')
  const wrapped = decide(policyOf('defaults: { upstream: { tls: { serverName: a } } }'), facts)
  t.match(settled(wrapped['upstream.tls']), { verify: true, minVersion: 'TLSv1.2' })
})

test('every way to write whether TLS ends here', async (t) => {
  for (const [written, read] of [
    ['true', { is: 'any' }],
    ['false', { is: 'never' }],
    ['shop', { is: 'named', names: ['shop'] }],
    ['[shop]', { is: 'named', names: ['shop'] }],
  ] as const)
    t.same(
      settled(decide(policyOf(`${MATERIAL}defaults: { tls: { terminate: ${written} } }`), facts)['tls.terminate']),
      read,
    )
})

test('names that nothing defines, impossible versions, keys in the document and half a mesh are mistakes', async (t) => {
  const cases: readonly [string, RegExp][] = [
    ['defaults: { tls: { terminate: shpo } }', /there is no "shpo" in certificates; did you mean "shop"/],
    ['defaults: { tls: { clientCertificates: { trust: frm } } }', /there is no "frm" in trust; did you mean "farm"/],
    ['defaults: { upstream: { tls: { certificate: x } } }', /there is no "x" in certificates/],
    ['mesh: { certificate: shoop, trust: farm }', /there is no "shoop" in certificates/],
    ['mesh: { certificate: shop }', /needs both a certificate and a trust/],
    ['defaults: { tls: { minVersion: TLSv1.1 } }', /TLSv1.2 or TLSv1.3/],
    ['defaults: { tls: { alpn: h2 } }', /"upstream", or a list of application protocols/],
    ['defaults: { tls: { terminate: 3 } }', /true, false, or names of certificates/],
    [
      'rules: [{ name: late, when: { identity: none }, then: { tls: { terminate: shop } } }]',
      /identity is known only .* too late for tls.terminate/,
    ],
  ]
  for (const [text, message] of cases) t.match(mistakes(`${MATERIAL}${text}`).join('\n'), message, text)
  t.match(mistakes('trust: { farm: { ca: "-----BEGIN CERTIFICATE-----" } }').join(), /keys are never inline/)
})
