// The same in TypeScript, for each kind of server: `node examples/callback/app.ts 127.0.0.1:50001`.
import { createServer } from 'node:http'
import { createServer as createHttp2Server } from 'node:http2'
import * as grpc from '@grpc/grpc-js'
import { type CallbackOptions, type CallbackServer, type ChannelState, serveOverCallback } from 'sluice/callback'

const same = (value: Buffer): Buffer => value
const echo = {
  path: '/test.Echo/Unary',
  requestStream: false,
  responseStream: false,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
}
const rpc = new grpc.Server()
rpc.addService(
  { Unary: echo },
  { Unary: (call: { request: Buffer }, done: (error: null, value: Buffer) => void) => done(null, call.request) },
)

const servers: Record<string, CallbackOptions['server']> = {
  http: createServer((request, response) => request.pipe(response)),
  http2: createHttp2Server((request, response) => request.pipe(response)),
  grpc: rpc.createConnectionInjector(grpc.ServerCredentials.createInsecure()),
}
for (const [appId, server] of Object.entries(servers)) {
  const callback: CallbackServer = serveOverCallback({ proxy: process.argv[2] ?? '', appId, server })
  callback.on('state', (state: ChannelState) => {
    if (state.is === 'waiting') process.stderr.write(`${state.because}\n`)
  })
}
