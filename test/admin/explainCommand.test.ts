import { join } from 'node:path'
import { test } from 'tap'
import { explainCommand } from '../../src/admin/explainCommand.ts'
import { balanceRoutes } from '../../src/admin/liveBalance.ts'
import { startAdmin } from '../../src/admin/server.ts'
import { Balancers } from '../../src/forward/balancers.ts'
import { balancingOf } from '../../src/forward/balancing.ts'
import { endpoint } from '../support/balance.ts'
import { toldDiscovery } from '../support/discovery.ts'
import { manualClock } from '../support/manualClock.ts'
import { runCommand } from '../support/runCommand.ts'
import { policyOf } from '../support/world.ts'

const POLICY = `apiVersion: sluice/v1
rules:
  - name: off limits
    when: { direction: outbound, destination: 169.254.169.254 }
    then: { deny: true }
  - name: databases
    when: { direction: outbound, port: [3306, 5432] }
    then: { protocol: opaque, limits: { idle: 2h } }
  - name: shop
    when: { sni: "*.shop.example" }
    then: { upstream: { address: "10.9.9.9:443" } }
  - name: admin
    when: { path: /admin/** }
    then: { deny: true }
  - name: later
    then: { protocol: detect }
`

test('each rule in order, what it matched or which condition failed, and the verdict with its rules', async (t) => {
  const file = join(t.testdir({ 'policy.yaml': POLICY }), 'policy.yaml')
  const { code, out } = await runCommand(explainCommand, [
    '-c',
    file,
    '--direction',
    'outbound',
    '--destination',
    '10.0.0.5:3306',
  ])
  t.equal(code, 0)
  const [rules, verdict = ''] = out.replaceAll(file, 'policy.yaml').split(/^verdict: /m)
  t.equal(
    rules,
    `outbound, 127.0.0.1 to 10.0.0.5:3306

policy.yaml:3: off limits: does not match
  - destination: 169.254.169.254   it is 10.0.0.5:3306

policy.yaml:6: databases: matches
  + direction: outbound   it is outbound
  + port: [3306, 5432]   it is 3306
  = protocol: opaque   decides
  = limits.idle: 2h   decides

policy.yaml:9: shop: may match
  ? sni: "*.shop.example"   not known yet
  = upstream.address: 10.9.9.9:443   waits

policy.yaml:12: admin: may match
  ? path: /admin/**   not known yet
  = deny: true   waits

policy.yaml:15: later: matches
  = protocol: detect   outranked by databases (policy.yaml:6)

`,
  )
  const lines = verdict.split('\n').map((line) => line.trim().replace(/ +/g, ' '))
  t.equal(lines[0], 'not decided yet')
  const expected = [
    'deny waits for admin (policy.yaml:12)',
    'protocol opaque databases (policy.yaml:6)',
    'detect.timeout 5s built-in',
    'upstream waits for shop (policy.yaml:9)',
    'limits.idle 2h databases (policy.yaml:6)',
  ]
  for (const line of expected) t.ok(lines.includes(line), line)
})

test('the same as JSON', async (t) => {
  const file = join(t.testdir({ 'policy.yaml': POLICY }), 'policy.yaml')
  const request = ['--authority', 'Orders', '--path', '/x/../admin/1?q', '--header', 'X-A: 1', '--json']
  const { code, out } = await runCommand(explainCommand, ['-c', file, '--destination', '10.0.0.5:80', ...request])
  t.equal(code, 0)
  t.match(JSON.parse(out), {
    facts: {
      direction: 'outbound',
      destination: { host: '10.0.0.5', port: 80 },
      request: { method: 'GET', authority: 'orders', path: '/x/../admin/1' },
    },
    outcome: 'deny',
    rules: [
      { name: 'off limits', file, line: 3, matches: 'no' },
      {
        name: 'databases',
        matches: 'no',
        conditions: [
          { condition: 'direction', holds: 'yes' },
          { condition: 'port', holds: 'no', written: [3306, 5432], fact: '80' },
        ],
      },
      { name: 'shop', matches: 'no' },
      // biome-ignore lint/suspicious/noThenProperty: data that nobody awaits.
      { name: 'admin', matches: 'yes', then: [{ key: 'deny', value: true, is: 'decides' }] },
      { name: 'later', matches: 'yes' },
    ],
    verdict: {
      deny: { is: 'decided', key: 'deny', value: true, rule: { name: 'admin', file, line: 12 } },
      upstream: { is: 'decided', rule: { name: 'built-in' } },
      'limits.idle': { value: '1h', rule: { name: 'built-in', file: '', line: 0 } },
    },
  })
})

test('what flags rule out is known to be absent; --expect makes an answer an exit code', async (t) => {
  const file = join(t.testdir({ 'policy.yaml': POLICY }), 'policy.yaml')
  const cases: [string[], number, RegExp][] = [
    [['--protocol', 'opaque', '--expect', 'allow'], 0, /verdict: allowed/],
    [['--protocol', 'http1', '--expect', 'allow'], 1, /verdict: not decided yet/],
    [['--protocol', 'http1', '--path', '/a', '--expect', 'allow'], 0, /sni: "\*\.shop\.example" {3}there is none/],
    [['--path', '/admin', '--expect', 'allow'], 1, /verdict: denied/],
    [['--path', '/admin', '--expect', 'deny'], 0, /verdict: denied/],
    [
      ['--protocol', 'tls', '--sni', 'a.shop.example', '--alpn', 'h2', '--alpn', 'http/1.1'],
      0,
      /SNI a\.shop\.example, ALPN h2,http\/1\.1/,
    ],
    [
      ['--sni', 'none', '--peer', 'fd00::1', '--identity', 'none'],
      0,
      /outbound, fd00::1 to 10\.0\.0\.5:80, SNI none, identity none/,
    ],
  ]
  for (const [flags, code, said] of cases) {
    const ran = await runCommand(explainCommand, ['-c', file, '--destination', '10.0.0.5:80', ...flags])
    t.equal(ran.code, code, flags.join(' '))
    t.match(ran.out, said)
  }
})

test('wrong flags are usage errors; a policy that is not good is printed and exits with 1', async (t) => {
  const to = ['--destination', '1.1.1.1:1']
  const cases: [string[], RegExp][] = [
    [[], /--destination is missing/],
    [['--destination', 'x'], /'x' is not an address and port/],
    [[...to, '--direction', 'up'], /--direction is inbound or outbound, not 'up'/],
    [[...to, '--protocol', 'ftp'], /--protocol is tls or http1 or http2 or opaque, not 'ftp'/],
    [[...to, '--extension', 'x'], /--extension is a number/],
    [[...to, '--header', 'x'], /--header: 'x' is not 'NAME: VALUE'/],
    [[...to, '--expect', 'x'], /--expect is allow or deny/],
  ]
  for (const [flags, message] of cases) await t.rejects(runCommand(explainCommand, flags), { message })
  const file = join(t.testdir({ 'bad.yaml': 'rules: 3' }), 'bad.yaml')
  const ran = await runCommand(explainCommand, ['-c', file, '--destination', '1.1.1.1:1'])
  t.match(ran, { code: 1, out: '', err: /apiVersion is missing[\s\S]*expected a list, not 3/ })
  t.match(await runCommand(explainCommand, ['--destination', '1.1.1.1:1']), { code: 0, out: /verdict: allowed/ })
})

test('what a running proxy knows of a name', async (t) => {
  const balancers = new Balancers(
    manualClock(),
    () => 0,
    () => {},
  )
  const names = toldDiscovery()
  names.at('orders:80', endpoint(1), endpoint(2))
  balancers.ofName({ host: 'orders', port: 80 }, balancingOf(policyOf('').base), names)
  const admin = await startAdmin({
    address: { host: '127.0.0.1', port: 0 },
    routes: balanceRoutes(balancers, manualClock()),
  })
  t.teardown(() => admin.close())
  const at = `127.0.0.1:${admin.address.port}`
  const { code, out } = await runCommand(explainCommand, ['--name', 'orders', '--admin', at])
  t.equal(code, 0)
  t.match(
    out,
    /^orders:80 is orders\.farm\.svc\.cluster\.local\., from told; balanced by p2c\n {2}10\.0\.0\.1:80, weight 1, /,
  )
  t.match(JSON.parse((await runCommand(explainCommand, ['--name', 'orders', '--admin', at, '--json'])).out), [
    { asked: 'orders:80', endpoints: [{ state: 'ready' }, { state: 'ready' }] },
  ])
  admin.close()
  const gone = await runCommand(explainCommand, ['--name', 'orders', '--admin', at])
  t.equal(gone.code, 1)
  t.match(gone.err, /cannot be reached: /)
})
