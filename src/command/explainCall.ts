import type { Arguments, Command } from './command.ts'
import { isRecord } from './exactJson.ts'

const SECRET_NAME = /authorization|cookie|token|secret|password|passwd|api-?_?key|signature|credential/i
const MASK = '***'

/** What a call would do, in words, with everything that may be a secret masked: values by name, URL userinfo and query. */
export const explainCall = (command: Command, args: Arguments): Readonly<Record<string, string>> => ({
  command: command.id,
  summary: command.summary,
  ...Object.fromEntries(Object.entries(args).map(([name, value]) => [`argument.${name}`, shown(name, value)])),
})

const shown = (name: string, value: unknown): string => {
  if (SECRET_NAME.test(name)) return MASK
  if (name === 'url' && typeof value === 'string') return shownUrl(value)
  const masked = maskedValue(value)
  return typeof masked === 'string' ? masked : JSON.stringify(masked)
}

const maskedValue = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(maskedValue)
  if (!isRecord(value)) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, own]) => [name, SECRET_NAME.test(name) ? MASK : maskedValue(own)]),
  )
}

const shownUrl = (text: string): string => {
  const url = URL.parse(text)
  if (url === null) return 'not a URL'
  const query = [...new Set(url.searchParams.keys())].map((name) => `${name}=${MASK}`).join('&')
  return `${url.protocol}//${url.host}${url.pathname}${query === '' ? '' : `?${query}`}`
}
