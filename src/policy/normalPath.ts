/**
 * The path as an upstream will most likely understand it: escapes of ASCII decoded, dot segments and doubled slashes
 * removed (RFC 3986 section 6.2.2), so that `/%61dmin`, `/x/../admin` and `//admin` do not pass a rule on `/admin`.
 * %2F counts as a slash, as nginx sees it. Escapes are decoded once.
 */
export const normalPath = (path: string): string => (/[%]|\/\.|\/\//.test(path) ? normalised(path) : path)

const normalised = (path: string): string => {
  const plain = path.replace(/%[0-9A-Fa-f]{2}/g, (escaped) => {
    const code = Number.parseInt(escaped.slice(1), 16)
    return code > 0x20 && code < 0x7f ? String.fromCharCode(code) : escaped.toUpperCase()
  })
  if (!plain.startsWith('/')) return plain
  const kept: string[] = []
  const segments = plain.slice(1).split('/')
  segments.forEach((segment, i) => {
    const isLast = i === segments.length - 1
    if (segment === '..') kept.pop()
    else if (segment !== '.' && (segment !== '' || isLast)) kept.push(segment)
    if (isLast && (segment === '.' || segment === '..')) kept.push('')
  })
  return `/${kept.join('/')}`
}
