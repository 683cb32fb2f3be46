import { spawn } from 'node:child_process'
import { networkInterfaces } from 'node:os'
import { fileURLToPath } from 'node:url'
import { type Address, parseAddress } from '../net/address.ts'
import { type Arguments, type Command, type Io, type Option, single, UsageError } from '../net/commandLine.ts'
import { type Probe, type ProbeResult, sendProbe } from './redirectProbe.ts'

const SCRIPT = fileURLToPath(new URL('../../scripts/iptables/redirect.sh', import.meta.url))
const VERIFY_FAILED = 95 // what validators of this kind exit with, and what repair controllers look for
// Addresses for documentation, which nobody has; but should this host have the first, the second will do.
const OUTBOUND_PROBES = [
  ['192.0.2.2', '198.51.100.2'],
  ['2001:db8::2', '2001:db8:2::2'],
]
const PROBE_PORT = 1404

/** The flags of scripts/iptables/redirect.sh, which checks their values; a test holds the two lists together. */
export const RULE_OPTIONS: Readonly<Record<string, Option>> = {
  'inbound-port': { value: 'PORT', help: 'the inbound listener of the proxy (4143)' },
  'outbound-port': { value: 'PORT', help: 'the outbound listener of the proxy (4140)' },
  'admin-port': { value: 'PORT', help: "health and metrics, reached without the proxy (4191; '' for none)" },
  'proxy-uid': { value: 'UID', help: 'the user the proxy runs as; its own connections are left alone (2102)' },
  'proxy-gid': { value: 'GID', help: 'the same by group' },
  'proxy-mark': { value: 'MARK', help: 'the same by the mark that sockets.mark of its policy sets' },
  'skip-inbound-ports': { value: 'PORTS', help: 'ports of the workload to leave alone: 22,8000-8010' },
  'skip-outbound-ports': { value: 'PORTS', help: 'ports elsewhere to leave alone' },
  'skip-inbound-cidrs': { value: 'CIDRS', help: 'callers to leave alone, IPv4 and IPv6 mixed: 10.0.0.0/8,fd00::/8' },
  'skip-outbound-cidrs': { value: 'CIDRS', help: 'destinations to leave alone' },
  'only-inbound-ports': { value: 'PORTS', help: 'redirect these ports of the workload and no others' },
  'only-outbound-ports': { value: 'PORTS', help: 'redirect these ports elsewhere and no others' },
  ipv6: { value: 'auto|on|off', help: 'auto: where the kernel has IPv6, and then it must work (auto)' },
  backend: { value: 'auto|nft|legacy', help: "which of the kernel's packet filters; auto: the one in use (auto)" },
}

/** `sluice redirect`: the iptables rules that bring connections here, and the proof that they do. */
export const redirectCommand: Command = {
  name: 'redirect',
  summary: 'the iptables rules that bring connections to the proxy',
  usage: 'print|apply|verify|remove [options]',
  options: {
    ...RULE_OPTIONS,
    probe: { value: 'IP:PORT', help: 'verify: where to send the outbound probe (192.0.2.2:1404, [2001:db8::2]:1404)' },
    timeout: { value: 'SECONDS', help: 'verify: how long a probe may take (10)' },
    json: { help: 'print, verify: JSON' },
  },
  examples: [
    'sluice redirect print --skip-outbound-ports 25,3306',
    'sluice redirect apply --proxy-uid 2102 && sluice redirect verify   # exits 95 when a probe does not come through',
  ],
  run: async (args, io) => {
    const [verb, ...more] = args.positionals
    if (more.length > 0) throw new UsageError(`unexpected '${more[0]}'`)
    if (verb === 'print') return print(args, io)
    if (verb === 'verify') return verify(args, io)
    if (verb === 'apply' || verb === 'remove') return passOn(await script(verb, args), io)
    throw new UsageError(
      verb === undefined ? 'say what to do: print, apply, verify or remove' : `unknown verb '${verb}'`,
    )
  },
}

interface Ran {
  readonly code: number
  readonly out: string
  readonly err: string
}

const script = (verb: string, args: Arguments): Promise<Ran> =>
  new Promise((resolve, reject) => {
    const flags = Object.keys(RULE_OPTIONS).flatMap((name) => {
      const value = single(args, name)
      return value === undefined ? [] : [`--${name}`, value]
    })
    const child = spawn('bash', [SCRIPT, verb, ...flags], { stdio: ['ignore', 'pipe', 'pipe'] })
    const heard = { out: '', err: '' }
    child.stdout.on('data', (bytes: Buffer) => (heard.out += bytes.toString()))
    child.stderr.on('data', (bytes: Buffer) => (heard.err += bytes.toString()))
    child.once('error', reject)
    child.once('close', (code) => resolve({ code: code ?? 1, ...heard }))
  })

const passOn = ({ code, out, err }: Ran, io: Io): number => {
  if (code === 2) throw new UsageError(err.trim().replace(/^redirect: /, ''))
  if (out !== '') io.out(out)
  if (err !== '') io.err(err)
  return code
}

const print = async (args: Arguments, io: Io): Promise<number> => {
  const ran = await script('print', args)
  if (ran.code !== 0 || args.values.json !== true) return passOn(ran, io)
  const [ipv4 = [], ipv6 = []] = ran.out.split('*nat\n').slice(1).map(rulesOf)
  io.out(`${JSON.stringify({ ipv4, ipv6 })}\n`)
  return 0
}

const rulesOf = (transaction: string): string[] => transaction.split('\n').filter((line) => /^[:-]/.test(line))

const verify = async (args: Arguments, io: Io): Promise<number> => {
  const timeoutMs = seconds(args) * 1_000
  const probes = probesFor(args)
  const inPlace = await script('check', args)
  if (inPlace.code === 2) return passOn(inPlace, io)
  const results: ProbeResult[] = [
    { name: 'rules', result: inPlace.code === 0 ? 'passed' : 'failed', detail: (inPlace.out + inPlace.err).trim() },
  ]
  for (const probe of probes) results.push(await sendProbe(probe, timeoutMs))
  // A pod may lack one family, but a verification in which nothing at all came through has shown nothing.
  const oneCame = results.slice(1).some(({ result }) => result === 'passed')
  const passed = oneCame && results.every(({ result }) => result !== 'failed')
  if (args.values.json === true) io.out(`${JSON.stringify({ passed, results })}\n`)
  else for (const { name, result, detail } of results) io.out(`${result.padEnd(7)}  ${name}: ${detail}\n`)
  if (!passed) io.err('redirect: the redirect does not work\n')
  return passed ? 0 : VERIFY_FAILED
}

const probesFor = (args: Arguments): Probe[] => {
  const families = single(args, 'ipv6') === 'off' ? [4] : [4, 6]
  const listener = (family: number, flag: string, otherwise: number): Address => ({
    host: family === 4 ? '127.0.0.1' : '::1',
    port: Number(single(args, flag) ?? otherwise),
  })
  const outbound = outboundProbes(args).flatMap((to) => {
    const family = to.host.includes(':') ? 6 : 4
    const probe = { name: `outbound IPv${family}`, to, listener: listener(family, 'outbound-port', 4140) }
    return families.includes(family) ? [probe] : []
  })
  // A call to an address of our own takes the inbound rules, so both directions can be tried from inside.
  const inbound = families.flatMap((family) => {
    const host = ownAddress(family)
    if (host === undefined) return []
    const to = { host, port: firstPort(single(args, 'only-inbound-ports')) }
    return [{ name: `inbound IPv${family}`, to, listener: listener(family, 'inbound-port', 4143) }]
  })
  return [...outbound, ...inbound]
}

const outboundProbes = (args: Arguments): Address[] => {
  const given = single(args, 'probe')
  const port = firstPort(single(args, 'only-outbound-ports'))
  if (given === undefined) return OUTBOUND_PROBES.map((hosts) => ({ host: hosts.find((host) => !isOurs(host))!, port }))
  const address = parseAddress(given)
  if (address !== undefined && /^[0-9.]+$|:/.test(address.host)) return [address]
  throw new UsageError(`--probe: '${given}' is not an address and a port such as 192.0.2.2:1404 or [2001:db8::2]:1404`)
}

const firstPort = (only: string | undefined): number => (only ? Number.parseInt(only, 10) : PROBE_PORT)

const isOurs = (host: string): boolean =>
  Object.values(networkInterfaces()).some((each) => each?.some(({ address }) => address === host))

const ownAddress = (family: number): string | undefined =>
  Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .find((each) => each.family === `IPv${family}` && !each.internal && !each.address.startsWith('fe80:'))?.address

const seconds = (args: Arguments): number => {
  const given = Number(single(args, 'timeout') ?? 10)
  if (given > 0 && given <= 3_600) return given
  throw new UsageError(`--timeout: '${single(args, 'timeout')}' is not a number of seconds`)
}
