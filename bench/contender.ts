import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { family } from './procfs.ts'

/** A proxy at work: what a measurement needs to know of it. */
export interface Contender {
  readonly name: string
  readonly port: number
  /** All its processes, as they are now. */
  readonly pids: () => readonly number[]
  /** From its start until it accepted a connection. */
  readonly startMs: number
  readonly stop: () => Promise<void>
}

/** Starts a proxy. Each suite has its own list of these: the same configuration in each proxy's own words. */
export type Start = () => Promise<Contender>

/** haproxy in the foreground, one thread. `config` is given the port to listen on. */
export const haproxy =
  (config: (port: number) => string, name = 'haproxy'): Start =>
  () =>
    started(name, (port, folder) => {
      writeFileSync(join(folder, 'haproxy.cfg'), config(port))
      return ['haproxy', '-f', join(folder, 'haproxy.cfg')]
    })

/** nginx in the foreground, one worker. `config` is what goes beside `events`, and is given the port to listen on. */
export const nginx =
  (config: (port: number) => string, name = 'nginx'): Start =>
  () =>
    started(name, (port, folder) => {
      const head = `
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; worker_processes 1; pid ${folder}/nginx.pid; error_log stderr crit;
events { worker_connections 19900; }
`
      writeFileSync(join(folder, 'nginx.conf'), head + config(port))
      return ['nginx', '-p', folder, '-c', join(folder, 'nginx.conf')]
    })

/** Sluice as a checkout runs it. `policy` is its whole document, and is given the port to listen on. */
export const sluice =
  (policy: (port: number) => string, name = 'sluice'): Start =>
  () =>
    started(name, (port, folder) => {
      writeFileSync(join(folder, 'policy.yaml'), policy(port))
      return [SLUICE, 'serve', '--config', join(folder, 'policy.yaml')]
    })

const SLUICE = join(import.meta.dirname, '../bin/sluice')

/** Any other program. `command` is given the port to listen on and a folder for its files. */
export const program =
  (name: string, command: (port: number, folder: string) => readonly string[]): Start =>
  () =>
    started(name, command)

/** A port that was free a moment ago. */
export const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

const started = async (
  name: string,
  command: (port: number, folder: string) => readonly string[],
): Promise<Contender> => {
  const port = await freePort()
  const folder = mkdtempSync(join(tmpdir(), `bench-${name.replaceAll(/\W+/g, '-')}-`))
  const [file = '', ...args] = command(port, folder)
  const began = performance.now()
  const child = spawn(file, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let complaint = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString()).slice(-2000)
  })
  await listening(port, child, () => `${name} did not start: ${complaint}`)
  const { pid } = child
  if (pid === undefined) throw new Error(`${name} did not start`)
  return {
    name,
    port,
    pids: () => family(pid),
    startMs: performance.now() - began,
    stop: async () => {
      const closed = child.exitCode === null && child.signalCode === null ? once(child, 'exit') : undefined
      child.kill('SIGTERM')
      const late = setTimeout(() => child.kill('SIGKILL'), 5000)
      await closed
      clearTimeout(late)
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

const START_TRIES_MAX = 2000 // at 5 ms each

const listening = async (port: number, child: ChildProcess, complaint: () => string): Promise<void> => {
  for (let tries = 0; tries < START_TRIES_MAX; tries += 1) {
    if (child.exitCode !== null) break
    const socket = connect(port, '127.0.0.1')
    const up = await new Promise<boolean>((resolve) => {
      // A connect to a free local port can meet itself (RFC 9293 section 3.5, simultaneous open).
      socket.once('connect', () => resolve(socket.localPort !== port))
      socket.once('error', () => resolve(false))
    })
    socket.destroy()
    if (up) return
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  child.kill('SIGKILL')
  throw new Error(complaint())
}
