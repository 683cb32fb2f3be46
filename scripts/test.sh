#!/usr/bin/env bash
# The whole check, as CI runs it: set-up, then types, format and lint, and every test. Its last line is the verdict:
# 'N passed, N failed'. A skipped test counts as failed in CI, where everything it could ask for can be installed.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export PATH="$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin"

failed=()
tsc --noEmit || failed+=(types)
biome check --log-level=warn . || failed+=(format-and-lint)
exec node scripts/runTests.ts "${failed[@]/#/--failed=}" "$@"
