import { request } from 'node:http'
import { parseAddress } from '../net/address.ts'
import { type Arguments, type Io, single, UsageError } from '../net/commandLine.ts'

/** What the admin server of a running proxy answers; status 0 and the reason where it cannot be reached. */
export const askAdmin = (
  args: Arguments,
  io: Io,
  path: string,
): Promise<{ readonly status: number; readonly body: string }> => {
  const written = single(args, 'admin') ?? '127.0.0.1:4191'
  const address = parseAddress(written)
  if (address === undefined)
    throw new UsageError(`--admin is an address and port, such as 127.0.0.1:4191, not '${written}'`)
  const token = io.env.SLUICE_ADMIN_TOKEN
  const headers = token ? { authorization: `Bearer ${token}` } : {}
  return new Promise((resolve) => {
    const fail = (error: NodeJS.ErrnoException) =>
      resolve({ status: 0, body: `the admin server at ${written} cannot be reached: ${error.code ?? error.message}` })
    const asked = request({ ...address, path, headers }, (response) => {
      let body = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => {
        body += chunk
      })
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body }))
      response.on('error', fail)
    })
    asked.on('error', fail)
    asked.end()
  })
}
