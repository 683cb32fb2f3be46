import { request } from 'node:http'
import type { IncomingHttpHeaders } from 'node:http2'
import { type Test, test } from 'tap'
import { type AppHandler, apiSession, callbackHost, type Host, openApp } from '../support/callback.ts'
import { fetchHttp2 } from '../support/http2Proxy.ts'

/** Protobuf by hand, so that the numbers are those of the documents and not of our own description. */
const number = (field: number, value: number): Buffer => Buffer.from([field * 8, value])
const bytes = (field: number, value: Buffer | string): Buffer => {
  const content = Buffer.from(value as string)
  return Buffer.concat([Buffer.from([field * 8 + 2, content.length]), content])
}
const message = (...fields: Buffer[]): Buffer => Buffer.concat(fields)
const framed = (content: Buffer): Buffer => {
  const prefix = Buffer.alloc(5)
  prefix.writeUInt32BE(content.length, 1)
  return Buffer.concat([prefix, content])
}

interface Heard {
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly message: string
}

/** An app that answers each method with the message the test wrote down, or with a status. */
const daprApp = (answers: Readonly<Record<string, Buffer | number>>) => {
  const heard: Heard[] = []
  const handler: AppHandler = (stream, headers) => {
    const chunks: Buffer[] = []
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.on('end', () => {
      if (stream.destroyed) return
      const path = `${headers[':path']}`.replace('/dapr.proto.runtime.v1.', '')
      heard.push({ path, headers, message: Buffer.concat(chunks).subarray(5).toString('hex') })
      const answer = answers[path] ?? 12
      const head = { ':status': 200, 'content-type': 'application/grpc', 'x-from-app': 'yes' }
      if (typeof answer === 'number')
        return stream.respond({ ...head, 'grpc-status': answer, 'grpc-message': 'no%21' }, { endStream: true })
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
      stream.respond(head, { waitForTrailers: true })
      stream.end(framed(answer))
    })
  }
  return { heard, handler }
}

const call = (
  { api }: Host,
  method: string,
  path: string,
  body: Buffer | string = '',
  headers: Record<string, string> = {},
): Promise<{ status: number; headers: IncomingHttpHeaders; body: string }> =>
  new Promise((resolve, reject) => {
    const length = { 'content-length': `${Buffer.byteLength(body)}` }
    const sent = request({ ...api, method, path, headers: { ...headers, ...length } }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () =>
        resolve({ status: response.statusCode!, headers: response.headers, body: Buffer.concat(chunks).toString() }),
      )
    })
    sent.on('error', reject)
    sent.end(body)
  })

const started = async (t: Test, answers: Parameters<typeof daprApp>[0], section = '') => {
  const host = await callbackHost(t, { section })
  const app = daprApp(answers)
  await openApp(t, host, app.handler)
  return { host, app }
}

test('an invocation by HTTP is OnInvoke with the documented numbers, and its answer is the answer', async (t) => {
  const reply = message(bytes(1, message(bytes(2, '{"id":7}'))), bytes(2, 'application/json'))
  const { host, app } = await started(t, { 'AppCallback/OnInvoke': reply })
  const answer = await call(host, 'PUT', '/v1.0/invoke/orders/method/v1/orders%20all?a=1&b=2', 'hello', {
    'content-type': 'text/plain',
    'x-mine': 'passed on',
    'dapr-api-token': 'not passed on',
  })
  t.match(answer, {
    status: 200,
    body: '{"id":7}',
    headers: { 'content-type': 'application/json', 'x-from-app': 'yes' },
  })
  const expected = message(
    bytes(1, 'v1/orders all'),
    bytes(2, bytes(2, 'hello')),
    bytes(3, 'text/plain'),
    bytes(4, message(number(1, 4), bytes(2, 'a=1&b=2'))),
  )
  t.equal(app.heard[0]?.message, expected.toString('hex'))
  t.match(app.heard[0], { path: 'AppCallback/OnInvoke', headers: { ':authority': 'orders', 'x-mine': 'passed on' } })
  t.equal(app.heard[0]?.headers['dapr-api-token'], undefined)
})

test('each method has its verb, and an empty answer is 204', async (t) => {
  const { host, app } = await started(t, { 'AppCallback/OnInvoke': Buffer.alloc(0) })
  const verbs = { GET: 1, HEAD: 2, POST: 3, PUT: 4, DELETE: 5, OPTIONS: 7, PATCH: 9 }
  for (const [method, verb] of Object.entries(verbs)) {
    t.equal((await call(host, method, '/v1.0/invoke/orders/method/m')).status, 204, method)
    t.equal(app.heard.at(-1)?.message, message(bytes(1, 'm'), bytes(4, number(1, verb))).toString('hex'))
  }
})

test('the same by gRPC: Dapr/InvokeService takes the message, and gives back the one of the app', async (t) => {
  const reply = message(bytes(1, bytes(2, 'pong')), bytes(2, 'text/plain'))
  const { host, app } = await started(t, { 'AppCallback/OnInvoke': reply })
  const invocation = message(bytes(1, 'ping'), bytes(2, message(bytes(1, 'type.googleapis.com/x'), bytes(2, 'data'))))
  const session = apiSession(t, host.api)
  const grpc = { ':method': 'POST', 'content-type': 'application/grpc' }
  const path = { ':path': '/dapr.proto.runtime.v1.Dapr/InvokeService' }
  const found = await fetchHttp2(
    session,
    { ...grpc, ...path },
    framed(message(bytes(1, 'orders'), bytes(3, invocation))),
  )
  t.match(found, { status: 200, trailers: { 'grpc-status': '0' } })
  t.equal(found.body.toString('hex'), framed(reply).toString('hex'))
  t.equal(app.heard[0]?.message, invocation.toString('hex'))
  for (const [body, status] of [
    [Buffer.alloc(3), '13'],
    [framed(Buffer.from([255])), '13'],
    [framed(bytes(1, 'a/b')), '3'],
    [framed(bytes(1, 'nobody')), '14'],
  ] as const)
    t.match(await fetchHttp2(session, { ...grpc, ...path }, body), { headers: { 'grpc-status': status } })
})

test('health, subscriptions, events and bindings', async (t) => {
  const subscription = message(
    bytes(1, 'pubsub'),
    bytes(2, 'paid'),
    bytes(5, message(bytes(1, message(bytes(1, 'a == 1'), bytes(2, '/one'))), bytes(2, '/paid'))),
    bytes(6, 'dead'),
  )
  const { host, app } = await started(t, {
    'AppCallbackHealthCheck/HealthCheck': Buffer.alloc(0),
    'AppCallback/ListTopicSubscriptions': bytes(1, subscription),
    'AppCallback/OnTopicEvent': number(1, 1),
    'AppCallback/ListInputBindings': message(bytes(1, 'cron'), bytes(1, 'queue')),
    'AppCallback/OnBindingEvent': message(bytes(1, 'store'), bytes(3, 'x'), bytes(4, 'done'), number(5, 1)),
  })
  t.match(await call(host, 'GET', '/v1.0/healthz/orders'), { status: 204 })
  t.same(JSON.parse((await call(host, 'GET', '/v1.0/subscriptions/orders')).body), {
    subscriptions: [
      {
        pubsubName: 'pubsub',
        topic: 'paid',
        metadata: {},
        routes: { rules: [{ match: 'a == 1', path: '/one' }], default: '/paid' },
        deadLetterTopic: 'dead',
      },
    ],
  })
  const event = {
    ...{ id: '1', source: 'shop', type: 'paid', specversion: '1.0', datacontenttype: 'application/json' },
    ...{ topic: 'paid', pubsubname: 'pubsub', data: { a: 1 }, traceid: 'x' },
  }
  t.same(JSON.parse((await call(host, 'POST', '/v1.0/events/orders?path=/one', JSON.stringify(event))).body), {
    status: 'RETRY',
  })
  const extensions = bytes(1, message(bytes(1, 'traceid'), bytes(2, bytes(3, 'x'))))
  t.equal(
    app.heard.at(-1)?.message,
    message(
      ...[bytes(1, '1'), bytes(2, 'shop'), bytes(3, 'paid'), bytes(4, '1.0'), bytes(5, 'application/json')],
      ...[bytes(6, 'paid'), bytes(7, '{"a":1}'), bytes(8, 'pubsub'), bytes(9, '/one'), bytes(10, extensions)],
    ).toString('hex'),
  )
  t.same(JSON.parse((await call(host, 'GET', '/v1.0/bindings/orders')).body), { bindings: ['cron', 'queue'] })
  const answer = await call(host, 'POST', '/v1.0/bindings/orders/queue?metadata.key=v', 'payload')
  t.same(JSON.parse(answer.body), {
    ...{ storeName: 'store', to: ['x'], data: Buffer.from('done').toString('base64'), concurrency: 'PARALLEL' },
  })
  t.equal(
    app.heard.at(-1)?.message,
    message(bytes(1, 'queue'), bytes(2, 'payload'), bytes(3, message(bytes(1, 'key'), bytes(2, 'v')))).toString('hex'),
  )
})

test('the status of an app is told in HTTP, and so is what is wrong with a request', async (t) => {
  const { host } = await started(t, { 'AppCallback/OnInvoke': 5, 'AppCallback/ListInputBindings': Buffer.from([255]) })
  t.match(await call(host, 'GET', '/v1.0/invoke/orders/method/m'), {
    status: 404,
    headers: { 'grpc-status': '5' },
    body: '{"code":5,"message":"no!"}\n',
  })
  t.match(await call(host, 'GET', '/v1.0/healthz/orders'), { status: 501 })
  t.match(await call(host, 'GET', '/v1.0/bindings/orders'), { status: 502 })
  t.match(await call(host, 'GET', '/v1.0/invoke/nobody/method/m'), { status: 503 })
  t.match(await call(host, 'GET', '/v1.0/invoke/a%2fb/method/m'), { status: 400 })
  t.match(await call(host, 'GET', '/v1.0/invoke/%ff/method/m'), { status: 400 })
  t.match(await call(host, 'POST', '/v1.0/events/orders', '[]'), { status: 400 })
  t.match(await call(host, 'POST', '/v1.0/events/orders', '{'), { status: 400 })
  t.match(await call(host, 'DELETE', '/v1.0/bindings/orders/x'), { status: 405 })
  t.match(await call(host, 'GET', '/v1.0/state/x'), { status: 404 })
  t.match(await call(host, 'GET', '/v1.0/healthz'), { status: 204 })
})

test('a body over the limit is 413, and the channel lives on', async (t) => {
  const { host } = await started(t, { 'AppCallback/OnInvoke': Buffer.alloc(0) }, 'maxMessage: 64KiB, wait: 0ms')
  t.match(await call(host, 'POST', '/v1.0/invoke/orders/method/m', Buffer.alloc(65_537)), { status: 413 })
  // With what is around it, the message is larger than the body.
  t.match(await call(host, 'POST', '/v1.0/invoke/orders/method/m', Buffer.alloc(65_536)), { status: 429 })
  t.match(await call(host, 'POST', '/v1.0/invoke/orders/method/m', Buffer.alloc(65_000)), { status: 204 })
  t.same(host.ends, [])
})

test('a caller that goes takes its call along', async (t) => {
  const host = await callbackHost(t)
  const codes: number[] = []
  let begun = 0
  await openApp(t, host, (stream) => {
    begun += 1
    stream.resume()
    stream.on('close', () => codes.push(stream.rstCode ?? -1))
  })
  const sent = request({ ...host.api, path: '/v1.0/invoke/orders/method/m' })
  sent.on('error', () => {})
  sent.end()
  await host.until(() => begun === 1)
  sent.socket!.resetAndDestroy() // a mere end would be a client that still waits for its answer
  await host.until(() => codes.length === 1)
  t.same(codes, [8])
})
