import { once } from 'node:events'
import { connect } from 'node:net'
import {
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js'
import type { Test } from 'tap'
import { PING_PATH } from '../../src/callback/wire.ts'
import { apiSession, ask, type Host } from './callback.ts'

type Bytes = Buffer<ArrayBufferLike>
const same = (bytes: Bytes): Bytes => bytes

const method = (path: string, requestStream: boolean, responseStream: boolean) => ({
  path,
  requestStream,
  responseStream,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
})

const ECHO = {
  unary: method('/test.Echo/Unary', false, false),
  fails: method('/test.Echo/Fails', false, false),
  large: method('/test.Echo/Large', false, false),
  largeSecond: method('/test.Echo/LargeSecond', false, true),
  serverStream: method('/test.Echo/ServerStream', false, true),
  clientStream: method('/test.Echo/ClientStream', true, false),
  bidi: method('/test.Echo/Bidi', true, true),
  ping: method(PING_PATH, true, true),
}

type Unary = (call: ServerUnaryCall<Bytes, Bytes>, done: sendUnaryData<Bytes>) => void

const HANDLERS = {
  unary: (({ request }, done) => done(null, request)) satisfies Unary,
  fails: ((_, done) => done({ code: status.FAILED_PRECONDITION, details: 'no, 100 % not' })) satisfies Unary,
  large: (({ request }, done) => done(null, Buffer.alloc(Number(request.toString())))) satisfies Unary,
  largeSecond: (call: ServerWritableStream<Bytes, Bytes>) => {
    call.write(Buffer.from('1'))
    call.write(Buffer.alloc(Number(call.request.toString())))
    call.end()
  },
  serverStream: (call: ServerWritableStream<Bytes, Bytes>) => {
    for (let count = 0; count < 3; count += 1) call.write(Buffer.from(`${call.request}${count}`))
    call.end()
  },
  clientStream: (call: ServerReadableStream<Bytes, Bytes>, done: sendUnaryData<Bytes>) => {
    const parts: string[] = []
    call.on('data', (part: Bytes) => parts.push(part.toString()))
    call.on('end', () => done(null, Buffer.from(parts.join(','))))
  },
  bidi: (call: ServerDuplexStream<Bytes, Bytes>) => {
    call.on('data', (message: Bytes) => call.write(message))
    call.on('end', () => call.end())
  },
  ping: (call: ServerDuplexStream<Bytes, Bytes>) => {
    call.on('error', () => {})
    call.write(Buffer.alloc(0))
  },
}

/** An app of grpc-js, which never listens: it is given the connection that it dialled. */
export const grpcApp = async (t: Test, host: Host, options = {}): Promise<void> => {
  const server = new Server(options)
  server.addService(ECHO, HANDLERS)
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure())
  t.teardown(() => {
    injector.destroy()
    server.forceShutdown()
  })
  const session = apiSession(t, host.api)
  const { port } = await ask(session)
  const socket = connect({ port, host: '127.0.0.1' })
  socket.on('error', () => {})
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  injector.injectConnection(socket)
  await host.up(1)
}
