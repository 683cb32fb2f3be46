import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Contender, freePort, type Start, sluice } from './contender.ts'
import { cpuSeconds, family } from './procfs.ts'
import type { Measurement, Suite } from './rounds.ts'

type Server = 'node:http' | 'node:http2'

const SDK = join(import.meta.dirname, '../src/sdk/serveOverCallback.ts')

const app = (server: Server, how: string): string => `
import { createServer } from '${server}'
import { serveOverCallback } from '${SDK}'
const body = Buffer.alloc(1024, 'a')
const server = createServer((request, response) => request.resume().on('end', () => response.end(body)))
${how}
`

/** The proxy, with the app behind it as another process. */
interface WithApp extends Contender {
  readonly appPids: () => readonly number[]
}

/** Starts both, and waits until the app is reached. */
const withApp = (server: Server, isDialled: boolean): Start => {
  const name = isDialled ? 'dialled' : 'sluice'
  return async () => {
    const [appPort, apiPort] = [await freePort(), await freePort()]
    const proxy = await sluice(
      (port) => `apiVersion: sluice/v1
admin: { address: "127.0.0.1:0" }
log: { level: warn }
${isDialled ? '' : `callback: { enable: true, address: "127.0.0.1:${apiPort}" }`}
listeners: { outbound: { address: [] }, inbound: { address: "127.0.0.1:${port}", destination: "127.0.0.1:${appPort}" } }
rules: [{ name: app, when: { direction: inbound }, then: { upstream: ${isDialled ? '{ address: original }' : '{ channel: app }'} } }]
`,
      name,
    )()
    const folder = mkdtempSync(join(tmpdir(), 'bench-app-'))
    const up = `() => process.stdout.write('up')`
    const how = isDialled
      ? `server.listen(${appPort}, '127.0.0.1', ${up})`
      : `serveOverCallback({ proxy: '127.0.0.1:${apiPort}', appId: 'app', server }).on('state', ({ is }) => is === 'up' && (${up})())`
    writeFileSync(join(folder, 'app.mjs'), app(server, how))
    const child: ChildProcess = spawn(process.execPath, [join(folder, 'app.mjs')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    await Promise.race([
      once(child.stdout!, 'data'),
      once(child, 'exit').then(() => Promise.reject(new Error('the app ended before it was reached'))),
    ])
    const contender: WithApp = {
      ...proxy,
      appPids: () => family(child.pid!),
      stop: async () => {
        const closed = once(child, 'exit')
        child.kill('SIGKILL')
        await closed
        await proxy.stop()
        rmSync(folder, { recursive: true, force: true })
      },
    }
    return contender
  }
}

/** Calls over a while, by a program that speaks what the app speaks. */
const calls = async (server: Server, port: number, seconds: number): Promise<number> => {
  const url = `http://127.0.0.1:${port}/`
  const [file, ...args] =
    server === 'node:http'
      ? ['wrk', '-t1', '-c32', `-d${seconds}s`, url]
      : ['h2load', '-t1', '-c4', '-m25', `-D${seconds}`, url]
  const child = spawn(file!, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString()
  })
  await once(child, 'close')
  const wrong = /Non-2xx[^\n]*|[1-9]\d* (?:failed|errored)/.exec(text)
  if (wrong) throw new Error(`${file}: ${wrong[0]}`)
  return Number((/(\d+) requests in/.exec(text) ?? /(\d+) succeeded/.exec(text))?.[1])
}

const measurement = (server: Server): Measurement => ({
  name: '1 KiB answers, 32 to 100 at once',
  metrics: [
    { key: 'proxy', title: 'calls per CPU second of the proxy', better: 'higher' },
    { key: 'app', title: 'calls per CPU second of the app', better: 'higher' },
    { key: 'both', title: 'calls per CPU second of both', better: 'higher' },
  ],
  run: async (contender, scale) => {
    const { port, pids, appPids } = contender as WithApp
    const before = [cpuSeconds(pids()), cpuSeconds(appPids())] as const
    const made = await calls(server, port, Math.max(1, Math.round(8 * scale)))
    const [proxy, own] = [cpuSeconds(pids()) - before[0], cpuSeconds(appPids()) - before[1]]
    return { proxy: made / proxy, app: made / own, both: made / (proxy + own) }
  },
})

const suite = (server: Server): Suite => ({
  name: `callback channel, app with ${server}`,
  contenders: [withApp(server, false), withApp(server, true)],
  measurements: [measurement(server)],
})

/** What a callback channel costs (the column `sluice`): the same calls to the same app, which the proxy dials otherwise. */
export const callback: readonly Suite[] = [suite('node:http2'), suite('node:http')]
