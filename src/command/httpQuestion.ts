import { Buffer } from 'node:buffer'
import type { Arguments } from './command.ts'
import { isRecord } from './exactJson.ts'
import { failure } from './failure.ts'
import { readUrl } from './send.ts'

/** RFC 9110 5.6.2 token, and field values without control characters. */
const FIELD_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
const FIELD_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/

/** The URL with `params` added to its query. */
export const urlOf = (args: Arguments): URL => {
  const url = readUrl(String(args.url))
  const added = paramsText(args.params)
  if (added !== '') url.search = url.search === '' ? added : `${url.search}&${added}`
  return url
}

const paramsText = (params: unknown): string => {
  if (params === undefined) return ''
  if (typeof params === 'string') return params.replace(/^[?&]/, '')
  return new URLSearchParams(pairsOf('params', params)).toString()
}

/** An object or a list of pairs; a list as value repeats the name; null is empty, true is `true`, an object its JSON. */
const pairsOf = (id: string, value: unknown): [string, string][] => {
  const entries = Array.isArray(value) ? value : isRecord(value) ? Object.entries(value) : undefined
  if (entries === undefined || !entries.every((entry) => Array.isArray(entry) && entry.length === 2))
    throw failure('invalid_parameters', `${id} must be an object, a list of pairs or a string`)
  return entries.flatMap(([name, given]): [string, string][] =>
    (Array.isArray(given) ? given : [given]).map((one) => [String(name), scalarText(one)]),
  )
}

const scalarText = (value: unknown): string =>
  value === null || value === undefined ? '' : typeof value === 'object' ? JSON.stringify(value) : String(value)

/** The caller's headers, the content type of the body unless the caller gave one, and basic authentication. */
export const headersOf = (args: Arguments, url: URL, type: string | undefined): [string, string][] => {
  const basic = basicAuth(args, url)
  const given = givenHeaders(args.headers).filter(
    ([name]) => basic === undefined || name.toLowerCase() !== 'authorization',
  )
  const hasType = given.some(([name]) => name.toLowerCase() === 'content-type')
  return [
    ...given,
    ...(type === undefined || hasType ? [] : [['Content-Type', type] as [string, string]]),
    ...(basic === undefined ? [] : [['Authorization', basic] as [string, string]]),
  ]
}

const givenHeaders = (headers: unknown): [string, string][] => {
  if (headers === undefined || headers === '') return []
  if (!isRecord(headers)) throw failure('invalid_parameters', 'headers must be an object of names and values')
  return Object.entries(headers).flatMap(([name, value]): [string, string][] => {
    if (value === null) return []
    if (!FIELD_NAME.test(name)) throw failure('invalid_parameters', `'${name.slice(0, 100)}' is not a header name`)
    const values = Array.isArray(value) ? value : [value]
    return values.map((one) => [name, fieldText(name, one)])
  })
}

const fieldText = (name: string, value: unknown): string => {
  const text =
    typeof value === 'string'
      ? value.trim()
      : typeof value === 'number' || typeof value === 'boolean'
        ? String(value)
        : undefined
  // The value itself is never repeated in a message: it may be a secret.
  if (text === undefined || !FIELD_VALUE.test(text))
    throw failure('invalid_parameters', `the value of the header ${name} cannot be sent`)
  return text
}

/** Both parts or nothing; the parameters win over the URL's own, and both over a header (RFC 7617, UTF-8). */
const basicAuth = (args: Arguments, url: URL): string | undefined => {
  const { basic_auth_username: user, basic_auth_password: password } = args
  const isGiven = typeof user === 'string' && user !== '' && typeof password === 'string' && password !== ''
  const fromUrl =
    url.username === '' && url.password === '' ? undefined : `${unescaped(url.username)}:${unescaped(url.password)}`
  url.username = ''
  url.password = ''
  const credentials = isGiven ? `${user}:${password}` : fromUrl
  return credentials === undefined ? undefined : `Basic ${Buffer.from(credentials).toString('base64')}`
}

const unescaped = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

interface Body {
  readonly body: Uint8Array | undefined
  readonly type: string | undefined
}

/** `data` as bytes, by `body_format`. */
export const bodyOf = (args: Arguments): Body => {
  const format = String(args.body_format ?? '').toLowerCase()
  const write = Object.hasOwn(FORMATS, format) ? FORMATS[format] : undefined
  if (write === undefined)
    throw failure('invalid_parameters', `body_format is one of ${Object.keys(FORMATS).filter(Boolean).join(', ')}`)
  return args.data === undefined ? NOTHING : write(args.data)
}

const NOTHING: Body = { body: undefined, type: undefined }

const json = (data: unknown): Body => ({ body: Buffer.from(JSON.stringify(data)), type: 'application/json' })

const FORMATS: Readonly<Record<string, (data: unknown) => Body>> = {
  '': json,
  json,
  form: (data) => ({
    body: Buffer.from(typeof data === 'string' ? data : new URLSearchParams(pairsOf('data', data)).toString()),
    type: 'application/x-www-form-urlencoded',
  }),
  raw: (data) => ({ body: Buffer.from(typeof data === 'string' ? data : JSON.stringify(data)), type: undefined }),
  base64: (data) => {
    if (typeof data !== 'string' || !/^[\w+/\s-]*={0,2}\s*$/.test(data))
      throw failure('invalid_parameters', 'data must be a base64 string when body_format is base64')
    return { body: Buffer.from(data, 'base64'), type: 'application/octet-stream' }
  },
  none: () => NOTHING,
}
