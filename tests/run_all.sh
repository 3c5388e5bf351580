#!/bin/bash
# run_all.sh [--sanitized] BUILD: every cmocka program and every tests/programs/*.sh, one TAP line a test case; prints news only, and at the end
# a line `N passed, N failed, N skipped`. Exits 1 when anything failed or nothing ran.
set -u
cd "$(dirname "$0")/.." || exit 1
sanitized=0
if [ "${1:-}" = --sanitized ]; then sanitized=1; shift; fi
build=${1:-build}
export RB_BUILD=$build RB_SANITIZED=$sanitized
log_folder=$build/test-logs
mkdir -p "$log_folder"
passed=0 failed=0 skipped=0

# A program that dies between two cases leaves a plan larger than its lines: that counts as a failure too.
count() {   # count NAME LOG EXIT_CODE
    local name=$1 log=$2 code=$3 ok not_ok skip planned
    skip=$(grep -cE '^ok .*# SKIP' "$log")
    ok=$(($(grep -cE '^ok ' "$log") - skip))
    not_ok=$(grep -cE '^not ok ' "$log")
    planned=$(sed -nE 's/^1\.\.([0-9]+).*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
    if [ "$code" -ne 0 ] && [ "$not_ok" -eq 0 ]; then not_ok=1; fi
    if [ $((ok + not_ok + skip)) -lt "$planned" ] || [ "$planned" -eq 0 ]; then
        [ "$not_ok" -gt 0 ] || not_ok=1
        echo "# $name: $((ok + skip)) of $planned cases reported, exit code $code"
    fi
    passed=$((passed + ok)) failed=$((failed + not_ok)) skipped=$((skipped + skip))
    if [ "$not_ok" -gt 0 ]; then
        echo "FAIL $name (log: $log)"
        grep -vE '^ok ' "$log" | tail -40
    elif [ "$skip" -gt 0 ]; then
        echo "ok   $name: $ok passed, $skip skipped"
        grep -E '# SKIP' "$log" | sed -E 's/^ok [0-9]+ - /       skipped: /'
    else
        echo "ok   $name: $ok passed"
    fi
}

for test in "$build"/tests/*/test_*; do
    case $test in *.d | *.o) continue ;; esac
    [ -x "$test" ] || continue
    name=${test#"$build"/tests/}
    log=$log_folder/$(echo "$name" | tr / _).tap
    CMOCKA_MESSAGE_OUTPUT=TAP timeout 600 "$test" >"$log" 2>&1
    count "$name" "$log" $?
done

for test in tests/programs/*.sh; do
    case $test in */tap.sh) continue ;; esac
    name=programs/$(basename "$test" .sh)
    log=$log_folder/$(echo "$name" | tr / _).tap
    timeout 900 bash "$test" >"$log" 2>&1
    count "$name" "$log" $?
done

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
