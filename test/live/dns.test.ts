import { type ChildProcess, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Test, test } from 'tap'
import { createDiscovery } from '../../src/discovery/createDiscovery.ts'
import { exchange } from '../../src/discovery/dnsExchange.ts'
import type { DnsSettings } from '../../src/discovery/dnsSource.ts'
import { sourcesOf } from '../../src/discovery/openSources.ts'
import { systemClock } from '../../src/net/clock.ts'
import type { Resolution } from '../../src/net/endpoint.ts'
import { NO_COUNTS, shortly } from '../support/fakeSource.ts'
import { events, stayAlive } from '../support/waiting.ts'

/** A port that nobody has at the moment, for a server that cannot take any. */
const freePort = async (): Promise<number> => {
  const socket = createSocket('udp4')
  await new Promise<void>((bound) => socket.bind(0, '127.0.0.1', bound))
  const { port } = socket.address()
  await new Promise<void>((closed) => socket.close(closed))
  return port
}

interface Dnsmasq {
  readonly port: number
  /** Other addresses by name: `10.0.0.1 orders.farm`. */
  readonly change: (hosts: string) => void
  readonly kill: () => Promise<void>
  readonly start: (...more: string[]) => Promise<void>
}

/** dnsmasq on loopback, for the domain `farm`. It answers NXDOMAIN for what it does not know there, and REFUSED elsewhere. */
const dnsmasq = async (t: Test, ...options: string[]): Promise<Dnsmasq> => {
  const hosts = join(t.testdir({ hosts: '' }), 'hosts')
  let port = await freePort()
  let child: ChildProcess | undefined
  const kill = async (): Promise<void> => {
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  t.teardown(kill)
  const isUp = async (name: string): Promise<boolean> => {
    const asked = {
      server: { host: '127.0.0.1', port },
      type: 'A',
      timeoutMs: 500,
      useTcp: false,
      withEdns: true,
    } as const
    return exchange({ ...asked, name }, systemClock).then(
      () => true,
      () => false,
    )
  }
  const start = async (...more: string[]): Promise<void> => {
    for (let attempt = 0; attempt < 20; attempt++) {
      const fixed = [
        '--keep-in-foreground',
        '--conf-file=/dev/null',
        '--no-resolv',
        '--no-hosts',
        '--user=',
        '--pid-file=',
        '--log-facility=-',
      ]
      const own = [
        `--port=${port}`,
        '--listen-address=127.0.0.1',
        '--bind-interfaces',
        '--local=/farm/',
        `--addn-hosts=${hosts}`,
      ]
      const running = spawn('dnsmasq', [...fixed, ...own, ...options, ...more], { stdio: 'ignore' })
      child = running
      while (running.exitCode === null && running.signalCode === null) if (await isUp('up.farm.')) return
      // Somebody was faster to take the port.
      port = await freePort()
    }
    throw new Error('dnsmasq does not start')
  }
  const change = (text: string): void => {
    writeFileSync(hosts, text)
    child?.kill('SIGHUP')
  }
  return {
    get port() {
      return port
    },
    change,
    kill,
    start,
  }
}

const discoveryOf = async (
  t: Test,
  ports: readonly number[],
  changes: Partial<DnsSettings> = {},
  search = ['farm.'],
) => {
  stayAlive(t)
  const { happened, until } = events()
  const settings: DnsSettings = {
    servers: ports.map((port) => ({ host: '127.0.0.1', port })),
    timeout: 2_000,
    minTtl: 1_000,
    maxTtl: 60_000,
    family: 'both',
    srv: 'underscore',
    hosts: false,
    ...changes,
  }
  const world = {
    clock: systemClock,
    random: () => 0,
    counts: NO_COUNTS,
    readFile: () => ({ is: 'mistaken', problems: [] }) as const,
    warn: () => {},
  }
  const sources = await sourcesOf({ sources: [{ is: 'dns', settings }], search, idle: 60_000, maxNames: 100 }, world)
  const discovery = createDiscovery(sources, systemClock)
  t.teardown(discovery.close)
  const watch = (host: string, port = 80) => {
    const said: Resolution[] = []
    discovery.watch({ host, port }, (it) => {
      said.push(it)
      happened()
    })
    const last = () => shortly(said.at(-1)).split(' ').sort().join(' ')
    const is = (text: string) => until(() => last() === text.split(' ').sort().join(' '))
    return { said, last, is, full: () => said.at(-1) }
  }
  return { watch, discovery }
}

test('names of a real server: changed, aliased, empty, unknown, by SRV, and too many for UDP', {
  timeout: 60_000,
}, async (t) => {
  const server = await dnsmasq(
    t,
    '--local-ttl=1',
    '--cname=alias.farm,orders.farm',
    '--srv-host=_http._tcp.orders.farm,a.farm,8080,1,90',
    '--srv-host=_http._tcp.orders.farm,b.farm,8081,1,10',
    '--srv-host=_http._tcp.orders.farm,c.farm,8082,2,10',
    '--txt-record=text.farm,nothing else',
  )
  const many = Array.from({ length: 300 }, (_, i) => `10.2.${i >> 8}.${i & 255} many.farm`).join('\n')
  const hosts = (orders: string) => `${orders}\n10.1.0.1 a.farm\n10.1.0.2 b.farm\n10.1.0.3 c.farm\n${many}\n`
  server.change(hosts('10.0.0.1 orders.farm\nfd00::1 orders.farm'))
  await server.start()
  // The first server of the list is not there.
  const { watch, discovery } = await discoveryOf(t, [await freePort(), server.port])
  const orders = watch('orders', 8080)
  const [alias, none, text, elsewhere] = [watch('alias'), watch('none'), watch('text.farm.'), watch('elsewhere.')]
  const [srv, all] = [watch('_http._tcp.orders'), watch('many.farm.')]
  await orders.is('orders.farm. 10.0.0.1:8080 fd00::1:8080')
  await alias.is('alias.farm. 10.0.0.1:80 fd00::1:80')
  await text.is('text.farm.')
  await srv.is('_http._tcp.orders.farm. 10.1.0.1:8080 10.1.0.2:8081')
  const found = srv.full()
  t.same(found?.is === 'endpoints' && found.endpoints.map(({ weight }) => weight).sort(), [1000, 9000])
  while (all.said.length === 0) await new Promise((turn) => setTimeout(turn, 5))
  const first = all.full()
  t.equal(first?.is === 'endpoints' && first.endpoints.length, 300, 'by TCP')
  const errorOf = (host: string) => discovery.describe().find(({ asked }) => asked.host === host)?.error
  while (errorOf('elsewhere.') === undefined) await new Promise((turn) => setTimeout(turn, 5))
  t.match(errorOf('elsewhere.'), /REFUSED/)
  t.equal(elsewhere.last(), 'nothing', 'what cannot be looked up is not said to be absent')
  t.equal(none.said.length, 0, 'the root refuses, so nobody knows whether there is a name `none.`')

  const changedAt = performance.now()
  server.change(hosts('10.0.0.2 orders.farm'))
  await Promise.all([orders.is('orders.farm. 10.0.0.2:8080'), alias.is('alias.farm. 10.0.0.2:80')])
  t.comment(`a change was seen after ${Math.round(performance.now() - changedAt)} ms, with a TTL of 1 s`)
})

test('a server that is killed and comes back', { timeout: 60_000 }, async (t) => {
  const server = await dnsmasq(t, '--local-ttl=1', '--auth-ttl=1')
  server.change('10.0.0.1 orders.farm\n')
  await server.start()
  const { watch, discovery } = await discoveryOf(t, [server.port])
  const orders = watch('orders.farm.')
  const none = watch('none.farm.')
  await orders.is('orders.farm. 10.0.0.1:80')
  await none.is('absent, dns allowed')
  t.match(none.full(), { tried: ['none.farm.'] })
  await server.kill()
  await orders.is('stale orders.farm. 10.0.0.1:80')
  t.match(
    discovery.describe().find(({ asked }) => asked.host === 'orders.farm.'),
    { error: /ECONNREFUSED|did not answer/, watchers: 1 },
  )
  server.change('10.0.0.7 orders.farm\n')
  const revivedAt = performance.now()
  await server.start()
  await orders.is('orders.farm. 10.0.0.7:80')
  t.comment(`fresh ${Math.round(performance.now() - revivedAt)} ms after the server was started again`)
})

test('a TTL is honoured: no question before it ends', { timeout: 60_000 }, async (t) => {
  const server = await dnsmasq(t, '--local-ttl=2')
  server.change('10.0.0.1 orders.farm\n')
  await server.start()
  const { watch, discovery } = await discoveryOf(t, [server.port], { family: 'ipv4' })
  const orders = watch('orders.farm.')
  await orders.is('orders.farm. 10.0.0.1:80')
  const { refreshMs = 0 } = discovery.describe()[0]!
  t.ok(refreshMs > 0 && refreshMs <= 2_000, `${refreshMs} ms`)
  server.change('10.0.0.2 orders.farm\n')
  const changedAt = performance.now()
  await orders.is('orders.farm. 10.0.0.2:80')
  t.ok(performance.now() - changedAt >= refreshMs - 100, 'not before')
})
