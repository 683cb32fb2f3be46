#!/usr/bin/env bash
# npm run bench [-- --quick] [-- --only NAME]: Sluice against haproxy and nginx on this machine. See docs/performance.md.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin"
ulimit -n "$(ulimit -Hn)"
if [ ! -f /usr/lib/nginx/modules/ngx_stream_module.so ]; then
  echo 'bench: nginx cannot pass TCP here. On Debian: apt-get install libnginx-mod-stream' >&2
  exit 1
fi
bash scripts/build-native.sh >/dev/null
cc -O2 -Wall -Wextra -Werror -o build/load bench/load.c
exec node bench/main.ts "$@"
