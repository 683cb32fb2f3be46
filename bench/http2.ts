import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Contender, freePort, haproxy, nginx, program, type Start, sluice } from './contender.ts'
import { IDLE, idle, NO_PROBES } from './memory.ts'
import { cpuSeconds, residentBytes } from './procfs.ts'
import type { Measurement, Suite } from './rounds.ts'

const www = mkdtempSync(join(tmpdir(), 'bench-www-'))
const http2Port = await freePort()
const http1Port = await freePort()

const BODIES = { small: 0, '10 KiB': 10_240, '1 MiB': 1_048_576, '1 MiB up': 0 } as const
type Body = keyof typeof BODIES

/** How many requests of each size make a run of about two seconds; fewer would measure the compiler of Node. */
const REQUESTS: Record<Body, number> = { small: 240_000, '10 KiB': 30_000, '1 MiB': 1_000, '1 MiB up': 1_000 }

/** Runs h2load: CPU microseconds of the contender per request, and percentiles of the latencies it logged. */
const load = async (contender: Contender, body: Body, connections: number, streams: number, requests: number) => {
  const folder = mkdtempSync(join(tmpdir(), 'bench-h2load-'))
  const log = join(folder, 'log')
  const before = cpuSeconds(contender.pids())
  const counts = [`-n${requests}`, `-c${connections}`, `-m${streams}`]
  if (body === '1 MiB up') counts.push(`--data=${join(www, String(2 ** 20))}`)
  const url = `http://127.0.0.1:${contender.port}/${body === '1 MiB up' ? 'up' : BODIES[body]}`
  const child = spawn('h2load', ['-t1', ...counts, `--log-file=${log}`, url], { stdio: ['ignore', 'pipe', 'inherit'] })
  let printed = ''
  child.stdout.on('data', (chunk: Buffer) => {
    printed += chunk.toString()
  })
  await once(child, 'close')
  const cpu = cpuSeconds(contender.pids()) - before
  if (!printed.includes(` ${requests} succeeded`)) throw new Error(`${contender.name}: ${printed}`)
  const latencies = readFileSync(log, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => Number(line.split('\t')[2]))
    .sort((a, b) => a - b)
  rmSync(folder, { recursive: true })
  const at = (share: number): number => latencies[Math.floor(latencies.length * share)] ?? Number.NaN
  return {
    cpu: (cpu * 1e6) / requests,
    p50: at(0.5),
    p99: at(0.99),
    resident: residentBytes(contender.pids()) / 2 ** 20,
  }
}

const requests = (body: Body, connections: number, streams: number): Measurement => ({
  name: `${body}, ${connections} connections of ${streams} streams`,
  metrics: [
    { key: 'cpu', title: 'CPU microseconds per request', better: 'lower' },
    { key: 'p50', title: 'p50, microseconds', better: 'lower' },
    { key: 'p99', title: 'p99, microseconds', better: 'lower' },
    { key: 'resident', title: 'resident MiB', better: 'lower' },
  ],
  run: (contender, scale) =>
    load(contender, body, connections, streams, Math.max(connections, Math.round(REQUESTS[body] * scale))),
})

const measurements: readonly Measurement[] = [
  requests('small', 8, 1),
  requests('small', 8, 32),
  requests('small', 200, 4),
  requests('10 KiB', 8, 8),
  requests('1 MiB', 8, 2),
  requests('1 MiB up', 8, 2),
  requests('10 KiB', 200, 2),
  requests('1 MiB', 200, 1),
  requests('1 MiB up', 200, 1),
]

/** nghttpd for HTTP/2 and nginx for HTTP/1, both with files of zeros. */
const startServers = async (): Promise<() => Promise<void>> => {
  const folder = www
  mkdirSync(folder, { recursive: true })
  for (const bytes of Object.values(BODIES)) writeFileSync(join(folder, String(bytes)), Buffer.alloc(bytes))
  writeFileSync(join(folder, 'up'), '')
  const config = `daemon off; user root; pid ${folder}/pid; error_log stderr crit; worker_processes 1;
events { worker_connections 15000; }
http { access_log off; keepalive_requests 1000000000; sendfile on;
  client_max_body_size 2m; client_body_buffer_size 2m;
  server { listen 127.0.0.1:${http1Port}; root ${folder};
    # Answers once all of the body has come.
    location = /up { proxy_pass http://127.0.0.1:${http1Port}/0; proxy_method GET; proxy_set_body ""; } } }
`
  writeFileSync(join(folder, 'nginx.conf'), config)
  const children = [
    spawn('nghttpd', ['--no-tls', '-d', folder, '-n1', '-m1000', String(http2Port)], { stdio: 'ignore' }),
    spawn('nginx', ['-p', folder, '-c', join(folder, 'nginx.conf')], { stdio: 'ignore' }),
  ]
  for (const port of [http2Port, http1Port]) await listening(port)
  return async () => {
    for (const child of children) {
      child.kill()
      await once(child, 'exit')
    }
    rmSync(folder, { recursive: true })
  }
}

const listening = async (port: number): Promise<void> => {
  for (let tries = 0; tries < 1000; tries += 1) {
    const socket = connect(port, '127.0.0.1')
    const isUp = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true))
      socket.once('error', () => resolve(false))
    })
    socket.destroy()
    if (isUp) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  throw new Error(`nothing listens on ${port}`)
}

const haproxyTo = (server: string): Start =>
  haproxy(
    (port) => `
global
  nbthread 1
  maxconn ${IDLE + 50}
defaults
  mode http
  timeout client 1h
  timeout server 1h
  timeout connect 10s
  http-reuse always
frontend f
  bind 127.0.0.1:${port} proto h2
  default_backend b
backend b
  server s ${server}
`,
  )

const nghttpxTo = (backend: string): Start =>
  program('nghttpx', (port) =>
    [
      'nghttpx',
      '--conf=/dev/null',
      '--workers=1',
      '--accesslog-file=/dev/null',
      '--errorlog-file=/dev/null',
      '--no-via',
      '--add-x-forwarded-for=no',
      '--backend-connections-per-frontend=100',
      `--frontend=127.0.0.1,${port};no-tls`,
      `--backend=${backend}`,
    ].filter((flag) => !flag.includes('add-x-forwarded-for') && !flag.includes('per-frontend')),
  )

const nginxToHttp1: Start = nginx(
  (port) => `
http { access_log off; keepalive_requests 1000000000; client_max_body_size 2m; proxy_request_buffering off;
  upstream u { server 127.0.0.1:${http1Port}; keepalive 64; keepalive_requests 1000000000; }
  server { listen 127.0.0.1:${port} http2; http2_max_concurrent_streams 256; keepalive_timeout 1h;
    location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; } } }
`,
)

/** Sluice with a fixed destination instead of a redirect, and with rules that ask for the path of each request. */
const sluiceTo = (destination: number, protocol: 'http1' | 'http2', rules: number, name: string): Start =>
  sluice(
    (port) => `apiVersion: sluice/v1
listeners:
  outbound: { address: "127.0.0.1:${port}", destination: "127.0.0.1:${destination}" }
  inbound: { address: [] }
admin: { address: [] }
log: { level: error }
${NO_PROBES}
defaults: { upstream: { protocol: ${protocol} }, http: { keepAlive: 1h } }
${rulesOf(rules)}`,
    name,
  )

const rulesOf = (count: number): string => {
  const rule = (at: number): string =>
    `  - { name: rule ${at}, when: { path: "/service-${at}/**" }, then: { deny: true } }\n`
  return count === 0 ? '' : `rules:\n${Array.from({ length: count }, (_, at) => rule(at)).join('')}`
}

/** HTTP/2 on both sides; nginx does not speak it to its upstreams. */
export const http2: Suite = {
  name: 'HTTP/2',
  prepare: startServers,
  contenders: [
    haproxyTo(`127.0.0.1:${http2Port} proto h2`),
    nghttpxTo(`127.0.0.1,${http2Port};;proto=h2`),
    sluiceTo(http2Port, 'http2', 0, 'sluice'),
    sluiceTo(http2Port, 'http2', 200, 'sluice, 200 rules'),
  ],
  measurements,
}

/** HTTP/2 towards the client, HTTP/1.1 towards the server. */
export const http2ToHttp1: Suite = {
  name: 'HTTP/2 to HTTP/1',
  prepare: startServers,
  contenders: [
    haproxyTo(`127.0.0.1:${http1Port}`),
    nghttpxTo(`127.0.0.1,${http1Port}`),
    nginxToHttp1,
    sluiceTo(http1Port, 'http1', 0, 'sluice'),
    sluiceTo(http1Port, 'http1', 200, 'sluice, 200 rules'),
  ],
  measurements,
}

/** What waiting HTTP/2 clients cost: each contender fresh. */
export const http2Memory: Suite = {
  name: 'HTTP/2, fresh: memory',
  fresh: true,
  prepare: startServers,
  contenders: [haproxyTo(`127.0.0.1:${http1Port}`), nginxToHttp1, sluiceTo(http1Port, 'http1', 0, 'sluice')],
  measurements: [idle('http2')],
}
