#!/usr/bin/env bash
# Fills the compile cache that NODE_COMPILE_CACHE names, by starting once what an image starts: `sluice serve` with its
# connector, on free ports, which then runs a command and stops. Run while the image is built.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${NODE_COMPILE_CACHE:?names the folder to fill}"
node=node
if [ -x node_modules/.bin/node ]; then node=node_modules/.bin/node; fi
configuration=$(mktemp -d)
trap 'rm -rf "$configuration"' EXIT
cat >"$configuration/policy.yaml" <<'YAML'
apiVersion: sluice/v1
listeners: { outbound: { address: 127.0.0.1:0 }, inbound: { address: 127.0.0.1:0 } }
admin: { address: [] }
YAML

HASURA_CONNECTOR_HOST=127.0.0.1 HASURA_CONNECTOR_PORT=0 "$node" src/main.ts serve --config "$configuration" >"$configuration/out" &
sluice=$!
for _ in $(seq 200); do
  if grep -q 'sluice is ready' "$configuration/out"; then break; fi
  sleep 0.05
done
grep -q 'sluice is ready' "$configuration/out"
kill -TERM "$sluice"
wait "$sluice"
echo "warm-cache: $(find "$NODE_COMPILE_CACHE" -type f | wc -l) files in $NODE_COMPILE_CACHE"
