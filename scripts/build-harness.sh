#!/usr/bin/env bash
# Builds the pump alone with test/native/harness.c around it, and says where: plain, under a sanitizer, or the library
# that makes its system calls fail.
#
#   scripts/build-harness.sh plain|asan|tsan|faults
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-plain}
mkdir -p build
output=build/harness-$kind
case $kind in
  plain) flags=(-O2) ;;
  asan) flags=(-O1 -fsanitize=address,undefined -fno-sanitize-recover=all) ;;
  tsan) flags=(-O1 -fsanitize=thread) ;;
  faults)
    "${CC:-cc}" -shared -fPIC -O1 -Wall -Wextra -Werror -o build/faults.so test/native/faults.c
    echo "$PWD/build/faults.so"
    exit 0
    ;;
  *)
    echo 'usage: build-harness.sh plain|asan|tsan|faults' >&2
    exit 2
    ;;
esac
mapfile -t sources < <(ls src/native/pump*.c | grep -v pumpNode.c)
"${CC:-cc}" -std=gnu11 -g -pthread -Wall -Wextra -Werror "${flags[@]}" -Wl,--wrap=getsockopt -o "$output" \
  test/native/harness.c "${sources[@]}"
echo "$PWD/$output"
