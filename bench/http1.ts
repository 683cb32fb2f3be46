import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Contender, freePort, haproxy, nginx, type Start, sluice } from './contender.ts'
import { IDLE, idle, NO_PROBES, resting } from './memory.ts'
import { cpuSeconds, residentBytes } from './procfs.ts'
import type { Measurement, Suite } from './rounds.ts'

const serverPort = await freePort()
const scripts = mkdtempSync(join(tmpdir(), 'bench-wrk-'))

/** Asks for a path, or uploads to it. */
interface Ask {
  readonly path: string
  readonly script?: string
}

const UPLOAD = 'wrk.method = "POST"; wrk.body = string.rep("x", 1048576)'

/** What wrk prints, in numbers: requests in all, those that failed, the median and 99th percentile in microseconds. */
const wrk = async (port: number, { path, script }: Ask, connections: number, seconds: number) => {
  const url = `http://127.0.0.1:${port}${path}`
  const scripted = script === undefined ? [] : ['-s', scriptFile(script)]
  const args = ['-t1', `-c${connections}`, `-d${seconds}s`, '--latency', ...scripted, url]
  const child = spawn('wrk', args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString()
  })
  await once(child, 'close')
  const errors = Number(/Non-2xx or 3xx responses: (\d+)/.exec(text)?.[1] ?? 0)
  // Timeouts are a matter of the machine; connections that broke are not.
  const broken = /Socket errors: connect (\d+), read (\d+), write (\d+)/
    .exec(text)
    ?.slice(1)
    .some((n) => n !== '0')
  if (errors > 0 || broken) throw new Error(`wrk ${args.join(' ')}: ${text}`)
  return {
    requests: Number(/(\d+) requests in/.exec(text)![1]),
    p50: microseconds(/ 50% +([\d.]+)(us|ms|s)/.exec(text)!),
    p99: microseconds(/ 99% +([\d.]+)(us|ms|s)/.exec(text)!),
  }
}

/** wrk reads its scripts from files. */
const scriptFile = (script: string): string => {
  const file = join(scripts, `${script.length}.lua`)
  writeFileSync(file, script)
  return file
}

const microseconds = ([, amount, unit]: readonly string[]): number =>
  Number(amount) * ({ us: 1, ms: 1e3, s: 1e6 } as Record<string, number>)[unit!]!

const requests = (ask: Ask, what: string, connections: number): Measurement => ({
  name: `${what}, ${connections} connections`,
  metrics: [
    { key: 'cpu', title: 'CPU microseconds per request', better: 'lower' },
    { key: 'p50', title: 'p50, microseconds', better: 'lower' },
    { key: 'p99', title: 'p99, microseconds', better: 'lower' },
    { key: 'resident', title: 'resident MiB', better: 'lower' },
  ],
  run: async (contender: Contender, scale: number) => {
    // A just-in-time compiler needs some tens of thousands of requests before it has seen enough.
    await wrk(contender.port, ask, connections, 2)
    const before = cpuSeconds(contender.pids())
    const ran = await wrk(contender.port, ask, connections, Math.max(1, Math.round(8 * scale)))
    const cpu = ((cpuSeconds(contender.pids()) - before) * 1e6) / ran.requests
    return { cpu, p50: ran.p50, p99: ran.p99, resident: residentBytes(contender.pids()) / 2 ** 20 }
  },
})

const startServer = async (): Promise<() => Promise<void>> => {
  const folder = mkdtempSync(join(tmpdir(), 'bench-server-'))
  chmodSync(folder, 0o755) // nginx reads files as another user
  mkdirSync(join(folder, 'root'))
  writeFileSync(join(folder, 'root/10k'), Buffer.alloc(10_240, 'x'))
  writeFileSync(join(folder, 'root/1m'), Buffer.alloc(2 ** 20, 'x'))
  writeFileSync(
    join(folder, 'nginx.conf'),
    `
daemon off; worker_processes 1; pid ${folder}/nginx.pid; error_log stderr crit;
events { worker_connections 15000; }
http {
  access_log off; keepalive_requests 100000000; sendfile on; tcp_nopush on; root ${folder}/root;
  client_max_body_size 2m; client_body_buffer_size 2m;
  server {
    listen 127.0.0.1:${serverPort};
    location = /0 { return 200; }
    # Answers once all of the body has come.
    location = /up { proxy_pass http://127.0.0.1:${serverPort}/0; proxy_method GET; proxy_set_body ""; }
  }
}
`,
  )
  const child = spawn('nginx', ['-p', folder, '-c', join(folder, 'nginx.conf')], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  return async () => {
    child.kill()
    await once(child, 'exit')
    rmSync(folder, { recursive: true, force: true })
    rmSync(scripts, { recursive: true, force: true })
  }
}

const haproxyHttp: Start = haproxy(
  (port) => `
global
  nbthread 1
  maxconn ${IDLE + 50}
defaults
  mode http
  http-reuse always
  timeout client 1h
  timeout server 1h
  timeout connect 10s
listen http
  bind 127.0.0.1:${port}
  server s 127.0.0.1:${serverPort} pool-max-conn 1000
`,
)

const nginxHttp: Start = nginx(
  (port) => `
http {
  access_log off; keepalive_requests 100000000; keepalive_timeout 1h;
  client_max_body_size 2m; proxy_request_buffering off;
  upstream s { server 127.0.0.1:${serverPort}; keepalive 512; keepalive_requests 100000000; }
  server { listen 127.0.0.1:${port}; location / { proxy_pass http://s; proxy_http_version 1.1; proxy_set_header Connection ""; } }
}
`,
)

const policy = (port: number, rules = ''): string => `
apiVersion: sluice/v1
listeners:
  outbound: { address: "127.0.0.1:${port}", destination: "127.0.0.1:${serverPort}" }
  inbound: { address: [] }
admin: { address: [] }
log: { level: warn }
${NO_PROBES}
defaults: { http: { keepAlive: 1h } }
${rules}
`

const RULES = Array.from(
  { length: 200 },
  (_, i) =>
    `  - { name: r${i}, when: { authority: s${i}.example, path: /api/${i}/** }, then: { http: { timeout: 10s } } }`,
)

const bodies = (connections: number): readonly Measurement[] => [
  requests({ path: '/0' }, 'no body', connections),
  requests({ path: '/10k' }, '10 KiB', connections),
  requests({ path: '/1m' }, '1 MiB', connections),
  requests({ path: '/up', script: UPLOAD }, '1 MiB up', connections),
]

/** HTTP/1 on both sides. */
export const http1: Suite = {
  name: 'HTTP/1',
  prepare: startServer,
  contenders: [haproxyHttp, nginxHttp, sluice((port) => policy(port))],
  measurements: [...bodies(8), ...bodies(200)],
}

/** The same, with a policy of 200 rules about requests, none of which matches. */
export const http1Rules: Suite = {
  name: 'HTTP/1, 200 rules',
  prepare: startServer,
  contenders: [haproxyHttp, sluice((port) => policy(port, `rules:\n${RULES.join('\n')}`))],
  measurements: [requests({ path: '/0' }, 'no body', 8), requests({ path: '/0' }, 'no body', 200)],
}

/** What waiting clients cost: each contender fresh. */
export const http1Memory: Suite = {
  name: 'HTTP/1, fresh: memory',
  fresh: true,
  prepare: startServer,
  contenders: [haproxyHttp, nginxHttp, sluice((port) => policy(port))],
  measurements: [resting, idle('http1')],
}
