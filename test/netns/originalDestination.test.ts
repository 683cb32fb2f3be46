import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'tap'

const ROOT = join(import.meta.dirname, '../..')
const ADDON = join(ROOT, 'build/test-netns-shim.node')
const PORT = 4140

test('behind real iptables the shim tells where IPv4, mapped and IPv6 clients were going', ({ same, end }) => {
  execFileSync(join(ROOT, 'scripts/build-native.sh'), [ADDON])
  const inside = `set -e
    ip link set lo up
    ip addr add 10.9.9.1/24 dev lo; ip -6 addr add fd00::1/64 dev lo
    ip route add local 10.9.9.9 dev lo; ip -6 route add local fd00::9 dev lo
    iptables -t nat -A OUTPUT -p tcp --dport 8080 -j REDIRECT --to-ports ${PORT}
    ip6tables -t nat -A OUTPUT -p tcp --dport 8080 -j REDIRECT --to-ports ${PORT}
    exec "$0" "$@"`
  const user = process.getuid?.() === 0 ? ['-n'] : ['-Urn']
  const program = [process.execPath, join(ROOT, 'test/support/redirectedPeers.ts'), ADDON, String(PORT)]
  const printed = execFileSync('unshare', [...user, 'sh', '-c', inside, ...program], { encoding: 'utf8' })
  same(JSON.parse(printed), [
    { host: '10.9.9.9', port: 8080 },
    { host: '10.9.9.9', port: 8080 },
    { host: 'fd00::9', port: 8080 },
  ])
  end()
})
