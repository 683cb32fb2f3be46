#!/usr/bin/env bash
# The demonstration: set-up where it is needed, then a pod on this machine, real traffic through it, and away again.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec node_modules/.bin/node scripts/demo/main.ts
