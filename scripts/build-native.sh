#!/usr/bin/env bash
# Builds the shim, src/native/*.c, to build/sluice.node: one cc line, no other tool.
#
#   scripts/build-native.sh [OUTPUT [CC FLAGS...]]     e.g. build/asan.node -g -fsanitize=address
#
# CC names the compiler (default cc). Headers are the public N-API ones that come with the node that runs Sluice.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-build/sluice.node}
if [ $# = 0 ] && [ -f "$output" ] && [ -z "$(find src/native scripts/build-native.sh -newer "$output")" ]; then
  exit 0 # nothing has changed since it was built
fi
shift || true

if [ "$(uname -s)" != Linux ]; then
  echo "build-native: the shim is for Linux; elsewhere Sluice works with fixed destinations only" >&2
  exit 0
fi
CC=${CC:-cc}
if ! command -v "$CC" >/dev/null; then
  echo "build-native: no C compiler ('$CC' not found). On Debian: apt-get install gcc libc6-dev" >&2
  exit 1
fi
node=node_modules/.bin/node
[ -x "$node" ] || node=../.bin/node # installed as a package
[ -x "$node" ] || node=$(command -v node)
include=$(dirname "$(dirname "$(readlink -f "$node")")")/include/node
[ -f "$include/node_api.h" ] || include=/usr/include/node
if [ ! -f "$include/node_api.h" ]; then
  echo "build-native: node_api.h not found beside $node nor in /usr/include/node. Run: npm ci" >&2
  exit 1
fi

mkdir -p "$(dirname "$output")"
built=$(mktemp "$output.XXXXXX") # moved into place when whole: a running Sluice keeps the file it has mapped
trap 'rm -f "$built"' EXIT
"$CC" -std=gnu11 -O2 -fPIC -shared -fvisibility=hidden -pthread -Wall -Wextra -Werror -isystem "$include" "$@" \
  -o "$built" src/native/*.c
chmod 755 "$built"
mv "$built" "$output"
echo "build-native: $output"
