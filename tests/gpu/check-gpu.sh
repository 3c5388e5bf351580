#!/bin/bash
# check-gpu.sh [TESTS BIN]: the tests of the CUDA side, on a host with a GPU. Without arguments, those of the bundle
# that this script lies in. A case that is skipped is a failure here: whoever asks for these tests has a GPU. The last
# line is `N passed, N failed`.
set -u
here=$(cd "$(dirname "$0")" && pwd)
tests=${1:-$here}
bin=${2:-$here/../bin}
passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

count() {   # count NAME EXIT_CODE
    local ok bad
    ok=$(grep -cE '^ok ' "$log")
    bad=$(grep -cE '^not ok ' "$log")
    if [ "$2" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    if [ $((ok + bad)) -eq 0 ]; then bad=1; fi
    passed=$((passed + ok)) failed=$((failed + bad))
    echo "$([ "$bad" -eq 0 ] && echo ok || echo FAIL)   $1: $ok passed, $bad failed"
    if [ "$bad" -gt 0 ] || [ -n "${RB_TEST_REPORT:-}" ]; then grep -vE '^ok ' "$log" | tail -60; fi
}

for test in "$tests"/test_*; do
    CMOCKA_MESSAGE_OUTPUT=TAP timeout 600 "$test" >"$log" 2>&1
    count "$(basename "$test")" $?
done
for script in "$here"/programs_*.sh; do
    [ -f "$script" ] || continue
    timeout 600 bash "$script" "$bin" >"$log" 2>&1
    count "$(basename "$script" .sh)" $?
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
