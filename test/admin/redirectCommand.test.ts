import { execFileSync } from 'node:child_process'
import { resolve } from 'node:path'
import fc from 'fast-check'
import { type Test, test } from 'tap'
import { RULE_OPTIONS, redirectCommand } from '../../src/admin/redirectCommand.ts'
import { type Io, parseCommand, UsageError } from '../../src/net/commandLine.ts'

const SCRIPT = resolve(import.meta.dirname, '../../scripts/iptables/redirect.sh')

const run = async (...argv: string[]): Promise<{ code: number; out: string; err: string }> => {
  const heard = { out: '', err: '' }
  const io: Io = {
    out: (text) => (heard.out += text),
    err: (text) => (heard.err += text),
    env: {},
    cwd: '/',
    stopped: new Promise(() => {}),
    onReload: () => {},
  }
  const code = await redirectCommand.run(parseCommand(redirectCommand, argv), io)
  return { code, ...heard }
}

const print = async (...flags: string[]): Promise<{ ipv4: string[]; ipv6: string[] }> =>
  JSON.parse((await run('print', '--json', '--ipv6', 'on', ...flags)).out)

const isUsageError = async (t: Test, argv: string[], message: RegExp) => {
  await t.rejects(run(...argv), { constructor: UsageError, message })
}

test('the rules of both families differ only in what loopback is', async (t) => {
  const { ipv4, ipv6 } = await print()
  t.equal(ipv4.join('\n').replace('127.0.0.0/8', '::1/128'), ipv6.join('\n'))
  t.match(ipv4.join('\n'), /--uid-owner 2102 .*-j RETURN[\s\S]*--to-ports 4140\n/)
})

test('without IPv6 only the rules of IPv4 are printed', async (t) => {
  const { out } = await run('print', '--ipv6', 'off')
  t.match(out, /^# IPv4/)
  t.notMatch(out, /IPv6/)
})

test('CIDRs go to the table of their family, callers by source and destinations by destination', async (t) => {
  const { ipv4, ipv6 } = await print(
    ...['--skip-inbound-cidrs', '10.0.0.0/8,fd00::/8,192.0.2.7'],
    ...['--skip-outbound-cidrs', '2001:db8::1,172.16.0.0/12'],
  )
  const cidrs = (rules: string[]) =>
    rules.flatMap((rule) => /^-A (\w+) (-[sd] \S+) .*leave alone/.exec(rule)?.slice(1).join(' ') ?? [])
  t.same(cidrs(ipv4), [
    'SLUICE_INBOUND -s 10.0.0.0/8',
    'SLUICE_INBOUND -s 192.0.2.7',
    'SLUICE_OUTBOUND -d 172.16.0.0/12',
  ])
  t.same(cidrs(ipv6), ['SLUICE_INBOUND -s fd00::/8', 'SLUICE_OUTBOUND -d 2001:db8::1'])
})

test('only the ports that are named are redirected, and what is skipped stays skipped', async (t) => {
  const { ipv4 } = await print(
    '--only-inbound-ports',
    '80,443',
    '--only-outbound-ports',
    '1024-65535',
    '--skip-outbound-ports',
    '5432',
  )
  const redirects = ipv4.filter((rule) => rule.includes('REDIRECT'))
  t.equal(redirects.length, 2)
  t.match(redirects[0], /SLUICE_INBOUND -p tcp -m multiport --dports 80,443 .*--to-ports 4143/)
  t.match(redirects[1], /SLUICE_OUTBOUND -p tcp -m multiport --dports 1024:65535 .*--to-ports 4140/)
  t.ok(ipv4.findIndex((rule) => rule.includes('5432')) < ipv4.indexOf(redirects[1]!))
})

test('every port that is named is in exactly one rule, and no rule has more than 15 slots', async () => {
  const port = fc.integer({ min: 1, max: 65_535 })
  const item = fc.oneof(
    port.map(String),
    fc.tuple(port, port, fc.constantFrom('-', ':')).map(([a, b, dash]) => `${Math.min(a, b)}${dash}${Math.max(a, b)}`),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(item, { minLength: 1, maxLength: 50 }), async (items) => {
      const { ipv4 } = await print('--admin-port', '', '--skip-inbound-ports', items.join(','))
      const groups = ipv4.flatMap((rule) => /INBOUND .*--dports (\S+) .*RETURN/.exec(rule)?.[1] ?? [])
      const slots = (group: string) => group.split(/[,:]/).length
      return groups.every((group) => slots(group) <= 15) && groups.join(',') === items.join(',').replaceAll('-', ':')
    }),
    { numRuns: 10 }, // each run is a process
  )
})

test('a mistake in a flag is an error that names it, and never a rule', async (t) => {
  const table: readonly (readonly [flag: string, value: string, message: RegExp])[] = [
    ['--skip-inbound-ports', '90-80', /--skip-inbound-ports: the range '90-80' is empty/],
    ['--skip-inbound-ports', '80-', /--skip-inbound-ports: '80-' is neither a port/],
    ['--skip-outbound-ports', '0', /--skip-outbound-ports: '0' is neither a port/],
    ['--skip-outbound-ports', '65536', /--skip-outbound-ports: '65536' is neither/],
    ['--skip-outbound-ports', '1-2-3', /--skip-outbound-ports: '1-2-3'/],
    ['--skip-outbound-ports', '*', /--skip-outbound-ports: '\*'/],
    ['--skip-outbound-ports', '80,,443', /--skip-outbound-ports: .* empty item/],
    ['--skip-outbound-ports', '80 443', /--skip-outbound-ports: .* space/],
    ['--only-inbound-ports', 'http', /--only-inbound-ports: 'http'/],
    ['--only-outbound-ports', '443,', /--only-outbound-ports: .* empty item/],
    ['--inbound-port', '0', /--inbound-port: '0' is not a port/],
    ['--inbound-port', '4140', /--inbound-port and --outbound-port are both 4140/],
    ['--proxy-uid', 'sluice', /--proxy-uid: 'sluice' is not a number/],
    ['--proxy-uid', '', /--proxy-uid, --proxy-gid and --proxy-mark are all empty/],
    ['--proxy-mark', '0xg', /--proxy-mark: '0xg'/],
    ['--skip-inbound-cidrs', '10.0.0.0/33', /--skip-inbound-cidrs: '10.0.0.0\/33'/],
    ['--skip-inbound-cidrs', '10.0.0', /--skip-inbound-cidrs: '10.0.0'/],
    ['--skip-inbound-cidrs', '256.0.0.1', /--skip-inbound-cidrs: '256.0.0.1'/],
    ['--skip-outbound-cidrs', 'example.org', /--skip-outbound-cidrs: 'example.org'/],
    ['--skip-outbound-cidrs', 'fd00::/129', /--skip-outbound-cidrs: 'fd00::\/129'/],
    ['--skip-outbound-cidrs', 'fd00::1::2', /--skip-outbound-cidrs: 'fd00::1::2'/],
    ['--skip-outbound-cidrs', '1:2:3:4:5:6:7', /--skip-outbound-cidrs/],
    ['--skip-outbound-cidrs', '1:2:3:4:5:6:7:8:9', /--skip-outbound-cidrs/],
    ['--skip-outbound-cidrs', ':1:2:3:4:5:6:7', /--skip-outbound-cidrs/],
    ['--ipv6', 'maybe', /--ipv6: 'maybe' is not one of/],
    ['--backend', 'ebtables', /--backend: 'ebtables' is not one of/],
  ]
  for (const [flag, value, message] of table) {
    for (const verb of ['print', 'apply', 'verify', 'remove'])
      await isUsageError(t, [verb, `${flag}=${value}`], message)
  }
  for (const good of ['::', '::/0', 'fd00::', '1:2:3:4:5:6:7:8', '1:2:3:4:5:6:7::', '::ffff', '0.0.0.0/0']) {
    t.equal((await run('print', '--skip-outbound-cidrs', good)).code, 0, good)
  }
})

test('an unknown verb, too many words, a probe or a timeout that is none, are wrong usage', async (t) => {
  await isUsageError(t, [], /say what to do/)
  await isUsageError(t, ['dance'], /'dance'/)
  await isUsageError(t, ['print', 'more'], /unexpected 'more'/)
  await isUsageError(t, ['verify', '--probe', 'example.org:80'], /--probe: 'example.org:80'/)
  await isUsageError(t, ['verify', '--timeout', '0'], /--timeout: '0'/)
})

test('the command and the script know the same flags', async (t) => {
  const help = execFileSync('bash', [SCRIPT, '--help'], { encoding: 'utf8' })
  const flags = [...help.matchAll(/^ {2}--([\w-]+)/gm)].map(([, flag]) => flag!)
  t.same(flags.sort(), Object.keys(RULE_OPTIONS).sort())
})
