import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { renameSync, writeFileSync } from 'node:fs'
import { Agent, createServer, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { type Test, test } from 'tap'
import { add, destinationServer, none, remove, type Told } from '../support/destinationServer.ts'

/** An upstream that says which one it is. */
const upstream = async (t: Test, name: string): Promise<number> => {
  const server = createServer((_, response) => response.end(name)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

/** `sluice serve` with this policy, its addresses, and what it serves at /metrics. */
const serve = async (t: Test, policy: string) => {
  const file = join(t.testdir({ 'policy.yaml': policy }), 'policy.yaml')
  const env: NodeJS.ProcessEnv = { ...process.env }
  delete env.NODE_OPTIONS
  const sluice = spawn('bin/sluice', ['serve', '--config', file], { stdio: ['ignore', 'pipe', 'pipe'], env })
  t.teardown(() => sluice.kill('SIGKILL'))
  let text = ''
  for (const stream of [sluice.stdout, sluice.stderr]) stream.on('data', (bytes: Buffer) => (text += bytes))
  const says = async (what: RegExp): Promise<RegExpExecArray> => {
    for (;;) {
      const found = what.exec(text)
      if (found !== null) return found
      await Promise.race([once(sluice.stdout, 'data'), once(sluice.stderr, 'data')])
    }
  }
  const [, port, admin] = await says(/ready: listening on 127\.0\.0\.1:(\d+); admin on 127\.0\.0\.1:(\d+)/)
  const agent = new Agent({ keepAlive: true, maxSockets: 4 })
  t.teardown(() => agent.destroy())
  /** `200 a`: the status, and what the body begins with. */
  const get = (host: string): Promise<string> =>
    new Promise((resolve) => {
      const sent = request({ host: '127.0.0.1', port, agent, headers: { host } }, (response) => {
        let body = ''
        response.on('data', (bytes) => (body += bytes))
        response.on('end', () => resolve(`${response.statusCode} ${body.slice(0, 1)}`))
      })
      sent.on('error', (error) => resolve(error.message))
      sent.end()
    })
  const metrics = async (): Promise<string> => (await fetch(`http://127.0.0.1:${admin}/metrics`)).text()
  return { get, metrics, says, file }
}

test('requests go to the endpoints of their authority, whatever becomes of the control plane', {
  timeout: 90_000,
}, async (t) => {
  const [a, b, c, original] = await Promise.all(['a', 'b', 'c', 'original'].map((name) => upstream(t, name)))
  const streams = new Map<string, Told>()
  const get = (told: Told) => {
    streams.set(told.asked.path, told)
    if (told.asked.path === 'orders.farm:80') told.write(add(`127.0.0.1:${a}`, `127.0.0.1:${b}`))
    else if (told.asked.path === 'empty:80') told.write(none(true))
    else if (told.asked.path.startsWith('gone')) told.fail('NOT_FOUND')
    else told.fail('INVALID_ARGUMENT')
  }
  const first = await destinationServer({ get })
  const {
    get: ask,
    metrics,
    says,
    file,
  } = await serve(
    t,
    `apiVersion: sluice/v1
listeners: { outbound: { address: "127.0.0.1:0", destination: "127.0.0.1:${original}" }, inbound: { address: [] } }
admin: { address: "127.0.0.1:0" }
discovery:
  search: [farm.]
  sources:
    - static: { fixed: ["127.0.0.1:${c}"] }
    - destination: { address: "127.0.0.1:${first.port}" }
`,
  )
  const many = async (host: string, count = 40): Promise<Record<string, number>> => {
    const answers = await Promise.all(Array.from({ length: count }, () => ask(host)))
    return Object.fromEntries(
      Object.entries(Object.groupBy(answers, (it) => it)).map(([key, all]) => [key, all!.length]),
    )
  }
  const seen = await many('orders')
  t.same(Object.keys(seen).sort(), ['200 a', '200 b'], JSON.stringify(seen))
  t.same(await many('fixed'), { '200 c': 40 })

  // A negative answer fails; nothing goes to the original destination, which would say so.
  await Promise.all(['empty', 'gone', 'unknown'].map(async (host) => t.match(await ask(host), /^504 /, host)))

  // The control plane is killed: not one request is lost.
  await first.close()
  while (!/\nsluice_discovery_stale_names [1-9]/.test(await metrics())) await ask('orders')
  const during = await many('orders', 200)
  t.same(Object.keys(during).sort(), ['200 a', '200 b'], JSON.stringify(during))

  // It comes back, and has something new to say.
  streams.clear()
  const second = await destinationServer({ get }, 'linkerd', first.port)
  t.teardown(second.close)
  const revivedAt = performance.now()
  while (!(await metrics()).includes('\nsluice_discovery_stale_names 0\n')) await ask('orders')
  t.comment(`fresh ${Math.round(performance.now() - revivedAt)} ms after the control plane came back`)
  const { write } = streams.get('orders.farm:80')!
  write(add(`127.0.0.1:${c}`))
  write(remove(`127.0.0.1:${a}`, `127.0.0.1:${b}`))
  const late: string[] = []
  for (let answer = ''; answer !== '200 c'; late.push(answer)) answer = await ask('orders')
  t.notOk(
    late.some((it) => !it.startsWith('200 ')),
    'no request is lost while all endpoints are replaced',
  )
  t.match(await metrics(), /sluice_discovery_reconnects_total 1\n/)

  // Another document, other sources: at once, without a restart.
  const next = `apiVersion: sluice/v1
listeners: { outbound: { address: "127.0.0.1:0", destination: "127.0.0.1:${original}" }, inbound: { address: [] } }
admin: { address: "127.0.0.1:0" }
discovery: { sources: [{ static: { orders: ["127.0.0.1:${a}"] } }] }
`
  writeFileSync(`${file}.new`, next)
  renameSync(`${file}.new`, file)
  await says(/the policy was replaced/)
  const after: string[] = []
  for (let answer = ''; answer !== '200 a'; after.push(answer)) answer = await ask('orders')
  t.notOk(
    after.some((it) => !it.startsWith('200 ')),
    JSON.stringify(after),
  )
})
