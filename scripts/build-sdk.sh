#!/usr/bin/env bash
# Makes dist/: `sluice/callback` as JavaScript and declarations, for apps on Node 20 and later, which run no TypeScript of
# a package. Done again only when a source is newer. `npm pack` runs it; setup.sh too, so that a checkout has it.
set -euo pipefail
cd "$(dirname "$0")/.."
entry=dist/sdk/serveOverCallback.js
if [ -f "$entry" ] && [ -z "$(find src/sdk src/net src/callback/wire.ts tsconfig.sdk.json -newer "$entry" -print -quit)" ]; then exit 0; fi
rm -rf dist
node_modules/.bin/tsc -p tsconfig.sdk.json
