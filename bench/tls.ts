import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Contender, freePort, haproxy, nginx, type Start, sluice } from './contender.ts'
import { cpuSeconds } from './procfs.ts'
import type { Measurement, Suite } from './rounds.ts'

const serverPort = await freePort()
const folder = mkdtempSync(join(tmpdir(), 'bench-tls-'))
const [cert, key, both] = ['cert.pem', 'key.pem', 'both.pem'].map((name) => join(folder, name)) as [
  string,
  string,
  string,
]

/** An ECDSA certificate for all, and an upstream that accepts and hangs up when its client does. */
const prepare = async (): Promise<() => Promise<void>> => {
  const made = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=bench']
  const name = ['-addext', 'subjectAltName=DNS:bench.example']
  execFileSync('openssl', ['req', '-x509', ...made, ...name, '-keyout', key, '-out', cert], { stdio: 'pipe' })
  writeFileSync(both, readFileSync(cert, 'utf8') + readFileSync(key, 'utf8'))
  const server = createServer((socket) => socket.on('error', () => {}).resume()).listen(serverPort, '127.0.0.1')
  await once(server, 'listening')
  return async () => {
    server.close()
    rmSync(folder, { recursive: true, force: true })
  }
}

/** `openssl s_time`: one handshake after the other, for so many seconds. Resolves to how many there were. */
const handshakes = async (contender: Contender, args: readonly string[], seconds: number): Promise<number> => {
  const all = ['s_time', '-connect', `127.0.0.1:${contender.port}`, '-time', String(seconds), ...args]
  const child = spawn('openssl', all, { stdio: ['ignore', 'pipe', 'ignore'] })
  let printed = ''
  child.stdout.on('data', (chunk: Buffer) => {
    printed += chunk.toString()
  })
  await once(child, 'close')
  return Number(/(\d+) connections in \d+ real seconds/.exec(printed)?.[1] ?? 0)
}

/** A just-in-time compiler needs some thousands of handshakes, and they come one after the other. */
const WARMING_SECONDS = 8
const warm = new WeakSet<Contender>()

const perCpu = (name: string, ...args: string[]): Measurement => ({
  name,
  metrics: [{ key: 'perCpu', title: 'handshakes per CPU second', better: 'higher' }],
  run: async (contender, scale) => {
    if (!warm.has(contender)) await handshakes(contender, args, WARMING_SECONDS)
    warm.add(contender)
    const before = cpuSeconds(contender.pids())
    const count = await handshakes(contender, args, Math.max(1, Math.round(4 * scale)))
    return { perCpu: count / (cpuSeconds(contender.pids()) - before) }
  },
})

const haproxyTls: Start = haproxy(
  (port) => `
global
  nbthread 1
  maxconn 4500
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen bench
  bind 127.0.0.1:${port} ssl crt ${both} ssl-min-ver TLSv1.2
  server one 127.0.0.1:${serverPort}
`,
)

const nginxTls: Start = nginx(
  (port) => `
stream {
  server {
    listen 127.0.0.1:${port} ssl;
    ssl_certificate ${cert};
    ssl_certificate_key ${key};
    ssl_protocols TLSv1.2 TLSv1.3;
    proxy_pass 127.0.0.1:${serverPort};
  }
}
`,
)

const sluiceTls: Start = sluice(
  (port) => `
apiVersion: sluice/v1
log: { level: error }
admin: { address: [] }
listeners:
  outbound: { address: [] }
  inbound: { address: "127.0.0.1:${port}", destination: "127.0.0.1:${serverPort}" }
certificates: { bench: { cert: ${cert}, key: ${key} } }
defaults: { tls: { terminate: bench } }
`,
)

/** TLS that ends at the proxy, bytes to the upstream in the clear. */
export const tls: Suite = {
  name: 'TLS',
  contenders: [sluiceTls, haproxyTls, nginxTls],
  measurements: [
    perCpu('full handshakes, TLS 1.3, ECDSA P-256', '-new', '-tls1_3'),
    perCpu('full handshakes, TLS 1.2, ECDSA P-256', '-new', '-tls1_2'),
    perCpu('resumed handshakes, TLS 1.2', '-reuse', '-tls1_2'),
  ],
  prepare,
}
