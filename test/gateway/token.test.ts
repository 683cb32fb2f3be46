import { generateKeyPairSync } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import t, { test } from 'tap'
import { covers } from '../../src/gateway/selector.ts'
import { createVerifier, mint, NETWORK_PROXY, readJwks, readTokenKeys, type Verifier } from '../../src/gateway/token.ts'
import { tokenCommand } from '../../src/tokenCommand.ts'
import { runCommand } from '../support/runCommand.ts'
import { DOCUMENTED, JWKS_TEXT, KEYS_TEXT, tokenCases } from '../support/tokenCases.ts'

const NOW = 1_790_000_000
const verifierOf = (keys = KEYS_TEXT): Verifier =>
  createVerifier({ symmetric: readTokenKeys(keys), asymmetric: readJwks(JWKS_TEXT) })

const opened = async (verifier: Verifier, token: string, now: number, task = 'acmeCo/in') => {
  const check = await verifier.verify(token, now * 1000)
  if (check.is !== 'good') return 401
  return (check.claims.cap & NETWORK_PROXY) !== 0 && covers(check.claims, { name: task }) ? 'opens' : 403
}

test('each token opens what it should', async (t) => {
  const verifier = verifierOf()
  for (const [what, token, expected] of tokenCases(NOW)) t.equal(await opened(verifier, token, NOW), expected, what)
})

test('a token as another program signs it', async (t) => {
  t.equal(await opened(verifierOf('c2VjcmV0,b3RoZXI='), DOCUMENTED.token, DOCUMENTED.now), 'opens')
  t.equal(await opened(verifierOf('b3RoZXI='), DOCUMENTED.token, DOCUMENTED.now), 401)
})

test('what is remembered of a token is its signature, and never that it was in time', async (t) => {
  const verifier = verifierOf()
  const token = await mint(readTokenKeys(KEYS_TEXT)[0]!, { task: 'acmeCo/in', ttlMs: 60_000, now: NOW * 1000 })
  t.equal(verifier.remembered(token, NOW * 1000), undefined)
  t.equal((await verifier.verify(token, NOW * 1000)).is, 'good')
  t.equal(verifier.remembered(token, (NOW + 64) * 1000)?.is, 'good')
  t.same(verifier.remembered(token, (NOW + 65) * 1000), { is: 'bad', why: 'the token has expired' })
  t.equal(verifier.remembered(token, (NOW - 6) * 1000)?.is, 'bad')
})

test('the reason never holds a part of the token', async (t) => {
  const verifier = verifierOf()
  for (const [, token] of tokenCases(NOW)) {
    const check = await verifier.verify(token, NOW * 1000)
    if (check.is === 'good') continue
    for (const part of token.split('.').filter((it) => it.length > 3)) t.notOk(check.why.includes(part))
  }
})

test('any text is a bad token, or at least none that opens', async (t) => {
  const verifier = verifierOf()
  const text = fc.oneof(
    fc.string(),
    fc.array(fc.base64String(), { maxLength: 4 }).map((it) => it.join('.')),
  )
  await fc.assert(fc.asyncProperty(text, async (token) => (await verifier.verify(token, NOW * 1000)).is === 'bad'))
  t.pass('none was good')
  fc.assert(fc.property(fc.anything(), (sel) => !covers({ sel }, { name: 'acmeCo/in' })))
})

test('keys are base64, several of them, and none that anybody could guess', async (t) => {
  t.same(
    readTokenKeys('c2VjcmV0,b3RoZXI=').map((key) => Buffer.from(key).toString()),
    ['secret', 'other'],
  )
  t.equal(readTokenKeys(' c2VjcmV0\n\tb3RoZXI= , \n').length, 2)
  t.throws(() => readTokenKeys(' \n'), { message: 'there is no key' })
  t.throws(() => readTokenKeys('c2VjcmV0,@@'), { message: 'failed to decode key at index 1' })
  t.throws(() => readTokenKeys('c2VjcmV0,c2V'), { message: 'failed to decode key at index 1' })
  t.throws(() => readTokenKeys('AA=='), { message: 'the key at index 0 is only zeros' })
  t.throws(() => readJwks('{"keys":[]}'), { message: 'it holds no key for EdDSA or ES256' })
  t.throws(() => readJwks('{}'))
  // The list of keys, named by mistake.
  t.throws(() => readJwks('c2VjcmV0,b3RoZXI='), { message: /^the JWKS is not JSON$/ })
  t.throws(() => readJwks('"c2VjcmV0'), { message: /^the JWKS is not JSON$/ })
})

test('sluice token mints what the gateway accepts', async (t) => {
  const keys = join(t.testdir(), 'keys')
  writeFileSync(keys, KEYS_TEXT)
  const now = Date.now() / 1000
  const one = await runCommand(tokenCommand, ['--task', 'acmeCo/in', '--keys', keys, '--ttl', '10m'])
  t.equal(one.code, 0)
  const verifier = verifierOf()
  t.equal(await opened(verifier, one.out.trim(), now), 'opens')
  t.equal(await opened(verifier, one.out.trim(), now, 'acmeCo/internal'), 403)
  t.equal(await opened(verifier, one.out.trim(), now + 700), 401)
  const all = await runCommand(tokenCommand, ['--prefix', 'acmeCo/', '--keys', keys, '--subject', 'me'])
  t.equal(await opened(verifier, all.out.trim(), now, 'acmeCo/x/y'), 'opens')
  t.equal(await opened(verifier, all.out.trim(), now, 'acme'), 403)
})

test('sluice token signs with private keys, PEM and JWK, and with HS384', async (t) => {
  const now = Date.now() / 1000
  const pairs = [generateKeyPairSync('ed25519'), generateKeyPairSync('ec', { namedCurve: 'P-256' })] as const
  for (const [at, { privateKey, publicKey }] of pairs.entries()) {
    const jwk = { ...privateKey.export({ format: 'jwk' }), kid: 'mine' }
    const files = {
      pem: privateKey.export({ format: 'pem', type: 'pkcs8' }) as string,
      jwk: JSON.stringify(jwk),
      jwks: JSON.stringify({ keys: [jwk] }),
    }
    const dir = t.testdir(files)
    const known = JSON.stringify({ keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'mine' }] })
    const verifier = createVerifier({ symmetric: [], asymmetric: readJwks(known) })
    for (const name of Object.keys(files)) {
      const said = await runCommand(tokenCommand, ['--task', 'acmeCo/in', '--keys', join(dir, name)])
      t.equal(said.code, 0, `${at} ${name} ${said.err}`)
      t.equal(await opened(verifier, said.out.trim(), now), 'opens')
      const header = JSON.parse(Buffer.from(said.out.split('.')[0]!, 'base64url').toString())
      t.equal(header.alg, at === 0 ? 'EdDSA' : 'ES256')
    }
  }
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey
  const [edPublic] = pairs
  const wrong = {
    rsa: rsa.export({ format: 'pem', type: 'pkcs8' }) as string,
    sec1: pairs[1].privateKey.export({ format: 'pem', type: 'sec1' }) as string,
    public: JSON.stringify(edPublic.publicKey.export({ format: 'jwk' })),
    broken: '{"kty":',
    keys: KEYS_TEXT,
  }
  const dir = t.testdir(wrong)
  for (const [name, says] of [
    ['rsa', /not a private key for EdDSA/],
    ['sec1', /not PKCS #8/],
    ['public', /not a private key for EdDSA/],
    ['broken', /neither PEM, nor a JSON Web Key, nor base64/],
  ] as const)
    t.match(await runCommand(tokenCommand, ['--task', 'a', '--keys', join(dir, name)]), { code: 1, out: '', err: says })
  const longer = await runCommand(tokenCommand, [
    ...['--task', 'acmeCo/in', '--algorithm', 'HS384', '--keys', join(dir, 'keys')],
  ])
  t.equal(await opened(verifierOf(), longer.out.trim(), now), 'opens')
  await t.rejects(runCommand(tokenCommand, ['--task', 'a', '--algorithm', 'none']), { message: /--algorithm none/ })
})

test('sluice token says what it needs', async (t) => {
  const usage: [argv: string[], message: RegExp][] = [
    [[], /either --task or --prefix/],
    [['--task', 'a', '--prefix', 'b/'], /either --task or --prefix/],
    [['--prefix', 'acmeCo'], /does not end with a slash/],
    [['--prefix', '/'], /does not end with a slash/],
    [['--task', 'a', '--ttl', '5'], /--ttl: expected a time with its unit/],
  ]
  for (const [argv, message] of usage) await t.rejects(runCommand(tokenCommand, argv), { message })
  const dir = t.testdir({ 'policy.yaml': 'apiVersion: sluice/v1\n', empty: '', odd: 'x' })
  const without = await runCommand(tokenCommand, ['--task', 'a', '--config', join(dir, 'policy.yaml')])
  t.match(without, { code: 1, err: /no `gateway: \{ keys: … \}`/ })
  t.match(await runCommand(tokenCommand, ['--task', 'a', '--keys', join(dir, 'empty')]), { code: 1, err: /is empty/ })
  t.match(await runCommand(tokenCommand, ['--task', 'a', '--keys', join(dir, 'odd')]), {
    code: 1,
    err: /failed to decode/,
  })
  t.match(await runCommand(tokenCommand, ['--task', 'a', '--keys', join(dir, 'no')]), { code: 1, err: /ENOENT/ })
})

t.end()
