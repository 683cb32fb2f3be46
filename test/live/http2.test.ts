import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect as connectHttp2, createServer, type ServerHttp2Stream } from 'node:http2'
import { connect as connectTcp } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Duplex } from 'node:stream'
import { promisify } from 'node:util'
import {
  Client,
  credentials,
  type handleBidiStreamingCall,
  type handleClientStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  type MethodDefinition,
  Server,
  ServerCredentials,
  status,
} from '@grpc/grpc-js'
import { type Test, test } from 'tap'
import { WebSocket } from 'ws'
import { front } from '../support/front.ts'
import { http2Proxy, listening } from '../support/http2Proxy.ts'
import { freePort } from '../support/listening.ts'

const run = promisify(execFile)

/** What a program prints, whatever its exit code. */
const output = async (program: string, args: readonly string[]): Promise<string> => {
  try {
    const { stdout, stderr } = await run(program, args, { timeout: 60_000, maxBuffer: 64 * 1024 * 1024 })
    return stdout + stderr
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string }
    return stdout + stderr
  }
}

const echo = async (t: Test): Promise<number> => {
  const server = createServer()
  server.on('stream', (stream: ServerHttp2Stream, fields) => {
    stream.on('error', () => {})
    stream.respond({ ':status': 200, 'content-type': 'text/plain', 'x-path': fields[':path'] ?? '' })
    if (fields[':method'] === 'POST') stream.pipe(stream)
    else stream.end(`you asked for ${fields[':path']}\n`)
  })
  return listening(t, server)
}

test('curl with prior knowledge: GET, HEAD, an upload of 5 MB', async (t) => {
  const { port } = await http2Proxy(t, await echo(t))
  const url = `http://127.0.0.1:${port}`
  const curl = (...args: string[]): Promise<string> => output('curl', ['-s', '--http2-prior-knowledge', ...args])
  t.equal(await curl(`${url}/a`), 'you asked for /a\n')
  t.match(await curl('-I', `${url}/a`), /^HTTP\/2 200/)
  const folder = await mkdtemp(join(tmpdir(), 'sluice-'))
  t.teardown(() => rm(folder, { recursive: true }))
  await writeFile(join(folder, 'body'), Buffer.alloc(5_000_000, 'abc'))
  await curl('--data-binary', `@${folder}/body`, '-o', `${folder}/back`, url)
  t.equal(await output('cmp', [`${folder}/body`, `${folder}/back`]), '')
})

test('curl reads an answer that comes before its upload is over, whoever gives it', async (t) => {
  const server = createServer()
  server.on('stream', (stream: ServerHttp2Stream) => {
    stream.on('error', () => {})
    stream.respond({ ':status': 413 })
    stream.end('too much')
  })
  const { port } = await http2Proxy(t, await listening(t, server))
  const denied = await front(
    { host: '127.0.0.1', port: 1 },
    'rules: [{ name: no uploads, when: { method: POST }, then: { deny: true } }]',
  )
  t.teardown(denied.close)
  const folder = await mkdtemp(join(tmpdir(), 'sluice-'))
  t.teardown(() => rm(folder, { recursive: true }))
  await writeFile(join(folder, 'body'), Buffer.alloc(5_000_000, 'abc'))
  const upload = ['-s', '--http2-prior-knowledge', '-w', ' %{http_code}', '--data-binary', `@${join(folder, 'body')}`]
  t.equal(await output('curl', [...upload, `http://127.0.0.1:${port}/`]), 'too much 413')
  t.match(await output('curl', [...upload, `http://127.0.0.1:${denied.address.port}/`]), /denies this request\n 403$/)
})

test('nghttp: many resources at once, with padding and priorities, all whole', async (t) => {
  const { port } = await http2Proxy(t, await echo(t))
  const urls = Array.from({ length: 30 }, (_, at) => `http://127.0.0.1:${port}/${at}`)
  const report = await output('nghttp', ['-ns', '-b', '100', ...urls])
  t.equal((report.match(/ 200 /g) ?? []).length, 30, report)
})

test('h2load: ten thousand requests on eight connections, none fails', async (t) => {
  const { port } = await http2Proxy(t, await echo(t))
  const report = await output('h2load', ['-n10000', '-c8', '-m32', `http://127.0.0.1:${port}/`])
  t.match(report, /10000 succeeded, 0 failed, 0 errored/)
})

test('a websocket pair by RFC 8441, from end to end over HTTP/2', async (t) => {
  /** What ws does on a stream that stands already; it offers no other way to HTTP/2. */
  const over = (stream: Duplex, isServer: boolean): WebSocket => {
    const socket = new WebSocket(null as never, undefined, { autoPong: true } as never)
    const inside = socket as unknown as { _isServer: boolean; setSocket: (...all: unknown[]) => void }
    inside._isServer = isServer
    inside.setSocket(stream, Buffer.alloc(0), { maxPayload: 2_000_000 })
    return socket
  }
  const server = createServer({ settings: { enableConnectProtocol: true } })
  server.on('stream', (stream: ServerHttp2Stream, fields) => {
    stream.on('error', () => {})
    if (fields[':protocol'] !== 'websocket') return stream.close(1)
    stream.respond({ ':status': 200 })
    const socket = over(stream, true)
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }))
  })
  server.on('session', (session) => t.teardown(() => session.destroy()))
  const policy = 'rules: [{ name: chat, when: { path: /chat }, then: { http: { upgrade: { allow: [websocket] } } } }]'
  const sluice = await front({ host: '127.0.0.1', port: await listening(t, server) }, policy)
  t.teardown(() => sluice.close())
  const session = connectHttp2(`http://127.0.0.1:${sluice.address.port}`)
  t.teardown(() => session.destroy())
  await once(session, 'remoteSettings')
  const asking = (path: string) =>
    session.request({ ':method': 'CONNECT', ':protocol': 'websocket', ':path': path, 'sec-websocket-version': '13' })
  const refused = asking('/other')
  t.match((await once(refused, 'response'))[0], { ':status': 500 })
  const stream = asking('/chat')
  t.match((await once(stream, 'response'))[0], { ':status': 200 })
  const socket = over(stream, false)
  const big = Buffer.alloc(1_000_000, 'x')
  socket.send(big)
  const [echoed] = (await once(socket, 'message')) as [Buffer]
  t.ok(echoed.equals(big), 'a megabyte came back')
  stream.end()
  await once(stream, 'close')
  while (sluice.requests.length < 2) await new Promise((resolve) => setImmediate(resolve))
  t.ok(sluice.requests.some(({ upgrade, status }) => upgrade === 'websocket' && status === 200))
})

test('h2load under a policy of two hundred rules: none fails, and the denied are denied', async (t) => {
  const rules = Array.from(
    { length: 200 },
    (_, at) =>
      `  - { name: r${at}, when: { path: /r${at}/** }, then: { http: { request: { set: { x-rule: "${at}" } } } } }`,
  )
  const policy = `rules:\n  - { name: no, when: { path: /no/** }, then: { deny: true } }\n${rules.join('\n')}\n`
  const sluice = await front({ host: '127.0.0.1', port: await echo(t) }, policy)
  t.teardown(() => sluice.close())
  const at = `http://127.0.0.1:${sluice.address.port}`
  const report = await output('h2load', [
    '-n2000',
    '-c4',
    '-m16',
    `${at}/r7/a`,
    `${at}/r199/b`,
    `${at}/no/c`,
    `${at}/d`,
  ])
  t.match(report, /2000 total, 2000 started, 2000 done, 1500 succeeded, 500 failed, 0 errored/)
  t.match(report, /1500 2xx, 0 3xx, 500 4xx, 0 5xx/)
})

test('h2load with windows of 1 KiB and with large ones reads bodies of 1 MiB whole', async (t) => {
  const server = createServer({ maxSessionMemory: 1000 })
  server.on('stream', (stream: ServerHttp2Stream) => {
    stream.on('error', () => {})
    stream.respond({ ':status': 200 })
    stream.end(Buffer.alloc(1_048_576))
  })
  const { port } = await http2Proxy(t, await listening(t, server))
  for (const bits of ['10', '16', '30']) {
    const report = await output('h2load', ['-n20', '-c2', '-m4', '-w', bits, '-W', '16', `http://127.0.0.1:${port}/`])
    t.match(report, /20 succeeded, 0 failed, 0 errored/, `windows of 2^${bits}`)
    t.match(report, /\(20971520\) data/)
  }
})

/** A peer between us and a server or a client: it must accept what we write, and we what it writes. */
const withPeer = async (t: Test, program: string, args: readonly string[], port: number): Promise<void> => {
  const child = spawn(program, args, { stdio: 'ignore' })
  t.teardown(() => void child.kill())
  child.on('error', () => {})
  for (let tries = 0; tries < 100; tries++) {
    if (await isOpen(port)) return
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error(`${program} did not come up`)
}

const isOpen = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connectTcp(port, '127.0.0.1')
    socket.on('error', () => resolve(false))
    socket.on('connect', () => {
      socket.destroy()
      resolve(true)
    })
  })

const fileOf = async (t: Test, name: string, text: string): Promise<string> => {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  await writeFile(join(folder, name), text)
  return join(folder, name)
}

/** haproxy, between two addresses, HTTP/2 on both sides. */
const haproxy = async (t: Test, upstream: number): Promise<number> => {
  const port = await freePort()
  const config = `global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 20s
  timeout server 20s
frontend f
  bind 127.0.0.1:${port} proto h2
  default_backend b
backend b
  server s 127.0.0.1:${upstream} proto h2
`
  await withPeer(t, 'haproxy', ['-db', '-f', await fileOf(t, 'haproxy.cfg', config)], port)
  return port
}

const nghttpx = async (t: Test, upstream: number): Promise<number> => {
  const port = await freePort()
  const args = [`--frontend=127.0.0.1,${port};no-tls`, `--backend=127.0.0.1,${upstream};;proto=h2`, '--workers=1']
  await withPeer(t, 'nghttpx', ['--conf=/dev/null', ...args], port)
  return port
}

const nginx = async (t: Test): Promise<number> => {
  const port = await freePort()
  // Not /dev/null: as root, nginx would remove that at its end.
  const config = `daemon off; pid nginx.pid; error_log /dev/null;
events {}
http { access_log off; client_body_temp_path /tmp; keepalive_requests 100000; server { listen 127.0.0.1:${port} http2; location / { return 200 "nginx\\n"; } } }
`
  const file = await fileOf(t, 'nginx.conf', config)
  await withPeer(t, 'nginx', ['-p', dirname(file), '-c', file], port)
  return port
}

test('haproxy and nghttpx before us and behind us, and nginx behind us', async (t) => {
  const origin = await echo(t)
  const chains: [string, number][] = [
    ['haproxy behind', (await http2Proxy(t, await haproxy(t, origin))).port],
    ['haproxy before', await haproxy(t, (await http2Proxy(t, origin)).port)],
    ['nghttpx behind', (await http2Proxy(t, await nghttpx(t, origin))).port],
    ['nghttpx before', await nghttpx(t, (await http2Proxy(t, origin)).port)],
    ['nginx behind', (await http2Proxy(t, await nginx(t))).port],
  ]
  for (const [where, port] of chains) {
    const report = await output('h2load', ['-n2000', '-c4', '-m16', `http://127.0.0.1:${port}/`])
    t.match(report, /2000 succeeded, 0 failed, 0 errored/, where)
  }
})

// gRPC

const bytes = (value: Buffer): Buffer => value
const method = (path: string, requestStream: boolean, responseStream: boolean): MethodDefinition<Buffer, Buffer> => ({
  path: `/test.Test/${path}`,
  requestStream,
  responseStream,
  requestSerialize: bytes,
  requestDeserialize: bytes,
  responseSerialize: bytes,
  responseDeserialize: bytes,
})
const METHODS = {
  unary: method('unary', false, false),
  collect: method('collect', true, false),
  count: method('count', false, true),
  chat: method('chat', true, true),
  never: method('never', false, false),
  fail: method('fail', false, false),
}

const cancelled = Promise.withResolvers<void>()
const unary: handleUnaryCall<Buffer, Buffer> = (call, answer) => {
  call.sendMetadata(call.metadata)
  answer(null, Buffer.concat([Buffer.from('hello '), call.request]))
}
const collect: handleClientStreamingCall<Buffer, Buffer> = (call, answer) => {
  let total = 0
  call.on('data', (chunk: Buffer) => {
    total += chunk.length
  })
  call.on('end', () => answer(null, Buffer.from(String(total))))
}
const count: handleServerStreamingCall<Buffer, Buffer> = (call) => {
  for (let at = 0; at < Number(call.request); at++) call.write(Buffer.from(String(at)))
  call.end()
}
const chat: handleBidiStreamingCall<Buffer, Buffer> = (call) => {
  call.on('data', (chunk: Buffer) => call.write(chunk))
  call.on('end', () => call.end())
}
const never: handleUnaryCall<Buffer, Buffer> = (call) => void call.on('cancelled', () => cancelled.resolve())
const fail: handleUnaryCall<Buffer, Buffer> = (_, answer) =>
  answer({ code: status.FAILED_PRECONDITION, details: 'not now: ü' })

const grpcPair = async (t: Test): Promise<Client> => {
  const server = new Server({ 'grpc.max_receive_message_length': -1 })
  server.addService(METHODS, { unary, collect, count, chat, never, fail })
  const port = await promisify(server.bindAsync.bind(server))('127.0.0.1:0', ServerCredentials.createInsecure())
  t.teardown(() => server.forceShutdown())
  const sluice = await front({ host: '127.0.0.1', port: Number(port) })
  t.teardown(() => sluice.close())
  const options = { 'grpc.max_receive_message_length': -1 }
  const client = new Client(`127.0.0.1:${sluice.address.port}`, credentials.createInsecure(), options)
  t.teardown(() => client.close())
  return client
}

const call = (client: Client, name: keyof typeof METHODS, message: Buffer, options = {}): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    client.makeUnaryRequest(METHODS[name].path, bytes, bytes, message, options, (error, value) =>
      error ? reject(error) : resolve(value!),
    )
  })

test('gRPC: unary, a large message, an error with its words', async (t) => {
  const client = await grpcPair(t)
  t.equal(`${await call(client, 'unary', Buffer.from('you'))}`, 'hello you')
  t.equal((await call(client, 'unary', Buffer.alloc(10_485_760))).length, 10_485_766)
  await t.rejects(call(client, 'fail', Buffer.alloc(0)), { code: status.FAILED_PRECONDITION, details: 'not now: ü' })
})

test('gRPC: client, server and bidirectional streams', async (t) => {
  const client = await grpcPair(t)
  const total = await new Promise((resolve, reject) => {
    const stream = client.makeClientStreamRequest(METHODS.collect.path, bytes, bytes, (error, value) =>
      error ? reject(error) : resolve(`${value}`),
    )
    for (let at = 0; at < 1000; at++) stream.write(Buffer.alloc(1000))
    stream.end()
  })
  t.equal(total, '1000000')
  const counted: string[] = []
  for await (const value of client.makeServerStreamRequest(METHODS.count.path, bytes, bytes, Buffer.from('500')))
    counted.push(`${value}`)
  t.strictSame(
    counted,
    Array.from({ length: 500 }, (_, at) => String(at)),
  )
  const chatting = client.makeBidiStreamRequest(METHODS.chat.path, bytes, bytes)
  for (let round = 0; round < 20; round++) {
    chatting.write(Buffer.from(`round ${round}`))
    t.equal(`${(await once(chatting, 'data'))[0]}`, `round ${round}`)
  }
  chatting.end()
  chatting.resume()
  const [end] = await once(chatting, 'status')
  t.equal(end.code, status.OK)
})

test('gRPC: deadlines and cancellation reach the server', async (t) => {
  const client = await grpcPair(t)
  const deadline = { deadline: Date.now() + 100 }
  await t.rejects(call(client, 'never', Buffer.alloc(0), deadline), { code: status.DEADLINE_EXCEEDED })
  await cancelled.promise
  const pending = client.makeUnaryRequest(METHODS.never.path, bytes, bytes, Buffer.alloc(0), () => {})
  pending.cancel()
  const [end] = await once(pending, 'status')
  t.equal(end.code, status.CANCELLED)
})

test('gRPC: a hundred calls at once over one connection', async (t) => {
  const client = await grpcPair(t)
  const calls = Array.from({ length: 100 }, (_, at) => call(client, 'unary', Buffer.from(String(at))))
  t.strictSame(
    (await Promise.all(calls)).map(String),
    calls.map((_, at) => `hello ${at}`),
  )
})
