import { createHmac, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'

/** The keys that tests verify with: the first signs. The second and third are those of the facts document. */
export const KEYS_TEXT = `${Buffer.alloc(32, 7).toString('base64')}, c2VjcmV0,b3RoZXI=\n`
const FIRST = Buffer.alloc(32, 7)

const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const ed = generateKeyPairSync('ed25519')
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
const strangerEd = generateKeyPairSync('ed25519')

/** The public keys, as a JWKS file has them; an RSA key is among them, whose algorithm is not allowed. */
export const JWKS_TEXT = JSON.stringify({
  keys: [
    { ...ec.publicKey.export({ format: 'jwk' }), kid: 'ec', alg: 'ES256', use: 'sig' },
    { ...ed.publicKey.export({ format: 'jwk' }), kid: 'ed', use: 'sig' },
    { ...rsa.publicKey.export({ format: 'jwk' }), kid: 'rsa', use: 'sig' },
  ],
})

const READER = 262_154

const part = (value: unknown): string =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')

type Signing = { alg: string; key: Buffer | KeyObject; kid?: string }

const signature = (text: string, { alg, key }: Signing): Buffer => {
  if (alg === 'none') return Buffer.alloc(0)
  if (Buffer.isBuffer(key))
    return createHmac(`sha${alg.slice(2)}`, key)
      .update(text)
      .digest()
  if (key.asymmetricKeyType === 'ec') return sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' })
  return sign(key.asymmetricKeyType === 'rsa' ? 'sha256' : null, Buffer.from(text), key)
}

/** Any token, by any key, with any claims, well formed or not. */
export const forge = (claims: unknown, by: Partial<Signing> = {}, header: object = {}): string => {
  const signing = { alg: 'HS256', key: FIRST, ...by }
  const head = { alg: signing.alg, typ: 'JWT', ...(signing.kid && { kid: signing.kid }), ...header }
  const text = `${part(head)}.${part(claims)}`
  return `${text}.${signature(text, signing).toString('base64url')}`
}

const sel = (...labels: object[]) => ({ include: { labels } })
const id = (value: string, prefix = true) => ({ name: 'id', value, prefix })
const name = (value: string, prefix = false) => ({ name: 'estuary.dev/task-name', value, prefix })

/** Whether the token lets a request through to acmeCo/in, or with which status it is refused. */
export type Expected = 'opens' | 401 | 403

/** Tokens for the task acmeCo/in at a time in seconds since 1970. */
export const tokenCases = (now: number): readonly (readonly [what: string, token: string, expected: Expected])[] => {
  const times = { iat: now - 60, exp: now + 600 }
  const base = { ...times, cap: READER }
  const good = { ...base, sel: sel(id('capture/acmeCo/in/0011223344556677/')) }
  const with_ = (changes: object) => forge({ ...good, ...changes })
  const selecting = (selection: unknown) => forge({ ...base, sel: selection })
  const prefixed = (prefixes: unknown) => forge({ ...base, prefixes })
  const whole = forge(good)
  const [head, body, mark] = whole.split('.') as [string, string, string]
  const flipped = (mark[0] === 'A' ? 'B' : 'A') + mark.slice(1)
  const rsaPem = rsa.publicKey.export({ format: 'pem', type: 'spki' }) as string
  const edJwk = Buffer.from(ed.publicKey.export({ format: 'jwk' }).x!, 'base64url')
  return [
    ['a good one', whole, 'opens'],
    ['by the second key', forge(good, { key: Buffer.from('secret') }), 'opens'],
    ['by the third key', forge(good, { key: Buffer.from('other') }), 'opens'],
    ['by a key that was withdrawn', forge(good, { key: Buffer.from('former') }), 401],
    ['HS384', forge(good, { alg: 'HS384' }), 'opens'],
    ['HS512 is not allowed', forge(good, { alg: 'HS512' }), 401],
    ['algorithm none', forge(good, { alg: 'none' }), 401],
    ['algorithm None', forge(good, {}, { alg: 'None' }), 401],
    ['algorithm none with a signature', forge(good, {}, { alg: 'none' }), 401],
    ['no algorithm', forge(good, {}, { alg: undefined }), 401],
    ['RS256 by an RSA key that is in the JWKS', forge(good, { alg: 'RS256', key: rsa.privateKey, kid: 'rsa' }), 401],
    ['RS256 in name, by the HMAC key', forge(good, {}, { alg: 'RS256' }), 401],
    ['HS256 by the text of the public RSA key', forge(good, { key: Buffer.from(rsaPem) }), 401],
    ['HS256 by the bytes of the public Ed25519 key', forge(good, { key: edJwk, kid: 'ed' }), 401],
    ['ES256', forge(good, { alg: 'ES256', key: ec.privateKey, kid: 'ec' }), 'opens'],
    ['ES256 without a key id', forge(good, { alg: 'ES256', key: ec.privateKey }), 'opens'],
    ['EdDSA', forge(good, { alg: 'EdDSA', key: ed.privateKey, kid: 'ed' }), 'opens'],
    ['EdDSA by a stranger', forge(good, { alg: 'EdDSA', key: strangerEd.privateKey, kid: 'ed' }), 401],
    ['EdDSA by an unknown key id', forge(good, { alg: 'EdDSA', key: ed.privateKey, kid: 'x' }), 401],
    [
      'its own key in its header',
      forge(
        good,
        { alg: 'EdDSA', key: strangerEd.privateKey },
        { jwk: strangerEd.publicKey.export({ format: 'jwk' }) },
      ),
      401,
    ],
    ['a critical extension nobody knows', forge(good, {}, { crit: ['x'], x: 1 }), 401],
    ['expired 4 s ago', with_({ exp: now - 4 }), 'opens'],
    ['expired 6 s ago', with_({ exp: now - 6 }), 401],
    ['expired long ago', with_({ exp: 1 }), 401],
    ['no exp', with_({ exp: undefined }), 401],
    ['exp as a text', with_({ exp: `${now + 600}` }), 401],
    ['exp null', with_({ exp: null }), 401],
    ['issued 3 s from now', with_({ iat: now + 3 }), 'opens'],
    ['issued a minute from now', with_({ iat: now + 60 }), 401],
    ['iat as a text', with_({ iat: 'now' }), 401],
    ['no iat', with_({ iat: undefined }), 'opens'],
    ['not before a minute from now', with_({ nbf: now + 60 }), 401],
    ['a flipped signature', `${head}.${body}.${flipped}`, 401],
    ['no signature', `${head}.${body}.`, 401],
    ['other claims under the signature', `${head}.${part({ ...good, sub: 'x' })}.${mark}`, 401],
    ['two parts', `${head}.${body}`, 401],
    ['four parts', `${whole}.x`, 401],
    ['not base64', 'a.b.c', 401],
    ['no JSON inside', forge('hello'), 401],
    ['a list inside', forge([1]), 401],
    ['too long', with_({ pad: 'x'.repeat(9_000) }), 401],
    ['no capability at all', with_({ cap: undefined }), 401],
    ['a capability as a text', with_({ cap: '262154' }), 401],
    ['another capability', with_({ cap: 2 | 4 | 8 | 16 | 32 }), 403],
    ['all but the one', with_({ cap: 0xffff_ffff - 262_144 }), 403],
    ['just the one', with_({ cap: 262_144 }), 'opens'],
    ['neither selector nor prefixes', forge(base), 403],
    ['an empty selector', selecting({}), 403],
    ['an empty include', selecting(sel()), 403],
    ['only an exclude', selecting({ exclude: { labels: [id('capture/other/')] } }), 403],
    ['everything, by an empty value', selecting(sel(id(''))), 403],
    ['everything of a type', selecting(sel(id('capture/'))), 403],
    ['a selector that is a text', selecting('acmeCo/in'), 403],
    ['id: an older publication of the same task', selecting(sel(id('capture/acmeCo/in/ffffffffffffffff/'))), 'opens'],
    ['id: the task', selecting(sel(id('capture/acmeCo/in/'))), 'opens'],
    ['id: a prefix that ends within a segment', selecting(sel(id('capture/acmeCo/i'))), 403],
    ['id: a prefix of the tenant', selecting(sel(id('capture/acmeCo/'))), 'opens'],
    ['id: the tenant without its slash', selecting(sel(id('capture/acmeCo'))), 403],
    ['id: the tenant, but no prefix', selecting(sel(id('capture/acmeCo/', false))), 403],
    ['id: another task that begins the same', selecting(sel(id('capture/acmeCo/internal/'))), 403],
    ['id: an unknown type', selecting(sel(id('other/acmeCo/in/'))), 403],
    ['task name', selecting(sel(name('acmeCo/in'))), 'opens'],
    ['task name: a prefix with a slash', selecting(sel(name('acmeCo/', true))), 'opens'],
    ['task name: a prefix within a segment', selecting(sel(name('acmeCo/i', true))), 403],
    ['task name: longer', selecting(sel(name('acmeCo/internal'))), 403],
    ['task name: other case', selecting(sel(name('acmeco/in'))), 403],
    ['one of two values of a name', selecting(sel(name('other'), name('acmeCo/in'))), 'opens'],
    ['two names, both must match', selecting(sel(id('capture/acmeCo/in/'), name('other'))), 403],
    [
      'a name that ports do not have',
      selecting(sel(name('acmeCo/in'), { name: 'estuary.dev/build', value: 'x' })),
      403,
    ],
    [
      'included and excluded',
      selecting({ ...sel(name('acmeCo/in')), exclude: { labels: [name('acmeCo/', true)] } }),
      403,
    ],
    [
      'excluded by its id',
      selecting({ ...sel(name('acmeCo/in')), exclude: { labels: [id('capture/acmeCo/in/')] } }),
      403,
    ],
    [
      'another one is excluded',
      selecting({ ...sel(name('acmeCo/', true)), exclude: { labels: [name('acmeCo/internal')] } }),
      'opens',
    ],
    ['prefixes: the name', prefixed(['acmeCo/in']), 'opens'],
    ['prefixes: one of several', prefixed(['x/', 'acmeCo/']), 'opens'],
    ['prefixes: within a segment', prefixed(['acmeCo/i']), 403],
    ['prefixes: the tenant without its slash', prefixed(['acmeCo']), 403],
    ['prefixes: a task below', prefixed(['acmeCo/in/']), 403],
    ['prefixes: everything', prefixed(['', '/']), 403],
    ['prefixes: none', prefixed([]), 403],
    ['prefixes and a selector that disagree', forge({ ...base, prefixes: ['acmeCo/'], sel: sel(name('other')) }), 403],
  ]
}

/** The example of the facts document, whose signature another program made. */
export const DOCUMENTED = {
  now: 1_700_000_100,
  token: `${part('{"alg":"HS256","typ":"JWT"}')}.${part(
    '{"cap":262154,"sel":{"include":{"labels":[{"name":"id","value":"capture/acmeCo/in/0011223344556677/","prefix":true}]}},"iss":"dp.example.test","sub":"20202020-2020-2020-2020-202020202020","iat":1700000000,"exp":4102444800}',
  )}.4C_k8t69ShKgpzS1g51b4dXto60uymmJ1AD5FdUxtwI`,
}
