import { request } from 'node:http'
import { parseAddress } from '../net/address.ts'
import { type Arguments, type Command, type Io, single, UsageError } from '../net/commandLine.ts'
import { FILTERS } from '../telemetry/filter.ts'
import type { Outcome, RequestOutcome } from '../telemetry/outcome.ts'
import { outcomeText, requestText } from '../telemetry/outcomeText.ts'
import { recordTo } from './tapFile.ts'

/** `sluice tap`: what a running proxy does, as it does it. */
export const tapCommand: Command = {
  name: 'tap',
  summary: 'show connections and requests of a running proxy as they end',
  usage: '[--admin ADDRESS] [filters] [--limit N] [--json | --pcapng FILE]',
  flagsOnly: true,
  options: {
    admin: { value: 'ADDRESS', help: 'the admin server (127.0.0.1:4191)' },
    ...FILTERS,
    limit: { value: 'N', help: 'end after so many' },
    json: { help: 'one JSON object a line' },
    pcapng: {
      value: 'FILE',
      help: 'record connections that begin from now on, byte by byte, for Wireshark and sluice replay; wants admin.captures',
    },
  },
  examples: [
    'sluice tap --direction outbound --status 5xx',
    'sluice tap --destination 10.0.0.5:3306 --limit 10 --json',
    'sluice tap --rule databases --limit 20 --pcapng trouble.pcapng',
  ],
  run: (args, io) => tap(args, io),
}

const tap = async (args: Arguments, io: Io): Promise<number> => {
  const written = single(args, 'admin') ?? '127.0.0.1:4191'
  const address = parseAddress(written)
  if (address === undefined)
    throw new UsageError(`--admin is an address and port, such as 127.0.0.1:4191, not '${written}'`)
  const query = new URLSearchParams()
  for (const name of [...Object.keys(FILTERS), 'limit']) {
    const value = single(args, name)
    if (value !== undefined) query.set(name, value)
  }
  const token = io.env.SLUICE_ADMIN_TOKEN
  const headers = token ? { authorization: `Bearer ${token}` } : {}
  const file = single(args, 'pcapng')
  if (file !== undefined) return recordTo(file, { ...address, path: `/tap.pcapng?${query}`, headers }, written, io)
  return new Promise((resolve) => {
    const fail = (why: string) => {
      io.err(`sluice tap: ${why}\n`)
      resolve(1)
    }
    const asked = request({ ...address, path: `/tap?${query}`, headers }, (response) => {
      response.setEncoding('utf8')
      let held = ''
      response.on('data', (chunk: string) => {
        held += chunk
        if (response.statusCode !== 200) return
        const lines = held.split('\n')
        held = lines.pop() ?? ''
        for (const line of lines)
          if (line !== '') io.out(args.values.json === true ? `${line}\n` : `${shown(JSON.parse(line))}\n`)
      })
      response.on('end', () => (response.statusCode === 200 ? resolve(0) : fail(held.trim())))
      response.on('error', (error) => fail(error.message))
    })
    asked.on('error', (error: NodeJS.ErrnoException) =>
      fail(`the admin server at ${written} cannot be reached: ${error.code}`),
    )
    asked.end()
  })
}

type Line =
  | ({ readonly is: 'connection' } & Outcome)
  | ({ readonly is: 'request' } & Pick<Outcome, 'direction' | 'peer' | 'destination'> & RequestOutcome)
  | { readonly is: 'dropped'; readonly events: number }

const shown = (line: Line): string => {
  if (line.is === 'dropped') return `(${line.events} events were not shown: this terminal is too slow for them)`
  return line.is === 'connection' ? outcomeText(line) : requestText(line, line)
}
