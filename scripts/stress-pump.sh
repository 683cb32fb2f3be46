#!/usr/bin/env bash
# The pump under stress for a minute in each of three builds: checksummed traffic whose peers are killed at random, over
# connections that were handed to it and connections that it accepted. CI does the same for some seconds.
#
#   scripts/stress-pump.sh [SECONDS [SEED]]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
seed=${2:-$RANDOM}
for kind in plain asan tsan; do
  harness=$(bash scripts/build-harness.sh "$kind")
  echo "$kind, seed $seed"
  "$harness" stress "$seconds" "$seed"
done
