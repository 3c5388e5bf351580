#!/bin/bash
# fuzz.sh CC BUILD SECONDS JOBS TARGET...: builds the targets with libFuzzer, AddressSanitizer and UBSan under BUILD,
# and runs each for SECONDS from its seeds and from what earlier runs found (BUILD/corpus/TARGET), JOBS side by side.
# Prints a line a target and at the end `N passed, N failed, N skipped`. Exits 1 when one failed; the input that did it
# is named. FUZZ_SEED: the numbers that inputs are changed by; without it others in each run. Without clang all are
# skipped.
set -u
cd "$(dirname "$0")/../.." || exit 1
cc=$1 build=$2 seconds=$3 jobs=$4
shift 4

# $cc may be two words ("ccache clang")
if ! echo 'int LLVMFuzzerTestOneInput(const char *d, long n) { return (int)(n && d); }' |
    $cc -x c -fsanitize=fuzzer -fopenmp - -o /dev/null 2>/dev/null; then
    echo "SKIP fuzzing: $cc with libFuzzer and OpenMP is not installed (Debian: clang, libomp-dev)"
    echo "0 passed, 0 failed, $# skipped"
    exit 0
fi
mkdir -p "$build"
sanitizers="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined"
if ! make --no-print-directory -j"$(nproc)" CUDA=0 CC="$cc" BUILD="$build" FUZZ_TARGETS="$*" fuzz-targets \
    CFLAGS="-O1 -g -fno-omit-frame-pointer $sanitizers" >"$build/build.log" 2>&1; then
    tail -20 "$build/build.log"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi

# Memory that a file asks for and does not get is refused, as it is without a sanitizer.
export ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1
logs=$build/fuzz-logs
mkdir -p "$logs"

fuzz_target() { # fuzz_target NAME
    local corpus=$build/corpus/$1 findings=$build/findings/$1/ seeds=tests/fuzz/seeds/$1
    mkdir -p "$corpus" "$findings"
    "$build/libfuzzer/fuzz_$1" -max_total_time="$seconds" -timeout=60 -seed="${FUZZ_SEED:-0}" \
        -rss_limit_mb=4096 -max_len=65536 -artifact_prefix="$findings" -print_final_stats=1 \
        "$corpus" "$seeds" >"$logs/$1.log" 2>&1
    echo $? >"$logs/$1.code"
}

passed=0 failed=0
tell() { # tell NAME
    local log=$logs/$1.log runs
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ "$(cat "$logs/$1.code")" -eq 0 ]; then
        echo "ok   fuzz $1: ${runs:-0} inputs in $seconds s"
        passed=$((passed + 1))
    else
        echo "FAIL fuzz $1 (log: $log)"
        grep -E 'ERROR|SUMMARY|runtime error|does not hold|ALARM' "$log" | head -5
        sed -n 's/.*Test unit written to \(.*\)/the input: \1/p' "$log"
        failed=$((failed + 1))
    fi
}

rm -f "$logs"/*.code
for name in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    fuzz_target "$name" &
done
wait
for name in "$@"; do tell "$name"; done
echo "$passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
