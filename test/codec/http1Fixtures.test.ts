import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { test } from 'tap'
import { targetOf } from '../../src/codec/authority.ts'
import { type Http1Event, type RequestRead, requestReader } from '../../src/codec/http1.ts'
import { HTTP1_LIMITS, listOf } from '../../src/codec/http1Head.ts'
import { ProtocolError } from '../../src/net/protocolError.ts'

interface Case {
  readonly id: string
  readonly request: string
  readonly expect: {
    readonly verdict: 'accept' | 'reject'
    readonly requests?: readonly {
      readonly method: string
      readonly target: string
      readonly headers?: readonly (readonly [string, string])[]
      readonly body?: string
      readonly complete?: boolean
    }[]
  }
}

const FOLDED = 'obsolete folding, which RFC 9112 5.2 lets a server refuse and the issue wants refused'
const BARE = 'a bare CR or LF (RFC 9112 2.2); the suite runs this one with a lenient switch'
const LENIENT = 'the suite runs this one with a lenient switch'
const CONNECT = 'CONNECT on HTTP/1.0 is refused'
const PROXY = 'the PROXY header is read before HTTP, by another codec'
const LONGER = 'the suite has a lower limit; ours is 64 KiB for the whole head'
const OPTION = 'an option of the suite that we do not have'
const NAMES = 'underscores are token characters; the suite protects CGI, which we do not speak'
const BOTH = 'Transfer-Encoding beside Content-Length is refused (RFC 9112 6.1)'
const NOT_HTTP = 'not HTTP/1.0 or HTTP/1.1'
const METHOD = 'any token is a method (RFC 9110 9.1); the suite has a list'
const USERINFO = 'user information in the target is an error (RFC 9110 4.2.4)'
const FRAGMENT = 'a fragment in the target (RFC 9112 3.2); haproxy refuses it too'
const STAR = 'the asterisk is for OPTIONS only (RFC 9112 3.2.4)'

/** Where we decide otherwise than the suite, and why. Everything else must agree. */
const DEPARTURES: Readonly<Record<string, string>> = {
  'gunicorn-valid-005': FRAGMENT,
  'gunicorn-valid-009': BOTH,
  'gunicorn-valid-027': 'octets above 127 in a target (RFC 3986 section 2); the other suite refuses them too',
  'gunicorn-valid-028': 'white space before the colon; the suite has a switch for it',
  'gunicorn-valid-099': 'the body is shorter than its Content-Length; the suite does not read it to the end',
  'gunicorn-valid-compat_obs_fold': FOLDED,
  'gunicorn-valid-compat_obs_fold_huge': FOLDED,
  'gunicorn-valid-pp_01': PROXY,
  'gunicorn-valid-pp_02': PROXY,
  'gunicorn-valid-pp_04': PROXY,
  'gunicorn-valid-pp_05': PROXY,
  'gunicorn-valid-rfc9112_target_absolute_userinfo_01': USERINFO,
  'gunicorn-invalid-003c': METHOD,
  'gunicorn-invalid-006': LONGER,
  'gunicorn-invalid-007': LONGER,
  'gunicorn-invalid-008': LONGER,
  'gunicorn-invalid-010': OPTION,
  'gunicorn-invalid-011': OPTION,
  'gunicorn-invalid-012': OPTION,
  'gunicorn-invalid-017': LONGER,
  'gunicorn-invalid-019': OPTION,
  'gunicorn-invalid-040': NAMES,
  'gunicorn-invalid-041': 'two Content-Types are for the application to judge; we pass duplicates on',
  'gunicorn-invalid-chunked_07': NAMES,
  'gunicorn-invalid-limit_header_default_01': LONGER,
  'llhttp-connection-03': 'what follows a request that closes the connection is not read (RFC 9112 9.6)',
  'llhttp-connection-09': FOLDED,
  'llhttp-connection-11': FOLDED,
  'llhttp-connection-13': LENIENT,
  'llhttp-content-length-07': LENIENT,
  'llhttp-content-length-08': BOTH,
  'llhttp-content-length-16': 'the suite skips the body, which is not there',
  'llhttp-content-length-18': BARE,
  'llhttp-invalid-04': METHOD,
  'llhttp-invalid-06': BARE,
  'llhttp-invalid-14': METHOD,
  'llhttp-invalid-18': BARE,
  'llhttp-invalid-22': BARE,
  'llhttp-invalid-24': FOLDED,
  'llhttp-lenient-header-value-relaxed-01': LENIENT,
  'llhttp-lenient-headers-01': LENIENT,
  'llhttp-lenient-headers-02': LENIENT,
  'llhttp-lenient-headers-04': BARE,
  'llhttp-lenient-version-01': LENIENT,
  'llhttp-method-02': CONNECT,
  'llhttp-method-03': CONNECT,
  'llhttp-method-04': CONNECT,
  'llhttp-method-05': STAR,
  'llhttp-method-12': NOT_HTTP,
  'llhttp-method-13': NOT_HTTP,
  'llhttp-method-14': NOT_HTTP,
  'llhttp-method-15': STAR,
  'llhttp-sample-10': NOT_HTTP,
  'llhttp-sample-11': FOLDED,
  'llhttp-sample-12': BARE,
  'llhttp-sample-14': BARE,
  'llhttp-sample-18': FOLDED,
  'llhttp-transfer-encoding-14': BOTH,
  'llhttp-transfer-encoding-18': LENIENT,
  'llhttp-transfer-encoding-19': LENIENT,
  'llhttp-transfer-encoding-20': FRAGMENT,
  'llhttp-transfer-encoding-21': FRAGMENT,
  'llhttp-transfer-encoding-27': BARE,
  'llhttp-transfer-encoding-29': LENIENT,
  'llhttp-transfer-encoding-31': LENIENT,
  'llhttp-uri-08': FRAGMENT,
  'llhttp-uri-09': CONNECT,
  'llhttp-uri-10': USERINFO,
}

interface Seen {
  readonly head: RequestRead
  body: string
  complete: boolean
}

/** Reads as the forwarder does: one request after another, until one that closes or changes the protocol. */
const read = (bytes: Buffer, size: number): { seen: Seen[]; error?: string | undefined } => {
  const reader = requestReader(HTTP1_LIMITS)
  const seen: Seen[] = []
  let error: string | undefined
  const take = (events: Http1Event<RequestRead>[]): void => {
    for (const event of events) {
      if (error !== undefined) return
      if (event.is === 'request') {
        seen.push({ head: event, body: '', complete: false })
        error = refused(event)
      } else if (event.is === 'data') seen.at(-1)!.body += event.bytes.toString('latin1')
      else if (event.is === 'end') seen.at(-1)!.complete = true
      else error = event.error.code
    }
  }
  for (let at = 0; at < bytes.length && error === undefined; at += size) {
    take(reader.push(bytes.subarray(at, at + size)))
    while (error === undefined && seen.at(-1)?.complete && goesOn(seen.at(-1)!.head)) {
      const before = seen.length
      take(reader.next())
      if (seen.length === before) break
    }
  }
  const last = seen.at(-1)
  if (error === undefined && (last === undefined || !last.complete || goesOn(last.head))) take(reader.end())
  return { seen, error }
}

const goesOn = (head: RequestRead): boolean => {
  const options = listOf(head.connection)
  if (options.includes('close') || options.includes('upgrade')) return false
  return head.minor === 1 || options.includes('keep-alive')
}

/** The code targetOf refuses a request with. The suites leave out Host, so a request without one is given one. */
const refused = (head: RequestRead): string | undefined => {
  try {
    targetOf(head.hosts === 0 ? { ...head, host: 'given', hosts: 1 } : head)
    return undefined
  } catch (error) {
    if (error instanceof ProtocolError) return error.code
    throw error
  }
}

const cases: Case[] = gunzipSync(readFileSync(new URL('../fixtures/http/request-payloads.jsonl.gz', import.meta.url)))
  .toString()
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line))

test('the request payloads of two suites are judged alike, but for a table of departures', (t) => {
  const agree: string[] = []
  for (const { id, request, expect } of cases) {
    const bytes = Buffer.from(request, 'base64')
    const { seen, error } = read(bytes, bytes.length)
    t.same(read(bytes, 1), { seen, error }, `${id}: byte by byte as whole`)
    const unfinished = expect.requests?.at(-1)?.complete === undefined && expect.requests?.at(-1)?.body === undefined
    const rejected = error !== undefined && !(expect.verdict === 'accept' && unfinished && error === 'HTTP1_CUT_SHORT')
    if (rejected === (expect.verdict === 'reject')) agree.push(id)
    else t.hasProp(DEPARTURES, id, `${id}: ${expect.verdict}, and we say ${error ?? 'accept'}`)
  }
  t.same(
    Object.keys(DEPARTURES).filter((id) => agree.includes(id)),
    [],
    'no departure is listed in vain',
  )
  t.end()
})

test('what the suites accept and we accept is read alike', (t) => {
  for (const { id, request, expect } of cases) {
    if (expect.verdict === 'reject' || id in DEPARTURES) continue
    const { seen } = read(Buffer.from(request, 'base64'), request.length)
    for (const [i, want] of (expect.requests ?? []).entries()) {
      if (want.body === undefined || i >= seen.length) continue
      const { head, body } = seen[i]!
      t.equal(head.method.toUpperCase(), want.method.toUpperCase(), `${id}: method`)
      t.equal(head.target, want.target, `${id}: target`)
      t.equal(body, Buffer.from(want.body, 'base64').toString('latin1'), `${id}: body`)
      const names = head.fields.filter((_, at) => at % 2 === 0).map((name) => name.toUpperCase())
      const wanted = want.headers?.map(([name]) => name) ?? []
      t.same(
        names.filter((name) => !name.includes('_')),
        wanted.filter((name) => !name.includes('_')),
        `${id}: names`,
      )
    }
  }
  t.end()
})
