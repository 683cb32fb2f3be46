import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { certsCommand } from '../../src/admin/certsCommand.ts'
import { checkCommand } from '../../src/admin/checkCommand.ts'
import { openWorkshop } from '../support/certificates.ts'
import { runCommand } from '../support/runCommand.ts'

const workshop = openWorkshop()
const root = workshop.make('root', { ca: true, names: [], days: 900 })
workshop.make('shop', { issuer: root, chain: true, days: 400, names: ['DNS:shop.example', 'DNS:*.shop.example'] })
workshop.make('soon', { issuer: root, days: 5, names: ['URI:spiffe://farm/cow'] })

/** A document beside the certificates, whose paths are relative to it. */
const document = (text: string): string => {
  const place = join(workshop.directory, 'policy')
  mkdirSync(place, { recursive: true })
  const path = join(place, 'a.yaml')
  writeFileSync(path, `apiVersion: sluice/v1\n${text}`)
  return path
}

test('certs shows names, chain, expiry and the rules that use each', async (t) => {
  const path = document(`
certificates: { shop: { cert: ../shop.pem, key: ../shop.key } }
trust: { farm: { ca: ../root.pem } }
mesh: { certificate: shop, trust: farm }
rules: [{ name: front, when: { direction: inbound }, then: { tls: { terminate: shop } } }]
`)
  const { code, out } = await runCommand(certsCommand, [path])
  t.equal(code, 0)
  t.match(
    out,
    /^shop: ec certificate\n {2}names shop.example, \*.shop.example\n {2}CN=shop, until \d{4}-\d\d-\d\d \((399|400) days\)/,
  )
  t.match(out, /issued by CN=root/)
  t.match(out, /used by section mesh, "front" .*a.yaml:\d+\n/)
  t.match(out, /trust farm: 1 roots\n/)
})

test('check warns of a certificate that nothing uses, and of names with a star that no rule ends TLS for', async (t) => {
  const files =
    'certificates: { shop: { cert: ../shop.pem, key: ../shop.key }, soon: { cert: ../soon.pem, key: ../soon.key } }'
  const rule = (sni: string, terminate: string) =>
    document(`${files}\nrules: [{ name: a, when: { sni: ${sni} }, then: { tls: { terminate: ${terminate} } } }]`)
  const star = /shop\.pem:1:1: warning: certificate shop is for \*\.shop\.example, but no rule ends TLS with it/
  const unused = /soon\.pem:1:1: warning: certificate soon is used by no rule/
  const cases: [string, string, RegExp[]][] = [
    ['shop.example', 'shop', [star, unused]],
    ['"*.shop.example"', 'shop', [unused]],
    ['["*.shop.example"]', 'true', []],
    ['www.shop.example', 'true', [star]],
  ]
  for (const [sni, terminate, expected] of cases) {
    const { code, err } = await runCommand(checkCommand, [rule(sni, terminate)])
    t.equal(code, 0)
    t.equal(err.match(/warning:/g)?.length ?? 0, expected.length, err)
    for (const each of expected) t.match(err, each)
  }
})

test('certs exits with 1 for what is expiring, unreadable or does not fit, and says so in JSON as well', async (t) => {
  const path = document(`
certificates:
  soon: { cert: ../soon.pem, key: ../soon.key }
  gone: { cert: ../gone.pem, key: ../gone.key }
  mixed: { cert: ../shop.pem, key: ../soon.key }
`)
  const { code, out } = await runCommand(certsCommand, [path, '--json'])
  t.equal(code, 1)
  const [soon, gone, mixed] = out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  t.match(soon, { name: 'soon', identity: 'spiffe://farm/cow', days: 4, doubts: ['expires in 4 days'], uses: [] })
  t.match(gone, { name: 'gone', problem: /gone.pem cannot be read \(ENOENT\)/ })
  t.match(mixed, { problem: /the private key does not belong to the certificate/ })
})

test('the workshop is swept', async () => workshop.close())
