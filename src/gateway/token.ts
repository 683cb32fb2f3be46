import {
  createLocalJWKSet,
  createRemoteJWKSet,
  decodeProtectedHeader,
  errors,
  importJWK,
  importPKCS8,
  type JSONWebKeySet,
  type JWTPayload,
  jwtVerify,
  SignJWT,
} from 'jose'

/** NETWORK_PROXY, the bit that lets a token through to a task's ports. */
export const NETWORK_PROXY = 1 << 18
/** What Flow gives a reader of a task: LIST, READ and NETWORK_PROXY. */
export const READER = 2 | 8 | NETWORK_PROXY

const LEEWAY_S = 5 // clocks of machines that keep time differ by less
const TOKEN_CHARS_MAX = 8_192 // what most servers allow a whole field
const REMEMBERED_MAX = 1_000

const SYMMETRIC = ['HS256', 'HS384']
const ASYMMETRIC = ['EdDSA', 'Ed25519', 'ES256']

type Asymmetric = ReturnType<typeof createLocalJWKSet>

/** What tokens are verified with. The two kinds never meet: a public key is not a secret. */
export interface TokenKeys {
  /** The first one signs, any of them verifies: keys rotate by putting a new one in front. */
  readonly symmetric: readonly Uint8Array[]
  readonly asymmetric?: Asymmetric | undefined
}

/** The claims that matter here, of a token whose signature and times are good. */
export interface Claims {
  readonly exp: number
  readonly iat?: number | undefined
  readonly nbf?: number | undefined
  readonly cap: number
  readonly sub?: string | undefined
  readonly sel?: unknown
  readonly prefixes?: unknown
}

/** Why a token is not accepted; never with any of the token in it. */
export type TokenCheck =
  | { readonly is: 'good'; readonly claims: Claims }
  | { readonly is: 'bad'; readonly why: string }
  | { readonly is: 'unavailable'; readonly why: string }

/** The keys in a text: base64, separated by commas or white space. Throws an Error that never shows one. */
export const readTokenKeys = (text: string): Uint8Array[] => {
  const written = text.split(/[\s,]+/).filter((one) => one !== '')
  if (written.length === 0) throw new Error('there is no key')
  return written.map((one, index) => {
    const key = Buffer.from(one, 'base64')
    const isBase64 = /^[A-Za-z0-9+/]+={0,2}$/.test(one) && one.length % 4 === 0
    if (!isBase64 || key.length === 0) throw new Error(`failed to decode key at index ${index}`)
    // "AA==" switches authorization off elsewhere; as a key it would let in everybody who guesses that.
    if (key.every((byte) => byte === 0)) throw new Error(`the key at index ${index} is only zeros`)
    return new Uint8Array(key)
  })
}

/** The public keys of a JWKS document. Throws an Error that says what is wrong, and never shows any of it. */
export const readJwks = (text: string): Asymmetric => {
  const parsed = jsonOf(text)
  const set = createLocalJWKSet(parsed)
  const usable = parsed.keys.some(({ kty }) => kty === 'OKP' || kty === 'EC')
  if (!usable) throw new Error('it holds no key for EdDSA or ES256')
  return set
}

/** The parser would quote the text, which is a list of secrets where the wrong file was named. */
const jsonOf = (text: string): JSONWebKeySet => {
  try {
    return JSON.parse(text)
  } catch {
    throw new Error('the JWKS is not JSON')
  }
}

/** The public keys at a URL, fetched when they are needed and no more than twice a minute. */
export const remoteJwks = (url: string): Asymmetric =>
  createRemoteJWKSet(new URL(url), { cooldownDuration: 30_000, timeoutDuration: 5_000 }) as unknown as Asymmetric

/** Verifies tokens, and remembers which signatures were good: the same token comes with every request. */
export interface Verifier {
  /** What is known at once of a token that was good before. */
  readonly remembered: (token: string, now: number) => TokenCheck | undefined
  readonly verify: (token: string, now: number) => Promise<TokenCheck>
}

/** `now` is always in milliseconds since 1970. Other keys make another verifier, which remembers nothing. */
export const createVerifier = (keys: TokenKeys): Verifier => {
  const good = new Map<string, Claims>()
  return {
    remembered: (token, now) => {
      const claims = good.get(token)
      return claims && timely(claims, now)
    },
    verify: async (token, now) => {
      const found = await verified(token, keys, now)
      if (found.is !== 'good') return found
      good.set(token, found.claims)
      if (good.size > REMEMBERED_MAX) good.delete(good.keys().next().value!)
      return timely(found.claims, now)
    },
  }
}

const bad = (why: string): TokenCheck => ({ is: 'bad', why })

/** When a token is over, leeway included, in milliseconds since 1970. */
export const endOf = ({ exp }: Claims): number => (exp + LEEWAY_S) * 1000

const timely = (claims: Claims, now: number): TokenCheck => {
  const seconds = now / 1000
  if (claims.exp <= seconds - LEEWAY_S) return bad('the token has expired')
  if (claims.iat !== undefined && claims.iat > seconds + LEEWAY_S) return bad('the token was issued in the future')
  if (claims.nbf !== undefined && claims.nbf > seconds + LEEWAY_S) return bad('the token is not valid yet')
  return { is: 'good', claims }
}

const verified = async (token: string, keys: TokenKeys, now: number): Promise<TokenCheck> => {
  if (token.length > TOKEN_CHARS_MAX) return bad(`the token is longer than ${TOKEN_CHARS_MAX} characters`)
  let algorithm: string | undefined
  try {
    algorithm = decodeProtectedHeader(token).alg
  } catch {
    return bad('the token is not a JSON Web Token')
  }
  const isSymmetric = SYMMETRIC.includes(algorithm ?? '') && keys.symmetric.length > 0
  const isAsymmetric = ASYMMETRIC.includes(algorithm ?? '') && keys.asymmetric !== undefined
  if (!isSymmetric && !isAsymmetric) return bad('the algorithm of the token is not allowed here')
  try {
    return isSymmetric ? await bySecret(token, keys.symmetric, now) : await byPublicKey(token, keys.asymmetric!, now)
  } catch (error) {
    return faultOf(error as Error)
  }
}

const bySecret = async (token: string, keys: readonly Uint8Array[], now: number): Promise<TokenCheck> => {
  let failure: unknown
  for (const key of keys) {
    try {
      return claimsIn((await jwtVerify(token, key, options(SYMMETRIC, now))).payload)
    } catch (error) {
      failure = error
      if (!(error instanceof errors.JWSSignatureVerificationFailed)) break
    }
  }
  throw failure
}

const byPublicKey = async (token: string, keys: Asymmetric, now: number): Promise<TokenCheck> => {
  try {
    return claimsIn((await jwtVerify(token, keys, options(ASYMMETRIC, now))).payload)
  } catch (error) {
    if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error
    for await (const key of error) {
      try {
        return claimsIn((await jwtVerify(token, key, options(ASYMMETRIC, now))).payload)
      } catch (other) {
        if (!(other instanceof errors.JWSSignatureVerificationFailed)) throw other
      }
    }
    throw new errors.JWSSignatureVerificationFailed()
  }
}

const options = (algorithms: string[], now: number) => ({
  algorithms,
  clockTolerance: LEEWAY_S,
  currentDate: new Date(now),
  requiredClaims: ['exp'],
})

const claimsIn = ({ exp, iat, nbf, sub, ...rest }: JWTPayload): TokenCheck => {
  if (iat !== undefined && !Number.isFinite(iat)) return bad('the claim "iat" of the token is not a number')
  const { cap, sel, prefixes } = rest
  if (!Number.isInteger(cap) || (cap as number) < 0 || (cap as number) >= 2 ** 32)
    return bad('the token has no claim "cap" with its capabilities')
  return { is: 'good', claims: { exp: exp!, iat, nbf, cap: cap as number, sub, sel, prefixes } }
}

const UNREACHED: TokenCheck = {
  is: 'unavailable',
  why: 'the keys that tokens are verified with cannot be fetched',
}

const faultOf = (error: Error): TokenCheck => {
  if (error instanceof errors.JWTExpired) return bad('the token has expired')
  if (error instanceof errors.JWTClaimValidationFailed) {
    if (error.claim === 'nbf') return bad('the token is not valid yet')
    return bad(
      error.reason === 'missing'
        ? `the token has no claim "${error.claim}"`
        : `the claim "${error.claim}" of the token is wrong`,
    )
  }
  if (error instanceof errors.JWSSignatureVerificationFailed || error instanceof errors.JWKSNoMatchingKey)
    return bad('the signature of the token is by none of the keys known here')
  if (error instanceof errors.JWKSTimeout || (error instanceof errors.JOSEError && error.code === 'ERR_JOSE_GENERIC'))
    return UNREACHED
  if (error instanceof TypeError && error.message === 'fetch failed') return UNREACHED
  if (error instanceof errors.JOSEError || error instanceof TypeError || error instanceof SyntaxError)
    return bad('the token is malformed')
  throw error
}

/** What to put into a token. */
export interface Minting {
  readonly task?: string | undefined
  readonly prefix?: string | undefined
  readonly ttlMs: number
  readonly now: number
  readonly issuer?: string | undefined
  readonly subject?: string | undefined
}

/** What tokens are signed with. */
export interface SigningKey {
  readonly algorithm: 'HS256' | 'HS384' | 'EdDSA' | 'ES256'
  readonly key: Uint8Array | CryptoKey
  readonly id?: string | undefined
}

/**
 * The key to sign with in a text: a private key as JWK (the first of a set), or as PEM (PKCS #8); else the first of a
 * list in base64. Throws an Error that never shows any of it.
 */
export const readSigningKey = async (text: string, hmac: 'HS256' | 'HS384' = 'HS256'): Promise<SigningKey> => {
  const pem = /-----BEGIN (.*?)PRIVATE KEY-----/.exec(text)
  if (pem !== null && pem[1] !== '')
    throw new Error('the PEM key is not PKCS #8: openssl pkcs8 -topk8 -nodes -in KEY writes it so')
  if (pem !== null) return fromPem(text)
  if (text.trim().startsWith('{')) return fromJwk(text)
  return { algorithm: hmac, key: readTokenKeys(text)[0]! }
}

const ONLY_THESE = 'it is not a private key for EdDSA (Ed25519) or ES256 (P-256)'

const fromPem = async (text: string): Promise<SigningKey> => {
  for (const algorithm of ['EdDSA', 'ES256'] as const) {
    const key = await importPKCS8(text, algorithm).catch(() => undefined)
    if (key !== undefined) return { algorithm, key }
  }
  throw new Error(ONLY_THESE)
}

const fromJwk = async (text: string): Promise<SigningKey> => {
  let jwk: Readonly<Record<string, unknown>> | undefined
  try {
    const read = JSON.parse(text)
    jwk = Array.isArray(read.keys) ? read.keys[0] : read
  } catch {
    throw new Error('the key is neither PEM, nor a JSON Web Key, nor base64')
  }
  const algorithm = jwk?.crv === 'Ed25519' ? 'EdDSA' : jwk?.crv === 'P-256' ? 'ES256' : undefined
  if (jwk === undefined || algorithm === undefined || typeof jwk.d !== 'string') throw new Error(ONLY_THESE)
  const key = await importJWK(jwk, algorithm).catch(() => undefined)
  if (key === undefined) throw new Error(ONLY_THESE)
  return { algorithm, key, id: typeof jwk.kid === 'string' ? jwk.kid : undefined }
}

/** A token for one task or for all below a prefix. */
export const mint = (
  signing: Uint8Array | SigningKey,
  { task, prefix, ttlMs, now, issuer, subject }: Minting,
): Promise<string> => {
  const { algorithm, key, id }: SigningKey =
    signing instanceof Uint8Array ? { algorithm: 'HS256', key: signing } : signing
  const isPrefix = task === undefined
  const label = { name: 'estuary.dev/task-name', value: task ?? prefix ?? '', ...(isPrefix && { prefix: true }) }
  const issued = Math.floor(now / 1000)
  return new SignJWT({
    cap: READER,
    sel: { include: { labels: [label] } },
    ...(issuer !== undefined && { iss: issuer }),
    ...(subject !== undefined && { sub: subject }),
    iat: issued,
    exp: issued + Math.ceil(ttlMs / 1000),
  })
    .setProtectedHeader({ alg: algorithm, typ: 'JWT', ...(id !== undefined && { kid: id }) })
    .sign(key)
}
