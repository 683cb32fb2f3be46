#!/usr/bin/env bash
# Makes this checkout ready to run and to test. Run it as often as you like: what is done already is not done again.
# Needs: Debian (or the programs below by other means), git, Node 20 or later with npm, a C compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin"

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

# One program a line: the command (or path) that shows it is there, the Debian package which brings it, what it is for.
PACKAGES='
cc                   gcc                 builds the shim
git                  git                 the checkout
ip                   iproute2            network namespaces of tests and demo
unshare              util-linux          the same without root
iptables-nft         iptables            the redirect
iptables-legacy      iptables            the redirect
tcpdump              tcpdump             tests: captures
tshark               tshark              tests: a second opinion on captures
groff                groff-base          tests: the manual page
chromium             chromium            tests: the live page
promtool             prometheus          tests: metrics
curl                 curl                tests and demo: HTTP
nghttp               nghttp2-client      tests and demo: HTTP/2
nghttpx              nghttp2-proxy       tests and benchmark: HTTP/2
nghttpd              nghttp2-server      benchmark: HTTP/2
sslscan              sslscan             tests: TLS versions and ciphers
openssl              openssl             tests and demo: TLS
mariadbd             mariadb-server      tests: the server speaks first
mariadb              mariadb-client      tests: the server speaks first
sshd                 openssh-server      tests: the server speaks first
ssh                  openssh-client      tests: the server speaks first
postfix              postfix             tests: the server speaks first
haproxy              haproxy             tests: PROXY protocol; benchmark
nginx                nginx               tests and benchmark: a peer
wrk                  wrk                 benchmark
valgrind             valgrind            tests: memory of the pump
ab                   apache2-utils       benchmark
strace               strace              tests: what the kernel was asked
dnsmasq              dnsmasq-base        tests: names
clang                clang               tests: the shim under its sanitizers
nc                   netcat-openbsd      tests: bare TCP
python3              python3             tests: clients and servers that others wrote
/usr/lib/python3/dist-packages/requests python3-requests tests: the client of a process engine
aiosmtpd             python3-aiosmtpd    tests: a real SMTP server
/usr/sbin/vsftpd     vsftpd              tests: a real FTP server
'

missing_packages() {
  while read -r command package _; do
    [ -z "$command" ] || [[ $command == /* && -e $command ]] || command -v "$command" >/dev/null || echo "$package"
  done <<<"$PACKAGES" | sort -u
}

install_packages() {
  local missing
  missing=$(missing_packages | tr '\n' ' ')
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing Debian packages: $missing"
    apt-get update -qq </dev/null
    # shellcheck disable=SC2086 # one word a package
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing </dev/null >/dev/null
  else
    say "missing, and the tests which need them will fail; as root run: apt-get install --no-install-recommends $missing"
  fi
}

# True when node_modules holds exactly the versions of package-lock.json (packages for other platforms may be absent).
modules_current() {
  [ -x node_modules/.bin/node ] && node - <<'JS'
const { readFileSync } = require('node:fs')
const packages = (file) => JSON.parse(readFileSync(file, 'utf8')).packages
try {
  const have = packages('node_modules/.package-lock.json')
  const wrong = Object.entries(packages('package-lock.json')).filter(([path, want]) => path !== ''
    && (have[path] === undefined ? !want.optional : have[path].version !== want.version))
  process.exit(wrong.length === 0 ? 0 : 1)
} catch { process.exit(1) }
JS
}

install_modules() {
  command -v node >/dev/null && command -v npm >/dev/null || fail 'Node 20 or later with npm is missing: https://nodejs.org, or apt-get install nodejs npm'
  local major
  major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -ge 20 ] || fail "node is version $major; 20 or later is needed to install the dependencies (they bring Node 26)"
  if modules_current; then return 0; fi
  [ ! -L node_modules ] || fail 'node_modules is a symbolic link and does not fit package-lock.json: run npm ci where it points'
  say 'installing node modules (npm ci)'
  npm ci --no-audit --no-fund </dev/null
  [ -x node_modules/.bin/node ] || fail "no Node 26 for $(uname -sm) came with the modules: only Linux on x64 and arm64 is supported"
}

# tap compiles its plugin list into node_modules; without this the first run still loads the plugin that .taprc removes.
build_tap() {
  if [ -f node_modules/@tapjs/test/test-built/dist/esm/index.js ] &&
    ! grep -q '@tapjs/typescript' node_modules/@tapjs/test/test-built/dist/esm/index.js; then return 0; fi
  say 'building tap without its TypeScript plugin'
  node node_modules/tap/dist/esm/run.mjs build </dev/null >/dev/null
}

install_packages
install_modules
build_tap
bash scripts/build-native.sh
bash scripts/build-sdk.sh
