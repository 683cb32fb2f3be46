import { isSecretName, REDACTED, withoutUser } from '../net/secretNames.ts'

/**
 * A request target as it may be logged: values of parameters that are named like secrets are replaced, in the query, behind
 * a `;` of the path and in a fragment, and so are values that hold another URL, or JSON, with such a name in it, and a
 * password before an `@`. Logs are copied, mailed and kept; what was in them once is out for good.
 */
export const redactedTarget = (target: string): string => {
  const start = target.indexOf('?')
  const path = start === -1 ? target : target.slice(0, start)
  const named = /[;#]/.test(path)
    ? path
        .split(/([;/#&])/)
        .map(redactedPair)
        .join('')
    : path
  const shown = named.includes('@') ? named.replace(/\/\/[^/]*@/, '//(redacted)@') : named
  if (start === -1) return shown
  // Split and not searched for pairs: a search begins anew at each character of a long value.
  const query = target.slice(start + 1).split(/([&;?#])/)
  return `${shown}?${query.map(redactedPair).join('')}`
}

const redactedPair = (pair: string): string => {
  const end = pair.indexOf('=')
  if (end === -1) return pair
  const key = pair.slice(0, end)
  return isSecretName(decoded(key)) || holdsSecret(decoded(pair.slice(end + 1))) ? `${key}=${REDACTED}` : pair
}

/** Whether a value is itself a query, JSON or a URL with a secret in it, such as the page to lead back to. */
const holdsSecret = (value: string): boolean => (/[="]/.test(value) && isSecretName(value)) || /\/\/[^/@]*@/.test(value)

/** Whatever is malformed stays as it is. What is in a URL in a URL is escaped twice. */
const decoded = (text: string): string => {
  let shown = text
  for (let times = 0; times < DECODED_MAX && shown.includes('%'); times += 1)
    shown = shown.replace(/%([0-7][0-9a-f])/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
  return shown
}

const DECODED_MAX = 3

const REQUEST_LINE = /^[!-~]+ (\/|\*|\w+:\/\/)/
const PASSWORD_FOLLOWS = /\b(auth|pass|passw(or)?d|login|bearer|basic)\b/i

/**
 * First bytes as they may be shown: of a request the line alone, up to its parameters and without a password; of anything
 * else, such as `AUTH` of Redis and `PASS` of FTP, nothing behind a word that a password follows.
 */
export const redactedHead = (head: string): string => {
  if (!REQUEST_LINE.test(head)) {
    const word = PASSWORD_FOLLOWS.exec(head)
    return word === null ? head : `${head.slice(0, word.index + word[0].length)}…`
  }
  const [line = ''] = head.split(/\r?\n/, 1)
  // The bytes may end within the name of a user, or the password behind it.
  const unfinished = /^\S+ \w+:\/\/(?=[^/?]*$)/.exec(line)
  if (unfinished !== null) return `${unfinished[0]}…`
  const query = line.search(/[?;#]/)
  return (query === -1 ? line : `${line.slice(0, query + 1)}…`).replace(/\/\/[^/]*@/, '//(redacted)@')
}

/**
 * A copy in which whatever is named like a secret is replaced, unless it only says where the secret is kept, and so is who
 * logs in by a URL.
 */
export const redactedValue = (value: unknown, name = ''): unknown => {
  if (Array.isArray(value)) return value.map((each) => redactedValue(each, name))
  if (typeof value === 'object' && value !== null) {
    if (!isPlain(value)) return String(value)
    return Object.fromEntries(
      Object.entries(value).map(([key, each]) => [
        key,
        redactedValue(each, PLACES.has(key) ? '' : WANTED.has(key) ? name : key),
      ]),
    )
  }
  if (typeof value !== 'string') return value
  return isSecretName(name) ? REDACTED : withoutUser(value)
}

/** Keys that say where a secret is kept. What stands there is a path or a name. */
const PLACES: ReadonlySet<string> = new Set(['file', 'env', 'key', 'keyLog'])
/** Of a condition on a header, what it has to be. */
const WANTED: ReadonlySet<string> = new Set(['equals', 'matches'])
const isPlain = (value: object): boolean => [Object.prototype, null].includes(Object.getPrototypeOf(value))
