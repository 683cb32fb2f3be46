/**
 * An app that cannot be dialled, as a program: `callbackApp.ts KIND PROXY APP-ID`. It answers each call with its own name,
 * method, path and the length of the body; `/slow` never. It says on stderr what its channel does.
 */
import { createServer } from 'node:http'
import { createServer as createHttp2Server, type ServerHttp2Stream } from 'node:http2'
import { type AppServer, serveOverCallback } from '../../src/sdk/serveOverCallback.ts'

const [kind, proxy = '', appId = ''] = process.argv.slice(2)

const KINDS: Readonly<Record<string, () => Promise<AppServer>>> = {
  http: async () =>
    createServer((request, response) => {
      let bytes = 0
      request.on('data', (chunk: Buffer) => {
        bytes += chunk.length
      })
      request.on('end', () => {
        if (request.url !== '/slow') response.end(`http ${request.method} ${request.url} ${bytes}`)
      })
    }),
  http2: async () => {
    const server = createHttp2Server()
    server.on('stream', (stream: ServerHttp2Stream, headers) => {
      let bytes = 0
      stream.on('error', () => {})
      stream.on('data', (chunk: Buffer) => {
        bytes += chunk.length
      })
      stream.on('end', () => {
        stream.respond({ ':status': 200 })
        stream.end(`http2 ${headers[':method']} ${headers[':path']} ${bytes}`)
      })
    })
    return server
  },
  grpc: async () => {
    const grpc = await import('@grpc/grpc-js')
    const same = (value: Buffer) => value
    const server = new grpc.Server({ 'grpc.max_receive_message_length': -1 })
    const echo = {
      path: '/test.Echo/Unary',
      requestStream: false,
      responseStream: false,
      requestSerialize: same,
      requestDeserialize: same,
      responseSerialize: same,
      responseDeserialize: same,
    }
    server.addService(
      { Unary: echo },
      { Unary: (call: { request: Buffer }, done: (error: null, value: Buffer) => void) => done(null, call.request) },
    )
    return server.createConnectionInjector(grpc.ServerCredentials.createInsecure())
  },
}

const server = await KINDS[kind ?? '']!()
const callback = serveOverCallback({
  ...{ proxy, appId, server, token: process.env.DAPR_API_TOKEN, timing: { pingMs: 700 } },
  tcp: (stream, { destination }) => {
    stream.write(`for ${destination}: `)
    stream.pipe(stream)
  },
})
callback.on('state', (state) => process.stderr.write(`${JSON.stringify(state)}\n`))
