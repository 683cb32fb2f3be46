import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import type { EndpointRow, NameRow } from '../../src/telemetry/endpointsText.ts'
import { openLab, type Running } from '../support/netns.ts'

/**
 * A workload calls a name without pause, while what stands behind the name is swallowed, killed, replaced, and the DNS
 * server goes: through the real redirect, with dnsmasq and with five real servers. The numbers are told as comments.
 */
const lab = await openLab()
const { pod, peer, directory } = lab
const SERVERS = [11, 12, 13, 14, 15, 21, 22, 23, 24, 25]
const hosts = join(directory, 'hosts')
const empty = join(directory, 'dnsmasq.conf')
writeFileSync(empty, '')
const at = (n: number): string => `10.99.0.${n}`
const say = (...all: readonly number[]): void =>
  writeFileSync(hosts, all.map((n) => `${at(n)} rabbits.farm.test\n`).join(''))

/** Each answers with its number; the one at 15 takes a hundred times as long as the others. */
const openServers = (): Promise<void> =>
  peer.evaluate(async ({ http, here }, servers) => {
    here.servers = {}
    for (const n of servers) {
      here.open = (which: number) =>
        new Promise<void>((resolve) => {
          const server = http.createServer(
            (_, answer) => void setTimeout(() => answer.end(`${which}`), which === 15 ? 200 : 2),
          )
          server.keepAliveTimeout = 60_000
          here.servers[which] = server.listen(8080, `10.99.0.${which}`, resolve)
        })
      await here.open(n)
    }
  }, SERVERS)

const kill = (n: number): Promise<void> =>
  peer.evaluate(({ here }, which) => {
    here.servers[which].close()
    here.servers[which].closeAllConnections()
  }, n)

const revive = (n: number): Promise<void> => peer.evaluate(({ here }, which) => here.open(which), n)

/** Eight that ask, one question after the other, ten milliseconds apart. */
const beginAsking = (): Promise<void> =>
  pod.evaluate(({ http, here }) => {
    const agent = new http.Agent({ keepAlive: true })
    here.seen = []
    const asked = (): Promise<void> =>
      new Promise((resolve) => {
        const began = performance.now()
        const done = (status: number | string, by: string) => {
          here.seen.push({ status, by, ms: performance.now() - began })
          setTimeout(resolve, 10)
        }
        const headers = { host: 'rabbits:8080' }
        http
          .get({ host: '10.99.0.1', port: 8080, headers, agent }, (answer) => {
            let by = ''
            answer.on('data', (chunk) => (by += chunk))
            answer.on('end', () =>
              done(answer.statusCode ?? 0, answer.statusCode === 200 ? by : `${answer.headers['sluice-error']}`),
            )
            answer.on('error', (error: NodeJS.ErrnoException) => done(`${error.code}`, ''))
          })
          .on('error', (error: NodeJS.ErrnoException) => done(`${error.code}`, ''))
      })
    const ask = async () => {
      while (!here.isOver) await asked()
    }
    for (let i = 0; i < 8; i++) void ask()
  }, null)

interface Seen {
  readonly all: number
  readonly errors: readonly string[]
  readonly by: readonly number[]
  readonly p50: number
  readonly p99: number
  readonly max: number
}

/** What was seen since the last time. */
const seen = async (): Promise<Seen> => {
  const raw = await pod.evaluate(
    ({ here }) => here.seen.splice(0) as { status: number; by: string; ms: number }[],
    null,
  )
  const ms = raw.map((it) => it.ms).sort((a, b) => a - b)
  const quantile = (q: number) => Math.round(ms[Math.min(ms.length - 1, Math.floor(ms.length * q))] ?? 0)
  return {
    all: raw.length,
    errors: raw.filter(({ status }) => status !== 200).map(({ status, by }) => `${status} ${by}`),
    by: [...new Set(raw.filter(({ status }) => status === 200).map(({ by }) => Number(by)))].sort(),
    p50: quantile(0.5),
    p99: quantile(0.99),
    max: quantile(1),
  }
}

const told = ({ all, errors, p50, p99, max }: Seen): string =>
  `${all} requests, ${errors.length} failed, p50 ${p50} ms, p99 ${p99} ms, max ${max} ms`

const WAIT_MS = 20_000 // far more than any of it takes

/** Waits until the endpoints are as they should be: how long that took. */
const until = async (fits: (endpoints: readonly EndpointRow[], name: NameRow) => boolean): Promise<number> => {
  const began = performance.now()
  let last: NameRow | undefined
  while (performance.now() - began < WAIT_MS) {
    const text = await pod.evaluate(
      ({ http }) =>
        new Promise<string>((resolve, reject) => {
          http
            .get('http://127.0.0.1:4191/endpoints?name=rabbits', (answer) => {
              let body = ''
              answer.on('data', (chunk) => (body += chunk))
              answer.on('end', () => resolve(body))
            })
            .on('error', reject)
        }),
      null,
    )
    ;[last] = JSON.parse(text) as NameRow[]
    if (last !== undefined && fits(last.endpoints, last)) return Math.round(performance.now() - began)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  throw new Error(`it never came to that: ${JSON.stringify(last)}`)
}

const stateOf = (endpoints: readonly EndpointRow[], n: number): string | undefined =>
  endpoints.find(({ address }) => address === `${at(n)}:8080`)?.state

const dnsmasq = async (): Promise<Running> => {
  const running = peer.start([
    'dnsmasq',
    '--keep-in-foreground',
    '--log-facility=-',
    '-C',
    empty,
    '--no-resolv',
    '--no-hosts',
    '--user=root',
    `--addn-hosts=${hosts}`,
    '--local=/test/',
    '--local-ttl=1',
    '--listen-address=10.99.0.1',
    '--bind-interfaces',
    '-x',
    join(directory, 'dnsmasq.pid'),
  ])
  await running.printed(/read .*hosts/)
  return running
}

const POLICY = `discovery:
  sources: [{ dns: { servers: [10.99.0.1], maxTtl: 1s, family: ipv4 } }]
  search: [farm.test.]
defaults:
  limits: { connect: 1s }
  http:
    headTimeout: 1s
    retry: { attempts: 4, on: [connect, reset, headTimeout], budget: { percent: 100, minPerSecond: 1000 } }
`

test('a name is called without pause, whatever happens to what stands behind it', async (t) => {
  t.teardown(lab.close)
  for (const n of SERVERS) await peer.run(['ip', 'address', 'add', `${at(n)}/24`, 'dev', 'eth0'])
  say(11, 12, 13, 14, 15)
  const names = await dnsmasq()
  await openServers()
  await lab.redirect('apply')
  await lab.serve(POLICY)
  await beginAsking()
  await until((all) => all.length === 5 && all.reduce((sum, { chosen }) => sum + chosen, 0) > 300)

  const calm = await seen()
  t.comment(`five servers, one slow by 100×: ${told(calm)}`)
  assert.deepEqual(calm.errors, [])
  assert.deepEqual(
    calm.by.filter((n) => n !== 15),
    [11, 12, 13, 14],
  )

  await peer.run(['iptables', '-I', 'INPUT', '-d', at(11), '-j', 'DROP'])
  const swallowedMs = await until((all) => stateOf(all, 11) === 'resting')
  const swallowed = await seen()
  t.comment(`one is swallowed: left alone after ${swallowedMs} ms; ${told(swallowed)}`)
  assert.deepEqual(swallowed.errors, [])
  await peer.run(['iptables', '-D', 'INPUT', '-d', at(11), '-j', 'DROP'])
  t.comment(`it is back after ${await until((all) => stateOf(all, 11) === 'ready')} ms`)

  await kill(12)
  const killedMs = await until((all) => stateOf(all, 12) !== 'ready')
  await revive(12)
  const revivedMs = await until((all) => stateOf(all, 12) === 'ready')
  const revived = await seen()
  t.comment(
    `one is killed: left alone after ${killedMs} ms, back ${revivedMs} ms after it is revived; ${told(revived)}`,
  )
  assert.deepEqual(revived.errors, [])

  names.child.kill('SIGKILL')
  await names.finished
  const staleMs = await until((_, name) => name.isStale)
  const stale = await seen()
  t.comment(`the DNS server is killed: noticed after ${staleMs} ms; ${told(stale)}`)
  assert.deepEqual(stale.errors, [])
  say(21, 22, 23, 24, 25)
  await dnsmasq()
  const movedMs = await until((all) => all.length === 5 && stateOf(all, 21) === 'ready')
  await Promise.all([11, 12, 13, 14, 15].map(kill))
  await until((all) => all.reduce((sum, { chosen }) => sum + chosen, 0) > 100)
  assert.deepEqual((await seen()).errors, [])
  await until((all) => all.reduce((sum, { chosen }) => sum + chosen, 0) > 200)
  const moved = await seen()
  t.comment(`it is back with five others, the old ones are killed: in use after ${movedMs} ms; ${told(moved)}`)
  assert.deepEqual(moved.errors, [])
  assert.ok(moved.by.every((n) => n > 20))
  await pod.evaluate(({ here }) => {
    here.isOver = true
  }, null)
})
