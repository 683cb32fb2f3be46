/**
 * What a callback channel costs: the same calls to the same app, which the proxy dials, or calls over a channel that the app
 * opened. Calls per second of CPU, of the app and of the proxy, so that a busy machine matters less.
 *   node bench/callback.ts [SECONDS]
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { cpuSeconds, family } from './procfs.ts'

const SECONDS = Number(process.argv[2] ?? 10)
const [API, FRONT, DIALLED, PORT] = [52_001, 52_002, 52_003, 52_004]

const APP = `
import { createServer } from 'node:http'
import { createServer as createHttp2Server } from 'node:http2'
import { serveOverCallback } from '${resolve('src/sdk/serveOverCallback.ts')}'
const [kind, how] = process.argv.slice(2)
const body = Buffer.alloc(1024, 'a')
let server
if (kind === 'http') server = createServer((request, response) => request.resume().on('end', () => response.end(body)))
else server = createHttp2Server((request, response) => request.resume().on('end', () => response.end(body)))
if (how === 'dialled') server.listen(${PORT}, '127.0.0.1', () => process.stderr.write('up'))
else serveOverCallback({ proxy: '127.0.0.1:${API}', appId: 'app', server }).on('state', ({ is }) => process.stderr.write(is))
`

const cpuOf = (child: ChildProcess): number => cpuSeconds(family(child.pid!))

const printed = async (child: ChildProcess, word: string): Promise<void> => {
  let text = ''
  for (const stream of [child.stdout, child.stderr])
    stream!.on('data', (bytes: Buffer) => {
      text += bytes
      child.emit('printed')
    })
  while (!text.includes(word)) await once(child, 'printed')
}

const listens = async (port: number): Promise<void> => {
  for (;;) {
    const socket = connect(port, '127.0.0.1')
    const isUp = await Promise.race([
      once(socket, 'connect').then(() => true),
      once(socket, 'close').then(() => false),
    ]).catch(() => false)
    socket.destroy()
    if (isUp) return
    await new Promise((done) => setTimeout(done, 50))
  }
}

const directory = mkdtempSync(join(tmpdir(), 'sluice-bench-'))
writeFileSync(join(directory, 'app.mjs'), APP)
const policy = (front: number, how: string) => `apiVersion: sluice/v1
admin: { address: "127.0.0.1:0" }
${how === 'channel' ? `callback: { enable: true, address: "127.0.0.1:${API}" }` : ''}
log: { level: warn }
listeners: { outbound: { address: [] }, inbound: { address: "127.0.0.1:${front}", destination: "127.0.0.1:${PORT}" } }
rules: [{ name: r, when: { direction: inbound }, then: { ${how === 'channel' ? 'upstream: { channel: app }' : `upstream: { protocol: auto }`} } }]
`

const round = async (kind: string, how: string): Promise<void> => {
  const front = how === 'channel' ? FRONT : DIALLED
  const file = join(directory, `${how}.yaml`)
  writeFileSync(file, policy(front, how))
  const proxy = spawn(process.execPath, [resolve('src/main.ts'), 'serve', '--config', file], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  await listens(front)
  const app = spawn(process.execPath, [join(directory, 'app.mjs'), kind, how], { stdio: ['ignore', 'pipe', 'pipe'] })
  await printed(app, 'up')
  const load = (seconds: number) =>
    kind === 'http'
      ? execFileSync('wrk', ['-t1', '-c32', `-d${seconds}s`, `http://127.0.0.1:${front}/`], { encoding: 'utf8' })
      : execFileSync('h2load', ['-t1', '-c4', '-m25', `-D${seconds}`, `http://127.0.0.1:${front}/`], {
          encoding: 'utf8',
        })
  load(1)
  const before = [cpuOf(app), cpuOf(proxy)] as const
  const said = load(SECONDS)
  const calls = Number((/(\d+) requests in/.exec(said) ?? /(\d+) succeeded/.exec(said))?.[1])
  const wrong = /Non-2xx[^\n]*|[1-9]\d* (?:failed|errored)/.exec(said)?.[0] ?? ''
  const [appCpu, proxyCpu] = [cpuOf(app) - before[0], cpuOf(proxy) - before[1]]
  const per = (seconds: number) =>
    Math.round(calls / seconds)
      .toString()
      .padStart(7)
  process.stdout.write(
    `${kind.padEnd(6)} ${how.padEnd(8)} ${`${calls}`.padStart(7)} calls; per CPU second: app ${per(appCpu)}, proxy ${per(proxyCpu)}, both ${per(appCpu + proxyCpu)} ${wrong}\n`,
  )
  for (const child of [app, proxy]) {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
}

for (const kind of ['http', 'http2']) for (const how of ['dialled', 'channel']) await round(kind, how)
rmSync(directory, { recursive: true, force: true })
