#!/bin/bash
# run_all.sh BUILD...: in each build, every tests/programs/*.sh and every cmocka program, one TAP line a test case.
# Prints news only, and at the end a line `N passed, N failed, N skipped` over all of them. A build folder named asan is
# a sanitizer build. Exits 1 when anything failed or nothing ran.
#
# JOBS tests (as many as there are cores) run side by side, the scripts first because they take longest. What they have
# to say is printed in the order of the list, no matter which ends first. Each has files of its own,
# BUILD/test-logs/NAME.tap, .code and .seconds, and scratch folders of its own.
set -u
cd "$(dirname "$0")/.." || exit 1
jobs=${JOBS:-$(nproc 2>/dev/null || echo 1)}
passed=0 failed=0 skipped=0
export OMP_WAIT_POLICY=passive      # threads of one test that wait leave the core to another test

# ---- the list: builds[i] runs files[i], which has the name names[i] --------------------------------------------------
builds=() files=() names=()
for build in "$@"; do
    mkdir -p "$build/test-logs"
    rm -f "$build"/test-logs/*
    for file in tests/programs/*.sh "$build"/tests/*/test_*; do
        case $file in
        */tap.sh) continue ;;
        *.sh) name=programs/$(basename "$file" .sh) ;;
        *) name=${file#"$build"/tests/} ;;
        esac
        builds+=("$build") files+=("$file") names+=("$name")
    done
done
log_of() { echo "${builds[$1]}/test-logs/${names[$1]//\//_}"; }     # log_of INDEX: without the ending

# ---- running ---------------------------------------------------------------------------------------------------------
run_test() {    # run_test INDEX
    local log started=$SECONDS command=("${files[$1]}") limit=600
    log=$(log_of "$1")
    export RB_BUILD=${builds[$1]} RB_SANITIZED=0 CMOCKA_MESSAGE_OUTPUT=TAP
    case $RB_BUILD in */asan) RB_SANITIZED=1 ;; esac
    case ${files[$1]} in *.sh) command=(bash "${files[$1]}") limit=900 ;; esac
    timeout $limit "${command[@]}" >"$log.tap" 2>&1 </dev/null
    echo $? >"$log.code"
    echo $((SECONDS - started)) >"$log.tmp"
    mv "$log.tmp" "$log.seconds"        # all is there when this is
}

# ---- counting and telling --------------------------------------------------------------------------------------------
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

told=0      # number of tests whose news is printed
tell() {    # prints the news of every test that has ended, up to the first that still runs
    local log seconds
    while [ $told -lt ${#files[@]} ]; do
        log=$(log_of $told)
        [ -e "$log.seconds" ] || return 0
        if [ $told -eq 0 ] || [ "${builds[told]}" != "${builds[told - 1]}" ]; then echo "== ${builds[told]}"; fi
        count "${names[told]}" "$log.tap" "$(cat "$log.code")"
        seconds=$(cat "$log.seconds")
        [ "$seconds" -lt 20 ] || echo "       took $seconds s"
        told=$((told + 1))
    done
}

for index in "${!files[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    run_test "$index" &
    tell
done
wait
tell
# A test that left no exit code was killed together with its shell.
if [ $told -lt ${#files[@]} ]; then
    echo "FAIL ${names[told]}: it ended without an exit code"
    failed=$((failed + ${#files[@]} - told))
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
