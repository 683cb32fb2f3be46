/** What stands where a secret was. */
export const REDACTED = '(redacted)'

const SECRET_NAME =
  /token|secret|passw|pwd|(api|private|access)[-_.]?key|signature|\bsig\b|credential|auth(?!ority|ors?\b)|cookie|session|jwt|\bcode\b|\bkey\b/i

/** Whether what goes by this name may be secret: the one list, for query parameters, fields and settings alike. */
export const isSecretName = (name: string): boolean => SECRET_NAME.test(name)

/** A URL without who logs in there: collectors, key servers and the like may be named so. */
export const withoutUser = (text: string): string => text.replace(/:\/\/[^/?#@\s"']*@/g, `://${REDACTED}@`)

// Names begin where words begin, and no two parts can match the same blanks: else a long line takes quadratic time.
const PAIR = /(["']?)(?<![\w.-])([\w.-]+)\1(\s*:\s*)("[^"]*"|'[^']*'|[^\s,{}[\]"'#][^,{}[\]\n]*)/g
/** What a condition on a header wants it to be, which may be a token. */
const EXPECTED =
  /(?<![\w.-])([\w.-]+)(["']?\s*:\s*(?:\{\s*)?(?:equals|matches)\s*:\s*)(?:\[[^[\]]*\]|"[^"]*"|'[^']*'|[^\s,{}[\]"'#][^,{}[\]\n]*)/g
/** Settings that are named so and say how, or where, and not what. */
const HARMLESS =
  /^(true|false|none|null|forward|strip|pass|generate|never|always|auto|any|\d+[a-z]*|(\.{0,2}\/)?[\w./-]+\.(pem|key|crt|log))\b/

/**
 * A text of a document as it may be shown: values of keys that are named like secrets are replaced. A document is no place
 * for one, but nothing keeps a header of that name from being set in it, or an operator from trying.
 */
export const hiddenValues = (text: string): string =>
  withoutUser(text)
    .replace(EXPECTED, (pair, name: string, rest: string) => (isSecretName(name) ? `${name}${rest}${REDACTED}` : pair))
    .replace(PAIR, (pair, quote: string, name: string, colon: string, value: string) =>
      isSecretName(name) && !HARMLESS.test(value) && !isReference(name)
        ? `${quote}${name}${quote}${colon}${REDACTED.padEnd(Math.min(value.trimEnd().length, 60))}`
        : pair,
    )

/** Where a secret is kept may be told: `key:` names a file. */
const isReference = (name: string): boolean => ['file', 'env', 'key', 'keyLog'].includes(name)
