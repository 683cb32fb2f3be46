/** What a strict parser makes of the bytes that an upstream was sent. */
export interface Parsed {
  readonly requests: readonly { readonly method: string; readonly target: string; readonly size: number }[]
  /** What is wrong with the bytes after those requests, if anything is. */
  readonly fault?: string
}

/**
 * A second opinion on what we send, of one page and by regular expressions, so that it shares no line and no mistake
 * with the codec: RFC 9112 with every liberty taken away.
 */
export const parseStrictly = (text: string): Parsed => {
  const requests: { method: string; target: string; size: number }[] = []
  let rest = text
  while (rest !== '') {
    const end = rest.indexOf('\r\n\r\n')
    if (end === -1) return { requests, fault: 'incomplete' }
    const [first = '', ...lines] = rest.slice(0, end).split('\r\n')
    const start = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~\x80-\xff]+) HTTP\/1\.[01]$/.exec(first)
    if (start === null) return { requests, fault: `request line ${JSON.stringify(first)}` }
    const fields = lines.map((line) => /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ([\t -~\x80-\xff]*)$/.exec(line))
    if (fields.some((field) => field === null)) return { requests, fault: 'field line' }
    const values = (name: string) => fields.flatMap((field) => (field![1]!.toLowerCase() === name ? [field![2]!] : []))
    const [lengths, codings, hosts] = [values('content-length'), values('transfer-encoding'), values('host')]
    if (lengths.length + codings.length > 1) return { requests, fault: 'two ways to delimit the body' }
    if (hosts.length > 1 || (hosts.length === 0 && first.endsWith('1'))) return { requests, fault: 'not one Host' }
    if (lengths[0] !== undefined && !/^\d+$/.test(lengths[0])) return { requests, fault: 'length' }
    if (codings[0] !== undefined && codings[0] !== 'chunked') return { requests, fault: 'coding' }
    const after = rest.slice(end + 4)
    const body = codings[0] === undefined ? plain(after, Number(lengths[0] ?? 0)) : chunked(after)
    if (body === undefined) return { requests, fault: 'incomplete' }
    if (typeof body === 'string') return { requests, fault: body }
    requests.push({ method: start[1]!, target: start[2]!, size: body.size })
    rest = after.slice(body.taken)
  }
  return { requests }
}

interface Body {
  readonly size: number
  readonly taken: number
}

const plain = (text: string, length: number): Body | undefined =>
  text.length < length ? undefined : { size: length, taken: length }

const chunked = (text: string): Body | string | undefined => {
  let size = 0
  let at = 0
  while (true) {
    const line = text.indexOf('\r\n', at)
    if (line === -1) return undefined
    const digits = text.slice(at, line)
    if (!/^[0-9a-f]+$/.test(digits)) return `chunk size ${JSON.stringify(digits)}`
    const length = Number.parseInt(digits, 16)
    at = line + 2
    if (length === 0) break
    if (text.length < at + length + 2) return undefined
    if (text.slice(at + length, at + length + 2) !== '\r\n') return 'chunk end'
    size += length
    at += length + 2
  }
  while (true) {
    const line = text.indexOf('\r\n', at)
    if (line === -1) return undefined
    const trailer = text.slice(at, line)
    at = line + 2
    if (trailer === '') return { size, taken: at }
    if (!/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t -~\x80-\xff]*$/.test(trailer)) return 'trailer'
  }
}
