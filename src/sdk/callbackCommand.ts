import { readFile } from 'node:fs/promises'
import type { ConnectionOptions } from 'node:tls'
import { parseAddress } from '../net/address.ts'
import { type Arguments, type Command, type Io, single, UsageError } from '../net/commandLine.ts'
import { readSecret } from '../net/secret.ts'
import type { ChannelState } from './keepChannel.ts'
import { type CallbackOptions, serveOverCallback } from './serveOverCallback.ts'

const TOKEN_VARIABLE = 'DAPR_API_TOKEN'
const PROTOCOLS = { http: 'http', h2c: 'h2c', grpc: 'h2c' } as const

/** `sluice callback`: an app in any language, which listens on its own loopback, called over a callback channel. */
export const callbackCommand: Command = {
  name: 'callback',
  summary: 'let a proxy call an app that cannot be dialled: connect to it, and carry its calls to a local port',
  usage: '--proxy HOST:PORT --app-port PORT [--app-id NAME] [options]',
  flagsOnly: true,
  options: {
    proxy: { value: 'HOST:PORT', help: 'where the proxy takes callback channels: its `callback.address`' },
    'app-port': { value: 'PORT', help: 'the port on which the app listens' },
    'app-host': { value: 'HOST', help: 'the address on which it listens (127.0.0.1)' },
    'app-protocol': { value: 'NAME', help: 'what it speaks: http (HTTP/1.1, the default), h2c or grpc (HTTP/2)' },
    'app-id': { value: 'NAME', help: 'the name by which policies of the proxy call it (upstream: { channel: NAME })' },
    'tcp-port': { value: 'PORT', help: 'the port for opaque TCP, if it is another than --app-port' },
    'token-file': { value: 'FILE', help: `the proxy's API token; without it ${TOKEN_VARIABLE}, where set` },
    tls: { help: 'TLS to the proxy, on its API and on the channel' },
    ca: { value: 'FILE', help: 'with --tls: trust these certificates instead of those that Node brings' },
    cert: { value: 'FILE', help: 'with --tls: our own certificate, for mutual TLS; with --key' },
    key: { value: 'FILE', help: 'its key' },
    'server-name': { value: 'NAME', help: 'with --tls: the name in the certificate of the proxy, if not the host' },
    json: { help: 'each change of state as one JSON object a line, instead of words' },
  },
  examples: [
    'sluice callback --proxy 10.0.0.5:50001 --app-id orders --app-port 3000',
    'DAPR_API_TOKEN=… sluice callback --proxy proxy.example:50001 --app-port 50051 --app-protocol grpc --tls --ca ca.pem',
  ],
  run: async (args, io) => {
    const options = wanted(args)
    let token: CallbackOptions['token']
    let tls: ConnectionOptions | undefined
    try {
      token = await tokenOf(args, io)
      tls = await tlsOf(args)
    } catch (error) {
      if (error instanceof UsageError) throw error
      io.err(`sluice callback: ${(error as Error).message}\n`)
      return 1
    }
    const callback = serveOverCallback({ ...options, token, tls, signals: [] })
    const text = args.values.json === true ? (state: ChannelState) => JSON.stringify(state) : inWords(options)
    callback.on('state', (state) => io.err(`${text(state)}\n`))
    await io.stopped
    await callback.close()
    return 0
  },
}

type Wanted = Pick<CallbackOptions, 'proxy' | 'server' | 'appId' | 'tcp'> & { readonly name: string }

const wanted = (args: Arguments): Wanted => {
  const proxy = single(args, 'proxy')
  if (!proxy) throw new UsageError('--proxy is missing: the HOST:PORT where the proxy takes callback channels')
  const address = parseAddress(proxy)
  if (address === undefined || address.port === 0)
    throw new UsageError(`--proxy ${proxy} is not HOST:PORT, such as 10.0.0.5:50001 or [fd00::5]:50001`)
  const port = portOf(args, 'app-port')
  if (port === undefined) throw new UsageError('--app-port is missing: the port on which the app listens')
  const name = single(args, 'app-protocol') ?? 'http'
  if (!Object.hasOwn(PROTOCOLS, name))
    throw new UsageError(`--app-protocol ${name}: expected ${Object.keys(PROTOCOLS).join(', ')}`)
  const protocol = PROTOCOLS[name as keyof typeof PROTOCOLS]
  const host = single(args, 'app-host') ?? '127.0.0.1'
  const appId = single(args, 'app-id')
  if (appId === '') throw new UsageError('--app-id is empty: leave it out for the proxy to say which app this is')
  return {
    proxy,
    appId,
    server: { host, port, protocol },
    tcp: { host, port: portOf(args, 'tcp-port') ?? port },
    name: `${appId ?? 'the app'} at ${host}:${port}`,
  }
}

const portOf = (args: Arguments, flag: string): number | undefined => {
  const text = single(args, flag)
  if (text === undefined) return undefined
  const port = Number(text)
  if (/^\d{1,5}$/.test(text) && port > 0 && port < 65_536) return port
  throw new UsageError(`--${flag} ${text} is not a port: a number from 1 to 65535`)
}

/** Read anew before each try, so that a token that was rotated is taken up; wrong at the start is a mistake. */
const tokenOf = async (args: Arguments, io: Io): Promise<CallbackOptions['token']> => {
  const file = single(args, 'token-file')
  if (file === undefined) return io.env[TOKEN_VARIABLE] || undefined
  const read = () => readSecret({ file }, io.env)
  let last = await read().catch((error: Error) => {
    throw new Error(`--token-file: ${error.message}`)
  })
  return async () => {
    last = await read().catch(() => last)
    return last
  }
}

const tlsOf = async (args: Arguments): Promise<ConnectionOptions | undefined> => {
  const files = ['ca', 'cert', 'key'] as const
  const lone = [...files, 'server-name' as const].find((flag) => single(args, flag) !== undefined)
  if (args.values.tls !== true) {
    if (lone !== undefined) throw new UsageError(`--${lone} says nothing without --tls`)
    return undefined
  }
  if ((single(args, 'cert') === undefined) !== (single(args, 'key') === undefined))
    throw new UsageError('--cert and --key belong together')
  const options: Record<string, Buffer | string> = {}
  for (const flag of files) {
    const path = single(args, flag)
    if (path === undefined) continue
    options[flag] = await readFile(path).catch((error: NodeJS.ErrnoException) => {
      throw new Error(`--${flag} ${path} cannot be read (${error.code})`)
    })
  }
  const servername = single(args, 'server-name')
  return { ...options, ...(servername && { servername }) }
}

/** What a person reads. */
const inWords =
  ({ name, proxy }: Wanted) =>
  (state: ChannelState): string => {
    switch (state.is) {
      case 'connecting':
        return `reaching for the proxy at ${proxy}`
      case 'waiting':
        return `next try in ${(state.ms / 1_000).toFixed(1)} s: ${state.because}`
      case 'up':
        return `channel ${state.channel} is up: the proxy at ${proxy} calls ${name}`
      case 'replacing':
        return `channel ${state.channel} is being replaced: ${state.because}`
      case 'lost':
        return `channel ${state.channel} is lost: ${state.because}`
      case 'draining':
        return 'draining: no new calls, those in flight are finished'
      case 'closed':
        return 'closed'
    }
  }
