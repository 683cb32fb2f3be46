import { fileURLToPath } from 'node:url'
import { loadPackageDefinition, Server, ServerCredentials, type ServerWritableStream, status } from '@grpc/grpc-js'
import { loadSync, type PackageDefinition } from '@grpc/proto-loader'

/** What a client asked for. */
export interface Asked {
  readonly scheme: string
  readonly path: string
  readonly contextToken?: string
}

/** One stream to a client, which the test writes to. Messages are as protobuf.js takes them. */
export interface Told {
  readonly asked: Asked
  readonly write: (message: object) => void
  readonly end: () => void
  readonly fail: (code: keyof typeof status, message?: string) => void
  readonly isCancelled: () => boolean
}

export interface DestinationServer {
  readonly port: number
  readonly close: () => Promise<void>
}

type Handler = (told: Told) => void

/** What the server does with each call. */
export interface Answers {
  readonly get?: Handler
  readonly getProfile?: Handler
}

const OPTIONS = { longs: String, defaults: true, oneofs: true } as const

const definitionOf = (name: 'destination' | 'conduit'): PackageDefinition =>
  loadSync(fileURLToPath(new URL(`proto/${name}.proto`, import.meta.url)), OPTIONS)

/** The definitions, for tests that only want bytes. */
export const destinationMethods = () => {
  const service = definitionOf('destination')['io.linkerd.proxy.destination.Destination']!
  return service as unknown as Readonly<
    Record<
      'Get' | 'GetProfile',
      {
        readonly responseSerialize: (message: object) => Buffer
        readonly requestDeserialize: (bytes: Buffer) => Asked
      }
    >
  >
}

/** A control plane by another implementation of gRPC and of protobuf, on loopback. */
export const destinationServer = async (
  answers: Answers,
  api: 'linkerd' | 'conduit' = 'linkerd',
  port = 0,
): Promise<DestinationServer> => {
  const server = new Server({ 'grpc.max_send_message_length': -1 })
  const handled =
    (handler: Handler | undefined) =>
    (call: ServerWritableStream<Asked, object>): void => {
      const fail: Told['fail'] = (code, details = '') => call.emit('error', { code: status[code], details })
      if (handler === undefined) return fail('UNIMPLEMENTED')
      handler({
        asked: call.request,
        write: (message) => void call.write(message),
        end: () => call.end(),
        fail,
        isCancelled: () => call.cancelled,
      })
    }
  const implementation = { Get: handled(answers.get), GetProfile: handled(answers.getProfile) }
  const loaded = loadPackageDefinition(definitionOf(api === 'linkerd' ? 'destination' : 'conduit')) as never as Record<
    string,
    { proxy: { destination: { Destination: { service: never } } } } & { linkerd: never }
  >
  const { destination } = api === 'linkerd' ? (loaded.io!.linkerd as (typeof loaded)['x']).proxy : loaded.conduit!.proxy
  server.addService(destination.Destination.service, implementation as never)
  const bound = await new Promise<number>((resolve, reject) =>
    server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error, it) =>
      error ? reject(error) : resolve(it),
    ),
  )
  return {
    port: bound,
    close: async () => {
      server.forceShutdown()
    },
  }
}

/** 10.0.0.1:80 as the API has it. */
export const addr = (text: string): object => {
  const [host = '', port] = text.split(':')
  const ipv4 = host.split('.').reduce((word, part) => word * 256 + Number(part), 0)
  return { ip: { ipv4 }, port: Number(port) }
}

export const add = (...all: readonly string[]): object => ({
  add: { addrs: all.map((text) => ({ addr: addr(text), weight: 10_000 })) },
})

export const remove = (...all: readonly string[]): object => ({ remove: { addrs: all.map(addr) } })

export const none = (exists: boolean): object => ({ noEndpoints: { exists } })
