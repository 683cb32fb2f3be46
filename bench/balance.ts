import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { type Contender, freePort, haproxy, type Start, sluice } from './contender.ts'
import type { Measurement, Suite } from './rounds.ts'

/** How long each of the five takes for an answer, in milliseconds; 0 is an answer with 503, at once. */
const CASES: Readonly<Record<string, readonly number[]>> = {
  'five servers that take 10, 15, 20, 30 and 50 ms': [10, 15, 20, 30, 50],
  'four that take 10 ms, one that is slow by 100×': [10, 10, 10, 10, 1000],
  'four that take 10 ms, one that answers 503 at once': [10, 10, 10, 10, 0],
}

const ports = await Promise.all([1, 2, 3, 4, 5].map(freePort))

/** What they take is theirs to be told: `PUT /takes` with a list. */
const startServers = async (): Promise<() => Promise<void>> => {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'slowServers.ts'), ...ports.map(String)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(child.stdout!, 'data')
  return async () => {
    child.kill()
    await once(child, 'exit')
  }
}

const wrk = async (port: number, seconds: number) => {
  const args = ['-t1', '-c8', `-d${seconds}s`, '--latency', `http://127.0.0.1:${port}/`]
  const child = spawn('wrk', args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString()
  })
  await once(child, 'close')
  const all = Number(/(\d+) requests in/.exec(text)![1])
  const failed = Number(/Non-2xx or 3xx responses: (\d+)/.exec(text)?.[1] ?? 0)
  return {
    all,
    failed,
    p50: milliseconds(/ 50% +([\d.]+)(us|ms|s)/.exec(text)!),
    p99: milliseconds(/ 99% +([\d.]+)(us|ms|s)/.exec(text)!),
  }
}

const milliseconds = ([, amount, unit]: readonly string[]): number =>
  Number(amount) * ({ us: 1e-3, ms: 1, s: 1e3 } as Record<string, number>)[unit!]!

const measurement = (name: string, takes: readonly number[]): Measurement => ({
  name: `${name}, 8 clients`,
  metrics: [
    { key: 'rate', title: 'good answers a second', better: 'higher' },
    { key: 'p50', title: 'p50, ms', better: 'lower' },
    { key: 'p99', title: 'p99, ms', better: 'lower' },
    { key: 'failed', title: 'failed of 100,000', better: 'lower' },
  ],
  run: async (contender: Contender, scale: number) => {
    await fetch(`http://127.0.0.1:${ports[0]}/takes`, { method: 'PUT', body: JSON.stringify(takes) })
    const seconds = Math.max(2, Math.round(8 * scale))
    const { all, failed, p50, p99 } = await wrk(contender.port, seconds)
    return { rate: (all - failed) / seconds, p50, p99, failed: (failed * 1e5) / all }
  },
})

const haproxyBy = (algorithm: string): Start =>
  haproxy(
    (port) => `
global
  nbthread 1
  maxconn 4500
defaults
  mode http
  http-reuse always
  timeout client 1h
  timeout server 1h
  timeout connect 1s
listen http
  bind 127.0.0.1:${port}
  balance ${algorithm}
${ports.map((to, n) => `  server s${n} 127.0.0.1:${to} pool-max-conn 100`).join('\n')}
`,
    `haproxy ${algorithm}`,
  )

const sluiceBy = (algorithm: string, name: string): Start =>
  sluice(
    (port) => `
apiVersion: sluice/v1
listeners:
  outbound: { address: "127.0.0.1:${port}", destination: "127.0.0.1:9" }
  inbound: { address: [] }
admin: { address: [] }
log: { level: error }
defaults: { balance: { algorithm: ${algorithm} } }
rules: [{ name: five, then: { upstream: { address: [${ports.map((to) => `127.0.0.1:${to}`).join(', ')}] } } }]
`,
    name,
  )

/** Five upstreams that differ: what is left of that for the client. */
export const balance: Suite = {
  name: 'balance',
  contenders: [
    sluiceBy('p2c', 'sluice'),
    sluiceBy('leastRequest', 'sluice leastRequest'),
    haproxyBy('leastconn'),
    haproxyBy('random(2)'),
  ],
  measurements: Object.entries(CASES).map(([name, takes]) => measurement(name, takes)),
  prepare: startServers,
}
