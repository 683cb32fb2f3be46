import { isSecretName, REDACTED } from '../net/secretNames.ts'

/**
 * A request target as it may be logged: values of query parameters that are named like secrets are replaced, and so is
 * a password before an `@`. Logs are copied, mailed and kept; what was in them once is out for good.
 */
export const redactedTarget = (target: string): string => {
  const start = target.indexOf('?')
  const path = start === -1 ? target : target.slice(0, start)
  const shown = path.includes('@') ? path.replace(/\/\/[^/]*@/, '//(redacted)@') : path
  if (start === -1) return shown
  const query = target
    .slice(start + 1)
    .replace(/([^&=;]+)=([^&;]*)/g, (pair, key: string) => (isSecretName(decoded(key)) ? `${key}=${REDACTED}` : pair))
  return `${shown}?${query}`
}

const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

const REQUEST_LINE = /^[!-~]+ (\/|\*|\w+:\/\/)/
const PASSWORD_FOLLOWS = /\b(auth|pass|passw(or)?d|login|bearer|basic)\b/i

/**
 * First bytes as they may be shown: of a request the line alone, up to its query and without a password; of anything
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
  const query = line.indexOf('?')
  return (query === -1 ? line : `${line.slice(0, query)}?…`).replace(/\/\/[^/]*@/, '//(redacted)@')
}

/** A copy in which whatever is named like a secret is replaced, unless it only says where the secret is kept. */
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
  return typeof value === 'string' && isSecretName(name) ? REDACTED : value
}

/** Keys that say where a secret is kept. What stands there is a path or a name. */
const PLACES: ReadonlySet<string> = new Set(['file', 'env', 'key', 'keyLog'])
/** Of a condition on a header, what it has to be. */
const WANTED: ReadonlySet<string> = new Set(['equals', 'matches'])
const isPlain = (value: object): boolean => [Object.prototype, null].includes(Object.getPrototypeOf(value))
