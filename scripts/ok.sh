#!/usr/bin/env bash
# The quick check, in seconds: format and lint (mended in place, only checked in CI), types, and every test but those of
# test/netns and test/live. Arguments are passed on to tap, such as the one test file to run.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH"

before=$(git status --porcelain 2>/dev/null || true)
if [ -n "${CI:-}" ]; then biome check --log-level=warn .; else biome check --log-level=warn --write .; fi
if [ -z "$before" ] && [ -n "$(git status --porcelain 2>/dev/null || true)" ]; then
  echo 'ok: everything was committed, and formatting changed it: look at git diff, commit, and run again' >&2
  exit 1
fi
tsc --noEmit
bash scripts/build-native.sh
if [ $# -gt 0 ]; then exec node scripts/runTests.ts "$@"; fi
mapfile -t tests < <(find test -name '*.test.ts' -not -path 'test/netns/*' -not -path 'test/live/*' | sort)
exec node scripts/runTests.ts --timeout=60 "${tests[@]}"
