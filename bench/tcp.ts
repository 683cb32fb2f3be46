import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { type Contender, freePort, haproxy, nginx, type Start, sluice } from './contender.ts'
import { IDLE, idle, NO_PROBES, resting } from './memory.ts'
import { cpuSeconds } from './procfs.ts'
import type { Measurement, Suite } from './rounds.ts'

const LOAD = join(import.meta.dirname, '../build/load')

/** Runs a client of load.c against a contender: what it printed, and the CPU seconds the contender spent meanwhile. */
const load = async (
  contender: Contender,
  mode: string,
  ...args: readonly (string | number)[]
): Promise<{ readonly cpu: number } & Partial<Record<string, number>>> => {
  const before = cpuSeconds(contender.pids())
  const child = spawn(LOAD, [mode, String(contender.port), ...args.map(String)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let printed = ''
  child.stdout.on('data', (chunk: Buffer) => {
    printed += chunk.toString()
  })
  const [code] = await once(child, 'close')
  if (code !== 0) throw new Error(`${contender.name}: load ${mode} ${args.join(' ')} failed`)
  return { cpu: cpuSeconds(contender.pids()) - before, ...(JSON.parse(printed) as Record<string, number>) }
}

const PER_CPU = 'higher' as const

const bulk = (way: 'down' | 'up', connections: number): Measurement => ({
  name: `bulk ${way}, ${connections} connection${connections === 1 ? '' : 's'}`,
  metrics: [
    { key: 'perCpu', title: 'GB per CPU second', better: PER_CPU },
    { key: 'perSecond', title: 'GB per second', better: 'higher' },
  ],
  run: async (contender, scale) => {
    const { cpu, bytes = 0, seconds = 0 } = await load(contender, 'bulk', way, connections, Math.round(8e9 * scale))
    return { perCpu: bytes / 1e9 / cpu, perSecond: bytes / 1e9 / seconds }
  },
})

const ping = (connections: number): Measurement => ({
  name: `64-byte messages, ${connections} connection${connections === 1 ? '' : 's'}`,
  metrics: [
    { key: 'perCpu', title: 'messages per CPU millisecond', better: PER_CPU },
    { key: 'p99', title: 'p99, microseconds', better: 'lower' },
  ],
  run: async (contender, scale) => {
    const { cpu, messages = 0, p99 = 0 } = await load(contender, 'ping', connections, 64, 4 * scale)
    return { perCpu: messages / cpu / 1000, p99 }
  },
})

const shortLived = (concurrency: number): Measurement => ({
  name: `short connections, ${concurrency} at a time`,
  metrics: [
    { key: 'perCpu', title: 'connections per CPU second', better: PER_CPU },
    { key: 'p99', title: 'p99, microseconds', better: 'lower' },
  ],
  run: async (contender, scale) => {
    const {
      cpu,
      connections = 0,
      p99 = 0,
    } = await load(contender, 'short', concurrency, Math.round(20_000 * scale), 64)
    return { perCpu: connections / cpu, p99 }
  },
})

const serverPort = await freePort()

const startServer = async (): Promise<() => Promise<void>> => {
  const child = spawn(LOAD, ['server', String(serverPort)], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(createInterface(child.stdout), 'line')
  return async () => {
    child.kill()
    await once(child, 'exit')
  }
}

const haproxyWith = (more: string, connections = 7900): Start =>
  haproxy(
    (port) => `
global
  nbthread 1
  maxconn ${connections}
${more}
defaults
  mode tcp
  option splice-request
  option splice-response
  timeout client 1h
  timeout server 1h
  timeout connect 10s
listen tcp
  bind 127.0.0.1:${port}
  server s 127.0.0.1:${serverPort}
`,
  )

const haproxyTcp = haproxyWith('')

const nginxTcp: Start = nginx(
  (port) => `
stream { server { listen 127.0.0.1:${port} backlog=4096; proxy_pass 127.0.0.1:${serverPort}; proxy_timeout 1h; } }
`,
)

const sluiceTcp: Start = sluice(
  (port) => `
apiVersion: sluice/v1
defaults: { protocol: opaque }
listeners:
  outbound: { address: "127.0.0.1:${port}", destination: "127.0.0.1:${serverPort}" }
  inbound: { address: [] }
admin: { address: [] }
log: { level: warn }
${NO_PROBES}
`,
)

/** What it costs to be there, and to be connected: each contender fresh, so that no memory of earlier work is reused. */
export const atRest: Suite = {
  name: 'opaque TCP, fresh: memory and start',
  fresh: true,
  prepare: startServer,
  contenders: [haproxyWith('  maxpipes 10', IDLE + 50), nginxTcp, sluiceTcp],
  measurements: [resting, idle()],
}

/** Opaque TCP: haproxy splices, nginx copies, Sluice pumps. */
export const tcp: Suite = {
  name: 'opaque TCP',
  prepare: startServer,
  contenders: [haproxyTcp, nginxTcp, sluiceTcp],
  measurements: [
    bulk('down', 1),
    bulk('up', 1),
    bulk('down', 100),
    bulk('up', 100),
    bulk('down', 2000),
    bulk('up', 2000),
    ping(1),
    ping(100),
    ping(2000),
    shortLived(1),
    shortLived(100),
  ],
}

/** The same bulk where haproxy may splice through pipes as large as ours: by default its are 64 KiB. */
export const tcpPipes: Suite = {
  name: 'opaque TCP, haproxy with tune.pipesize 1048576',
  prepare: startServer,
  contenders: [haproxyWith('  tune.pipesize 1048576'), sluiceTcp],
  measurements: [bulk('down', 1), bulk('up', 1), bulk('down', 100), bulk('up', 100)],
}
