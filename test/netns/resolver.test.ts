import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join, resolve } from 'node:path'
import { test } from 'tap'

/**
 * The C library as the judge of how this host resolves names: in namespaces of their own for network and mounts, with
 * files of ours in /etc and dnsmasq on port 53, `getent` and the source `dns` are asked the same.
 */
const NAMES = [
  'orders',
  'ORDERS',
  'orders.',
  'orders.farm',
  'orders.farm.',
  'only',
  'only.svc',
  'only.svc.farm',
  'empty',
  'alias',
  'fixed',
  'fixed.farm',
  'both',
  'none',
  'none.farm',
  'a.b.c',
]

const RECORDS = `10.0.0.1 orders.farm
10.0.0.11 orders.farm
10.0.0.2 orders.svc.farm
10.0.0.3 only.svc.farm
fd00::4 empty.farm
10.0.0.4 empty.svc.farm
10.0.0.5 both.farm
10.0.0.6 a.b.c
10.0.0.7 a.b.c.farm
`

const HOSTS = '127.0.0.1 localhost\n10.1.0.1 fixed one\n10.1.0.2 fixed\n10.1.0.3 both\nfd00::9 none\n'

const SCENES: readonly (readonly [resolvConf: string, nsswitch: string])[] = [
  ['search farm svc.farm', 'files dns'],
  ['search farm. svc.farm.\noptions ndots:5', 'files dns'],
  ['search svc.farm farm\noptions ndots:2 rotate', 'dns files'],
  ['domain farm', 'files [NOTFOUND=return] dns'],
  ['domain farm\nsearch svc.farm', 'dns [!UNAVAIL=return] files'],
  ['options ndots:0\nsearch farm', 'files'],
  ['search farm\noptions use-vc', 'files [SUCCESS=return] dns'],
]

const ROOT = resolve(import.meta.dirname, '../..')

test('names are resolved as the C library resolves them', { timeout: 120_000 }, async (t) => {
  const directory = t.testdir({
    records: RECORDS,
    hosts: HOSTS,
    ...Object.fromEntries(
      // The first server is not there.
      SCENES.map(([conf], at) => [`resolv${at}`, `nameserver 127.0.0.9\nnameserver 127.0.0.1\n${conf}\n`]),
    ),
    ...Object.fromEntries(SCENES.map(([, order], at) => [`nsswitch${at}`, `hosts: ${order}\n`])),
    empty: '',
  })
  const node = join(ROOT, 'node_modules/.bin/node')
  const script = `
set -e
ip link set lo up
# getent asks for nothing where there is no address but loopback.
ip address add 10.99.0.1/32 dev lo
mount --bind "$1/hosts" /etc/hosts
dnsmasq --conf-file="$1/empty" --no-resolv --no-hosts --addn-hosts="$1/records" --user= --pid-file= \\
  --listen-address=127.0.0.1 --bind-interfaces --local=/#/ --cname=alias.farm,orders.farm --keep-in-foreground --log-facility=- 2>/dev/null &
server=$!
trap 'kill $server' EXIT
for scene in ${SCENES.map((_, at) => at).join(' ')}; do
  mount --bind "$1/resolv$scene" /etc/resolv.conf
  mount --bind "$1/nsswitch$scene" /etc/nsswitch.conf
  if [ $scene = 0 ]; then until getent ahostsv4 orders.farm. >/dev/null; do kill -0 $server || exit 9; sleep 0.05; done; fi
  for name in ${NAMES.join(' ')}; do
    echo "$scene $name $(getent ahostsv4 $name | awk '$2 == "STREAM" { print $1 }' | sort -u | tr '\\n' ' ')"
  done
  echo "$scene ours $("$2" "$3" ${NAMES.join(' ')})"
  umount /etc/resolv.conf /etc/nsswitch.conf
done
`
  const isRoot = process.getuid?.() === 0
  const program = [
    'unshare',
    ...(isRoot ? [] : ['-Ur']),
    '-n',
    '-m',
    '-p',
    '-f',
    '--kill-child',
    'bash',
    '-c',
    script,
    'bash',
    directory,
    node,
  ]
  const [command = '', ...args] = ['env', '-u', 'NODE_OPTIONS', ...program, join(ROOT, 'test/support/lookUp.ts')]
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => child.kill('SIGKILL'))
  let [out, err] = ['', '']
  child.stdout.on('data', (bytes: Buffer) => (out += bytes))
  child.stderr.on('data', (bytes: Buffer) => (err += bytes))
  const [code] = await once(child, 'close')
  t.equal(code, 0, err)
  const lines = out.trim().split('\n')
  let found = 0
  for (const [scene] of SCENES.entries()) {
    const ours = JSON.parse(lines.find((line) => line.startsWith(`${scene} ours `))?.slice(7) ?? '{}')
    for (const name of NAMES) {
      const theirs =
        lines
          .find((line) => line.startsWith(`${scene} ${name} `))
          ?.trim()
          .split(' ')
          .slice(2)
          .sort() ?? []
      t.same(ours[name], theirs, `${name} with ${SCENES[scene]!.join('; ')}`)
      found += theirs.length
    }
  }
  t.ok(found > 40, `${found} addresses in all: the C library found something`)
})
