const SECRET_KEY = /token|secret|passw|pwd|api[-_]?key|signature|\bsig\b|credential|auth|session|jwt|\bcode\b|\bkey\b/i

/**
 * A request target as it may be logged: values of query parameters that are named like secrets are replaced, and so is
 * a password before an `@`. Logs are copied, mailed and kept; what was in them once is out for good.
 */
export const redactedTarget = (target: string): string => {
  const start = target.indexOf('?')
  const path = start === -1 ? target : target.slice(0, start)
  const shown = path.includes('@') ? path.replace(/\/\/[^/@]*@/, '//(redacted)@') : path
  if (start === -1) return shown
  const query = target
    .slice(start + 1)
    .replace(/([^&=;]+)=([^&;]*)/g, (pair, key: string) => (SECRET_KEY.test(decoded(key)) ? `${key}=(redacted)` : pair))
  return `${shown}?${query}`
}

const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** First bytes as they may be shown: a request line only up to its query. */
export const redactedHead = (head: string): string => {
  const query = head.indexOf('?')
  return query === -1 ? head : `${head.slice(0, query)}?…`
}
