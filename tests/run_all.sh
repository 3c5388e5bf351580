#!/bin/bash
# run_all.sh BUILD...: in each build, every cmocka program and every tests/programs/*.sh, one TAP line a test case. Prints news only, and at the end
# a line `N passed, N failed, N skipped` over all of them. A build folder named asan is a sanitizer build. Exits 1 when anything failed or nothing ran.
set -u
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0 skipped=0

# cmocka 1.1 reports a skipped case as "not ok N # SKIP name", our scripts as "ok N - name # SKIP why": both are skips.
# A program that dies between two cases leaves a plan larger than its lines: that counts as a failure too.
count() {   # count NAME LOG EXIT_CODE
    local name=$1 log=$2 code=$3 ok not_ok skip planned
    skip=$(grep -cE '^(not )?ok .*# SKIP' "$log")
    ok=$(grep -E '^ok ' "$log" | grep -vc '# SKIP')
    not_ok=$(grep -E '^not ok ' "$log" | grep -vc '# SKIP')
    planned=$(sed -nE 's/^1\.\.([0-9]+).*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
    if [ "$code" -ne 0 ] && [ "$not_ok" -eq 0 ]; then not_ok=1; fi
    if [ $((ok + not_ok + skip)) -lt "$planned" ] || [ "$planned" -eq 0 ]; then
        [ "$not_ok" -gt 0 ] || not_ok=1
        echo "# $name: $((ok + skip)) of $planned cases reported, exit code $code"
    fi
    passed=$((passed + ok)) failed=$((failed + not_ok)) skipped=$((skipped + skip))
    if [ "$not_ok" -gt 0 ]; then
        echo "FAIL $name (log: $log)"
        grep -vE '^ok |# SKIP' "$log" | tail -40
    elif [ "$skip" -gt 0 ]; then
        echo "ok   $name: $ok passed, $skip skipped"
        grep -E '# SKIP' "$log" | sed -E 's/^(not )?ok [0-9]+ (- )?(# SKIP )?/       skipped: /'
    else
        echo "ok   $name: $ok passed"
    fi
}

run_build() {   # run_build BUILD
    local build=$1 test name log started
    local log_folder=$build/test-logs
    mkdir -p "$log_folder"
    export RB_BUILD=$build RB_SANITIZED=0
    case $build in */asan) RB_SANITIZED=1 ;; esac
    echo "== $build"
    for test in "$build"/tests/*/test_* tests/programs/*.sh; do
        started=$SECONDS
        case $test in
        */tap.sh) continue ;;
        *.sh)
            name=programs/$(basename "$test" .sh)
            log=$log_folder/${name//\//_}.tap
            timeout 900 bash "$test" >"$log" 2>&1
            ;;
        *)
            name=${test#"$build"/tests/}
            log=$log_folder/${name//\//_}.tap
            CMOCKA_MESSAGE_OUTPUT=TAP timeout 600 "$test" >"$log" 2>&1
            ;;
        esac
        count "$name" "$log" $?
        [ $((SECONDS - started)) -lt 20 ] || echo "       took $((SECONDS - started)) s"
    done
}

for build in "$@"; do run_build "$build"; done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
