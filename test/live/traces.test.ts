import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, request } from 'node:http'
import { Server, ServerCredentials } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { type Test, test } from 'tap'
import { listen } from '../../src/accept/listen.ts'
import { createHttpState } from '../../src/forward/httpState.ts'
import { systemClock } from '../../src/net/clock.ts'
import { openTraces } from '../../src/telemetry/traces.ts'
import { worldOf } from '../support/world.ts'

interface Span {
  readonly traceId: string
  readonly spanId: string
  readonly parent: string
  readonly name: string
  readonly kind: number
  readonly status: number
  readonly attributes: Readonly<Record<string, unknown>>
}

// biome-ignore lint/suspicious/noExplicitAny: messages of a schema that is read at run time.
type Message = Readonly<Record<string, any>>
const definition = loadSync('test/fixtures/otlp/trace.proto', { longs: Number, defaults: true, keepCase: true })
// biome-ignore lint/suspicious/noExplicitAny: as above.
const service = definition['opentelemetry.proto.collector.trace.v1.TraceService'] as any

const plain = (attributes: readonly Message[]): Record<string, unknown> =>
  Object.fromEntries(
    attributes.map(({ key, value }) => [key, value.string_value || value.int_value || value.double_value]),
  )

/** The spans of one export, and the service they say they come from. */
const spansOf = (message: Message): Span[] =>
  message.resource_spans.flatMap(({ resource, scope_spans }: Message) =>
    scope_spans.flatMap(({ spans }: Message) =>
      spans.map((span: Message) => ({
        traceId: span.trace_id.toString('hex'),
        spanId: span.span_id.toString('hex'),
        parent: span.parent_span_id.toString('hex'),
        name: span.name,
        kind: span.kind,
        status: span.status?.code ?? 0,
        attributes: { ...plain(resource.attributes), ...plain(span.attributes) },
      })),
    ),
  )

/** A collector that keeps what it is sent, over gRPC and over HTTP. */
const collector = async (t: Test) => {
  const spans: Span[] = []
  const grpc = new Server()
  grpc.addService(service, {
    Export: ({ request: message }: { request: Message }, done: (error: null, answer: object) => void) => {
      spans.push(...spansOf(message))
      done(null, {})
    },
  })
  const port = await new Promise<number>((resolve, reject) =>
    grpc.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    ),
  )
  const web = createServer(async (asked, answer) => {
    const chunks: Buffer[] = []
    for await (const chunk of asked) chunks.push(chunk as Buffer)
    assert.equal(asked.url, '/v1/traces')
    spans.push(...spansOf(service.Export.requestDeserialize(Buffer.concat(chunks))))
    answer.writeHead(200, { 'content-type': 'application/x-protobuf' }).end()
  }).listen(0, '127.0.0.1')
  await once(web, 'listening')
  t.teardown(() => {
    grpc.forceShutdown()
    web.close()
    web.closeAllConnections()
  })
  return {
    spans,
    grpc: `http://127.0.0.1:${port}`,
    http: `http://127.0.0.1:${(web.address() as { port: number }).port}`,
  }
}

/** Sluice with traces, in front of a server that tells which fields it saw. */
const proxy = async (t: Test, endpoint: string, protocol: 'grpc' | 'http/protobuf', ratio = 1) => {
  const seen: IncomingHttpHeaders[] = []
  const back = createServer((asked, answer) => {
    seen.push(asked.headers)
    answer.writeHead(asked.url === '/broken' ? 500 : 200).end('ok')
  }).listen(0, '127.0.0.1')
  await once(back, 'listening')
  const traces = await openTraces({ endpoint, protocol, serviceName: 'shop', version: '1', ratio })
  const world = worldOf('rules: [{ name: closed, when: { path: /closed }, then: { deny: true } }]', {
    http: createHttpState(systemClock, Math.random, traces),
  })
  const destination = { host: '127.0.0.1', port: (back.address() as { port: number }).port }
  const options = { name: 'outbound', direction: 'outbound', maxConnections: 10, destination } as const
  const front = await listen({ ...options, address: { host: '127.0.0.1', port: 0 } }, world, undefined)
  t.teardown(() => {
    front.close()
    back.close()
    back.closeAllConnections()
  })
  const get = async (path: string, headers: Record<string, string> = {}) => {
    const asked = request({ ...front.address, path, headers, agent: false }).end()
    const [answer] = await once(asked, 'response')
    await once(answer.resume(), 'end')
    return answer.statusCode as number
  }
  return { seen, get, traces }
}

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
const PARENT = '00f067aa0ba902b7'

for (const protocol of ['grpc', 'http/protobuf'] as const) {
  test(`a request is a server span and a client span at the collector, over ${protocol}`, async (t) => {
    const { spans, grpc, http } = await collector(t)
    const { seen, get, traces } = await proxy(t, protocol === 'grpc' ? grpc : http, protocol)
    await get('/orders?token=CANARY', { traceparent: `00-${TRACE}-${PARENT}-01` })
    await get('/broken')
    await get('/closed')
    await traces.close(5000)
    const mine = spans.filter(({ traceId }) => traceId === TRACE)
    const server = mine.find(({ kind }) => kind === 2)!
    const client = mine.find(({ kind }) => kind === 3)!
    assert.equal(mine.length, 2)
    assert.equal(server.parent, PARENT)
    assert.equal(client.parent, server.spanId)
    assert.equal(seen[0]?.traceparent, `00-${TRACE}-${client.spanId}-01`)
    assert.equal(server.attributes['service.name'], 'shop')
    assert.equal(server.attributes['http.response.status_code'], 200)
    assert.equal(server.attributes['url.path'], '/orders')
    assert.equal(server.attributes['url.query'], 'token=(redacted)')
    assert.equal(client.attributes['network.peer.address'], '127.0.0.1')
    const broken = spans.filter(({ attributes }) => attributes['http.response.status_code'] === 500)
    assert.deepEqual(
      broken.map(({ status }) => status),
      [2, 2],
    )
    const denied = spans.find(({ kind, attributes }) => kind === 2 && attributes['http.response.status_code'] === 403)!
    assert.equal(denied.attributes['sluice.rule.deny'], 'closed (test.yaml:2)')
    assert.ok(!JSON.stringify(spans).includes('CANARY'))
    assert.equal(spans.length, 6)
  })
}

test('a trace goes on in the words it came in: W3C, B3 in one field, B3 in several', async (t) => {
  const { spans, http } = await collector(t)
  const { seen, get, traces } = await proxy(t, http, 'http/protobuf')
  await get('/', { b3: `${TRACE}-${PARENT}-1` })
  await get('/', { 'x-b3-traceid': TRACE, 'x-b3-spanid': PARENT, 'x-b3-sampled': '1' })
  await get('/')
  await traces.close(5000)
  const clients = spans.filter(({ kind }) => kind === 3).map(({ spanId }) => spanId)
  assert.match(String(seen[0]?.b3), new RegExp(`^${TRACE}-(?:${clients.join('|')})-1`))
  assert.equal(seen[0]?.traceparent, undefined)
  assert.equal(seen[1]?.['x-b3-traceid'], TRACE)
  assert.ok(clients.includes(String(seen[1]?.['x-b3-spanid'])))
  assert.equal(seen[1]?.b3, undefined)
  assert.match(String(seen[2]?.traceparent), /^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/)
})

test('what the caller decided about its trace is kept to, and the ratio counts for traces begun here', async (t) => {
  const { spans, http } = await collector(t)
  const { seen, get, traces } = await proxy(t, http, 'http/protobuf', 0)
  await get('/', { traceparent: `00-${TRACE}-${PARENT}-00` })
  await get('/')
  await get('/', { traceparent: `00-${TRACE}-${PARENT}-01` })
  await traces.close(5000)
  assert.deepEqual(new Set(spans.map(({ traceId }) => traceId)), new Set([TRACE]))
  assert.equal(spans.length, 2)
  assert.match(String(seen[0]?.traceparent), new RegExp(`^00-${TRACE}-[0-9a-f]{16}-00$`))
})

test('a collector that is down costs no request anything, and no more than a moment at the end', async (t) => {
  const { get, traces } = await proxy(t, 'http://127.0.0.1:9', 'http/protobuf')
  for (let i = 0; i < 20; i++) assert.equal(await get('/'), 200)
  const started = performance.now()
  await traces.close(300)
  assert.ok(performance.now() - started < 2000)
})

test('what the environment of a connector says of OTLP counts: its requests are spans, sent before it stops', async (t) => {
  const { spans, http } = await collector(t)
  const directory = t.testdir({
    'policy.yaml':
      'apiVersion: sluice/v1\nlisteners: { outbound: { address: [] }, inbound: { address: [] } }\nadmin: { address: [] }\n',
  })
  const env = {
    PATH: process.env.PATH,
    HASURA_CONFIGURATION_DIRECTORY: directory,
    HASURA_CONNECTOR_PORT: '0',
    HASURA_CONNECTOR_HOST: '127.0.0.1',
    OTEL_EXPORTER_OTLP_ENDPOINT: http,
    OTEL_EXPORTER_OTLP_PROTOCOL: 'http/protobuf',
    OTEL_SERVICE_NAME: 'from the environment',
  }
  const sluice = spawn('bin/sluice', ['serve'], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => sluice.kill('SIGKILL'))
  let said = ''
  const port = await new Promise<number>((resolve, reject) => {
    sluice.stdout.setEncoding('utf8').on('data', (text: string) => {
      said += text
      const found = /commands on 127\.0\.0\.1:(\d+)/.exec(said)
      if (found) resolve(Number(found[1]))
    })
    sluice.once('exit', () => reject(new Error(`sluice ended: ${said}`)))
  })
  const asked = request({
    host: '127.0.0.1',
    port,
    path: '/v1/commands',
    headers: { traceparent: `00-${TRACE}-${PARENT}-01` },
  }).end()
  const [answer] = await once(asked, 'response')
  assert.equal(answer.statusCode, 200)
  await once(answer.resume(), 'end')
  sluice.kill('SIGTERM')
  const [code] = await once(sluice, 'exit')
  assert.equal(code, 0)
  const [span] = spans
  assert.equal(spans.length, 1)
  assert.deepEqual([span?.name, span?.traceId, span?.parent, span?.kind], ['GET /v1/commands', TRACE, PARENT, 2])
  assert.equal(span?.attributes['service.name'], 'from the environment')
})
