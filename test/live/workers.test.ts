import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer, request } from 'node:http'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { type Test, test } from 'tap'
import type { Address } from '../../src/net/address.ts'
import { systemClock } from '../../src/net/clock.ts'
import { createLedger } from '../../src/telemetry/ledger.ts'
import { createLog } from '../../src/telemetry/log.ts'
import type { Outcome } from '../../src/telemetry/outcome.ts'
import { openWorkers } from '../../src/workers.ts'
import { caller, readAll, upstream } from '../support/peers.ts'

const until = async (is: () => Promise<boolean> | boolean): Promise<void> => {
  while (!(await is())) await new Promise((resolve) => setTimeout(resolve, 10))
}

/** Ended or reset by the other side. */
const gone = (socket: Socket): Promise<unknown> =>
  new Promise((resolve) => socket.resume().once('end', resolve).once('close', resolve)).then(() => socket.destroy())

/** One HTTP request on a connection of its own: the status. */
const ask = async ({ host, port }: Address, path: string): Promise<number> => {
  const asking = request({ host, port, path, agent: false }).end()
  const [response] = (await once(asking, 'response')) as [{ statusCode: number; resume: () => void }]
  response.resume()
  return response.statusCode
}

const policyFor = (back: Address, http: Address, more = ''): string => `
apiVersion: sluice/v1
listeners:
  outbound: { address: "127.0.0.1:0", destination: "${back.host}:${back.port}" }
  inbound: { address: "127.0.0.1:0", destination: "${http.host}:${http.port}" }
rules:
  - name: few
    when: { path: /few }
    then: { http: { rateLimit: { requests: 3, per: 1h } } }
  - name: pipe
    when: { direction: outbound }
    then: { protocol: opaque${more} }
`

test('two workers serve as one: spread, sums, limits, reload, a death, the drain', {
  timeout: 60_000,
}, async (t: Test) => {
  const back = await upstream((socket) => void socket.pipe(socket))
  const web = createServer((_, response) => response.end('fine')).listen(0, '127.0.0.1')
  await once(web, 'listening')
  const http = { host: '127.0.0.1', port: (web.address() as { port: number }).port }
  t.teardown(() => {
    back.close()
    web.closeAllConnections()
    web.close()
  })
  const files = [{ path: 'policy.yaml', text: policyFor(back.address, http) }]
  let later = 0
  const clock = { ...systemClock, now: () => systemClock.now() + later }
  const ledger = createLedger(clock)
  const outcomes: Outcome[] = []
  ledger.subscribe((outcome) => outcomes.push(outcome))
  const lines: string[] = []
  const log = createLog({ format: 'text', level: 'info', write: (_, line) => lines.push(line) })
  const started: Worker[] = []
  const workers = await openWorkers({
    threads: 2,
    files,
    env: {},
    otlp: undefined,
    clock,
    ledger,
    log,
    lost: () => t.fail('no worker dies twice'),
    spawn: (workerData) => {
      const worker = new Worker(new URL('../../src/serveWorker.ts', import.meta.url), { workerData })
      started.push(worker)
      return worker
    },
  })
  t.teardown(() => workers.stop(0))
  const [outbound, inbound] = workers.addresses() as [Address, Address]
  const threadsOf = (seen: readonly { readonly id: string }[]) => new Set(seen.map(({ id }) => id.split('-')[0]))

  // Each connection goes to either by chance: that 40 went to one is 2^-39.
  const clients = await Promise.all(Array.from({ length: 40 }, () => caller(outbound)))
  for (const client of clients) client.write('hello')
  await Promise.all(clients.map((client) => once(client, 'data')))
  await ledger.look()
  t.equal(ledger.open.size, 40)
  t.same([...threadsOf([...ledger.open])].sort(), ['1', '2'])
  t.match(ledger.totals().outbound, { open: 40, sent: 200, received: 200 })
  for (const client of clients.slice(0, 30)) {
    client.end('!')
    t.equal(await readAll(client), '!')
  }
  await until(() => outcomes.length === 30)
  t.match(outcomes[0], { result: 'forwarded', bytes: { sent: 6, received: 6 }, rules: { protocol: { name: 'pipe' } } })
  await ledger.look()
  t.match(ledger.totals().outbound, { open: 10, sent: 50 })

  // A limit is that of the process: three of twelve, whichever thread they came to.
  const answers = []
  for (let i = 0; i < 12; i += 1) answers.push(await ask(inbound, '/few'))
  t.equal(answers.filter((status) => status === 200).length, 3)
  t.equal(answers.filter((status) => status === 429).length, 9)

  // A new policy reaches all, and those it denies are closed everywhere.
  const denied = [{ path: 'policy.yaml', text: policyFor(back.address, http, ', deny: true') }]
  const cut = clients.slice(30).map(gone)
  const use = await workers.prepare(denied)
  use()
  await Promise.all(cut)
  await until(() => outcomes.filter(({ ended }) => ended === 'policyChanged').length === 10)
  t.same([...threadsOf(outcomes)].sort(), ['1', '2'])
  for (let i = 0; i < 8; i += 1) {
    // The reset may come before the connect is heard of.
    const refused = await caller(outbound).catch(() => undefined)
    if (refused !== undefined) await gone(refused)
  }
  await until(() => outcomes.filter(({ ended }) => ended === 'denied').length === 8)
  await t.rejects(workers.prepare([{ path: 'policy.yaml', text: 'apiVersion: none' }]), /mistakes/)

  // One that dies is replaced, with the policy of now; the other one goes on.
  later = 60_000
  await started[0]?.terminate()
  await until(() => lines.some((line) => line.includes('worker 1 was replaced')))
  t.match(lines.join(''), /worker 1 has died, and with it its connections/)
  t.equal(started.length, 3)
  const before = outcomes.length
  for (let i = 0; i < 30; i += 1) t.equal(await ask(inbound, '/'), 200)
  await until(() => outcomes.length >= before + 30)
  t.same([...threadsOf(outcomes.slice(before))].sort(), ['1', '2'])

  // What is still open when the drain is over is closed.
  const kept = await Promise.all(Array.from({ length: 4 }, () => caller(inbound)))
  const closed = kept.map(gone)
  await workers.stop(1)
  await Promise.all(closed)
  await t.rejects(caller(outbound), { code: 'ECONNREFUSED' })
})

test('sluice serve with two threads answers for both, and ends both', { timeout: 60_000 }, async (t: Test) => {
  const back = await upstream((socket) => void socket.pipe(socket))
  t.teardown(() => back.close())
  const file = join(t.testdir(), 'policy.yaml')
  writeFileSync(
    file,
    `${policyFor(back.address, back.address)}workers: { threads: 2 }\nadmin: { address: "127.0.0.1:0" }\n`,
  )
  const { NODE_OPTIONS: _, ...env } = process.env
  const sluice = spawn('bin/sluice', ['serve', '--config', file], { stdio: ['ignore', 'pipe', 'inherit'], env })
  t.teardown(() => sluice.kill('SIGKILL'))
  let text = ''
  sluice.stdout.on('data', (bytes: Buffer) => {
    text += bytes
  })
  await until(() => /ready.*\n/.test(text))
  const [, port, admin] = /listening on 127.0.0.1:(\d+).*admin on 127.0.0.1:(\d+)/.exec(text) ?? []
  const clients = await Promise.all(Array.from({ length: 40 }, () => caller({ host: '127.0.0.1', port: Number(port) })))
  for (const client of clients) client.write('hello')
  await Promise.all(clients.map((client) => once(client, 'data')))
  const get = async (path: string) => (await fetch(`http://127.0.0.1:${admin}${path}`)).text()
  t.match(await get('/metrics'), /sluice_connections_open\{direction="outbound"\} 40\n/)
  t.match(await get('/metrics'), /sluice_connection_bytes_total\{direction="outbound",way="sent"\} 200\n/)
  t.equal((JSON.parse(await get('/connections')) as unknown[]).length, 40)
  const closed = once(sluice, 'exit')
  sluice.kill('SIGTERM')
  for (const client of clients) client.end()
  t.same(await closed, [0, null])
  t.equal(text.match(/forwarded {2}sent 5 received 5/g)?.length, 40)
})
