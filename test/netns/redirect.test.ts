import { resolve } from 'node:path'
import { type Test, test } from 'tap'
import { type Family, type Finished, openLab, type Space } from '../support/netns.ts'

const ROOT = resolve(import.meta.dirname, '../..')
const SCRIPT = `${ROOT}/scripts/iptables/redirect.sh`
const BACKENDS = ['nft', 'legacy'] as const
const TOOLS = { 4: 'iptables', 6: 'ip6tables' } as const
const FAMILIES: readonly Family[] = [4, 6]

const lab = await openLab()
const { pod, peer } = lab

const sluice = (...args: string[]): Promise<Finished> => pod.run([`${ROOT}/bin/sluice`, 'redirect', ...args])

const good = async (t: Test, ran: Promise<Finished>): Promise<string> => {
  const { code, out, err } = await ran
  t.equal(code, 0, `${out}${err}`)
  return out
}

/** Both tables without their counters and comments. */
const tables = async (backend: string): Promise<string> => {
  const dumps = FAMILIES.map(async (family) => (await pod.run([`${TOOLS[family]}-${backend}-save`, '-t', 'nat'])).out)
  return (await Promise.all(dumps)).join('').replace(/^#.*\n|\[\d+:\d+\]/gm, '')
}

/** Rules of somebody else, which must survive whatever we do. */
const foreign = async (backend: string): Promise<void> => {
  await pod.run([
    `iptables-${backend}`,
    '-t',
    'nat',
    '-A',
    'OUTPUT',
    '-p',
    'udp',
    '--dport',
    '53',
    '-j',
    'REDIRECT',
    '--to-ports',
    '5353',
  ])
  await pod.run([`iptables-${backend}`, '-t', 'nat', '-N', 'THEIRS'])
  await pod.run([`iptables-${backend}`, '-t', 'nat', '-A', 'PREROUTING', '-p', 'tcp', '--dport', '9', '-j', 'THEIRS'])
  await pod.run([`ip6tables-${backend}`, '-t', 'nat', '-A', 'POSTROUTING', '-o', 'eth9', '-j', 'MASQUERADE'])
}

const clear = async (backend: string): Promise<void> => {
  for (const family of FAMILIES) {
    for (const flag of ['-F', '-X']) await pod.run([`${TOOLS[family]}-${backend}`, '-t', 'nat', flag])
  }
}

/** Greets every connection to these ports with the port it came out at. */
const listenEverywhere = (where: Space, ports: readonly number[]) =>
  where.evaluate(async ({ net, here }, list) => {
    here.servers = list.map((port) => net.createServer((socket) => socket.on('error', () => {}).end(`${port}`)))
    await Promise.all(
      here.servers.map(
        (server: import('node:net').Server, i: number) =>
          new Promise<void>((done) => server.listen(list[i], '::', done)),
      ),
    )
  }, ports)

/** Which port answers a connection from one of the namespaces. */
const answered = async (from: Space, host: string, port: number, as?: readonly string[]): Promise<string> => {
  // nc says by its exit code what went wrong; what it prints is the answer.
  if (as !== undefined) return (await from.run(['nc', '-d', '-w', '3', host, `${port}`], { as })).out
  return await from.evaluate(
    ({ net }, to) =>
      new Promise<string>((settle) => {
        const socket = net.connect(to)
        socket.on('data', (bytes) => settle(bytes.toString()))
        socket.on('error', ({ message }) => settle(message))
        socket.setTimeout(3_000, () => settle('silence'))
        socket.on('close', () => settle('nothing'))
      }),
    { host, port },
  )
}

test('each backend: applied twice is applied once, and removed is as it was', async (t) => {
  for (const backend of BACKENDS) {
    await foreign(backend)
    const before = await tables(backend)
    const flags = [
      '--backend',
      backend,
      '--skip-outbound-ports',
      '1-14,25,3306',
      '--skip-inbound-cidrs',
      '10.1.0.0/16,fd01::/16',
    ]
    t.match(await good(t, sluice('apply', ...flags)), /applied to IPv4 and IPv6 \((nft|legacy)\)/)
    const once = await tables(backend)
    t.match(
      once,
      /-A PREROUTING -p tcp .* -j SLUICE_INBOUND\n-A PREROUTING -p tcp -m tcp --dport 9 -j THEIRS/,
      'ours comes first',
    )
    t.match(await good(t, sluice('apply', ...flags)), /already in place/)
    t.equal(await tables(backend), once)
    await good(t, sluice('apply', '--backend', backend))
    t.not(await tables(backend), once, 'new flags replace the old rules')
    t.match(await good(t, sluice('remove')), new RegExp(`removed \\(${backend}\\)`))
    t.equal(await tables(backend), before)
    t.match(await good(t, sluice('remove')), /nothing to remove/)
    await clear(backend)
  }
})

test('the backend in use is found, and rules of the other one go when ours are applied', async (t) => {
  await good(t, sluice('apply', '--backend', 'legacy'))
  t.match(
    await good(t, sluice('apply')),
    /already in place .*legacy/,
    'rules in legacy tables mean that legacy is in use',
  )
  await good(t, sluice('apply', '--backend', 'nft'))
  t.notMatch(await tables('legacy'), /SLUICE/)
  t.match(await good(t, sluice('apply')), /already in place .*nft/)
  await good(t, sluice('remove'))
})

test('when IPv6 is refused, IPv4 stays as it was', async (t) => {
  for (const backend of BACKENDS) {
    await good(t, sluice('apply', '--backend', backend, '--skip-outbound-ports', '25'))
    const before = await tables(backend)
    // An ip6tables-restore that passes the trial and fails in earnest, as a missing kernel module makes it.
    const fake = `#!/bin/sh\ncase "$*" in *--test*) cat >/dev/null ;; *) cat >/dev/null; echo 'no such module' >&2; exit 1 ;; esac\n`
    const bin = `${lab.directory}/bin`
    await pod.run(['bash', '-c', `mkdir -p ${bin} && cat >${bin}/ip6tables-${backend}-restore && chmod +x ${bin}/*`], {
      input: fake,
    })
    const { code, err } = await pod.run(['bash', SCRIPT, 'apply', '--backend', backend], {
      env: { PATH: `${bin}:${process.env.PATH}` },
    })
    t.equal(code, 1)
    t.match(err, /no such module[\s\S]*the IPv6 rules were refused; IPv4 is as it was before/)
    t.equal(await tables(backend), before)
    await good(t, sluice('remove'))
  }
})

test('connections come out where the rules say', async (t) => {
  await listenEverywhere(pod, [4140, 4143, 4191, 80, 81])
  await listenEverywhere(peer, [70, 71, 72])
  for (const backend of BACKENDS) {
    const flags = [
      '--skip-inbound-ports',
      '81',
      '--skip-outbound-ports',
      '71-72',
      '--skip-outbound-cidrs',
      '198.51.100.0/24,2001:db8:1::/48',
    ]
    await good(t, sluice('apply', '--backend', backend, '--proxy-gid', '2103', ...flags))
    for (const family of FAMILIES) {
      const [here, there] = [pod.addresses[family], peer.addresses[family]]
      const loopback = family === 4 ? '127.0.0.1' : '::1'
      const nobody = family === 4 ? '203.0.113.9' : '2001:db8:2::9'
      const cases: readonly (readonly [what: string, answer: Promise<string>, expected: string])[] = [
        ['the workload calls out', answered(pod, there, 70), '4140'],
        ['it calls an address that nobody has', answered(pod, nobody, 1), '4140'],
        ['it calls a port to leave alone', answered(pod, there, 71), '71'],
        ['the last of the range', answered(pod, there, 72), '72'],
        ['the proxy calls out', answered(pod, there, 70, ['setpriv', '--reuid', '2102']), '70'],
        [
          'the proxy by its group calls out',
          answered(pod, there, 70, ['setpriv', '--regid', '2103', '--clear-groups']),
          '70',
        ],
        ['the proxy calls the workload at its address', answered(pod, here, 80, ['setpriv', '--reuid', '2102']), '80'],
        ['loopback', answered(pod, loopback, 80), '80'],
        ['the workload calls its own address', answered(pod, here, 80), '4143'],
        ['it calls its own address at a port to leave alone', answered(pod, here, 81), '81'],
        ['the world calls in', answered(peer, here, 80), '4143'],
        ['the world calls a port where nobody listens', answered(peer, here, 4444), '4143'],
        ['the world calls a port to leave alone', answered(peer, here, 81), '81'],
        ['the world asks for health', answered(peer, here, 4191), '4191'],
      ]
      for (const [what, answer, expected] of cases) t.equal(await answer, expected, `${backend}, IPv${family}: ${what}`)
    }
    await good(t, sluice('remove'))
  }
})

test('only the ports that were named, and none of the callers to leave alone', async (t) => {
  const flags = ['--only-inbound-ports', '80', '--only-outbound-ports', '70-71']
  await good(t, sluice('apply', ...flags))
  t.equal(await answered(pod, peer.addresses[4], 70), '4140')
  t.equal(await answered(pod, peer.addresses[4], 72), '72')
  t.equal(await answered(peer, pod.addresses[6], 80), '4143')
  t.equal(await answered(peer, pod.addresses[6], 81), '81')
  await good(t, sluice('apply', '--skip-inbound-cidrs', `${peer.addresses[4]}/24,${peer.addresses[6]}`))
  for (const family of FAMILIES) t.equal(await answered(peer, pod.addresses[family], 80), '80', `IPv${family}`)
  await good(t, sluice('remove'))
})

test('verify sends probes through the redirect, and exits with 95 when one does not come through', async (t) => {
  const results = async (seconds: number) => {
    const { code, out } = await sluice('verify', '--json', '--timeout', `${seconds}`)
    return {
      code,
      ...(JSON.parse(out) as { passed: boolean; results: { name: string; result: string; detail: string }[] }),
    }
  }
  const without = await results(0.5)
  t.equal(without.code, 95)
  t.same(
    without.results.map(({ result }) => result),
    Array(5).fill('failed'),
  )

  await good(t, sluice('apply'))
  const proxyRuns = await results(10)
  t.equal(proxyRuns.code, 0)
  t.match(proxyRuns.results[1], { name: 'outbound IPv4', result: 'passed', detail: /where the proxy accepted/ })
  await pod.evaluate(({ here }) => {
    for (const server of here.servers) server.close()
  }, null)
  const standIn = await results(10)
  t.equal(standIn.code, 0)
  t.same(
    standIn.results.map(({ name, result }) => `${name} ${result}`),
    ['rules passed', 'outbound IPv4 passed', 'outbound IPv6 passed', 'inbound IPv4 passed', 'inbound IPv6 passed'],
  )
  t.match(standIn.results[1]?.detail, /our own secret came back/)

  await good(t, pod.run(['iptables-nft', '-t', 'nat', '-I', 'OUTPUT', '-p', 'tcp', '-j', 'ACCEPT']))
  const bypassed = await results(1)
  t.equal(bypassed.code, 95)
  t.match(bypassed.results[0]?.detail, /in IPv4 OUTPUT a rule stands before ours/)
  t.equal(bypassed.results[1]?.result, 'failed')
  t.equal(bypassed.results[2]?.result, 'passed', 'IPv6 still works')
  await good(t, pod.run(['iptables-nft', '-t', 'nat', '-D', 'OUTPUT', '-p', 'tcp', '-j', 'ACCEPT']))
  await good(t, sluice('remove'))
})

test('the lab goes', async () => {
  await lab.close()
})
