#!/bin/bash
# bench.sh BUILD: times the stages on the shared and on made-up models. Prints a table, and writes the same as JSON
# lines to BUILD/bench/results.jsonl. Without ../shared there are no rows of small-qwen2. Each runs REPEATS times
# (default 5); the median counts.
set -euo pipefail
build=$1
shared=${RB_SHARED:-../shared}
repeats=${REPEATS:-5}
work=$(mktemp -d "${TMPDIR:-/tmp}/ropebits-bench-XXXXXX")
trap 'rm -rf "$work"' EXIT
results=$build/bench/results.jsonl
: >"$results"

measure() { "$build/bench/measure" "$@" >>"$results"; }

calibrate=$build/bin/ropebits-calibrate
profile=$build/bin/ropebits-profile

measure demo/pipeline "$repeats" \
    bash -c 'rm -rf "$1/demo" && "$2" run -q configs/demo.json -o "$1/demo"' - "$work" "$build/bin/ropebits"

if [ -d "$shared/models/small-qwen2" ]; then
    qwen=(--model "$shared/models/small-qwen2" --text "$shared/text/wt2_valid.txt")
    qwen+=(--test-text "$shared/text/wt2_test.txt" --n-tokens 2048 --context 1024)
    measure calibrate/small-qwen2-2x2048 "$repeats" "$calibrate" -q "${qwen[@]}" -o "$work/qwen.h5"
    measure calibrate/small-qwen2-2x2048-1-thread "$repeats" \
        "$calibrate" -q --threads 1 "${qwen[@]}" -o "$work/qwen.h5"
    qwen_profile=("$work/qwen.h5" --budgets 2,3,4 -o "$work/qwen-profile.h5")
    measure profile/small-qwen2-2-methods-3-budgets "$repeats" "$profile" -q "${qwen_profile[@]}"
    measure profile/small-qwen2-1-thread "$repeats" "$profile" -q --threads 1 "${qwen_profile[@]}"
fi

# On one core. The marks are 2 s for a plan and 20 s for the sweep.
measure allocate/optimal-80x8x64-one-budget "$repeats" "$build/bench/bench_allocate"
measure allocate/optimal-80x8x64-3-groups "$repeats" "$build/bench/bench_allocate" 80 8 64 3
measure allocate/optimal-80x8x64-sweep "$repeats" "$build/bench/bench_allocate" sweep
measure allocate/methods-80x8x64-sweep "$repeats" "$build/bench/bench_allocate" methods

# Memory follows the context, not the depth.
for layers in 4 32; do
    model=$work/layers$layers
    "$build/bench/make_checkpoint" --layers $layers --hidden 512 --q-heads 8 --kv-heads 2 --head-dim 64 --mlp 1536 \
        -o "$model"
    for context in 1024 4096; do
        measure "calibrate/$layers-layers-context-$context" 1 \
            "$calibrate" -q --model "$model" --tokens "$model/tokens.json" \
            --n-tokens 2048 --n-test-tokens 2048 --context "$context" -o "$work/layers.h5"
    done
done

python=$(command -v python3 || true)
if [ -n "$python" ]; then
    "$python" -c '
import json, sys
print("%-44s %9s %9s %8s %9s" % ("benchmark", "median s", "fastest s", "cpu s", "peak MiB"))
for r in map(json.loads, open(sys.argv[1])):
    times = r["wall_s"], r["fastest_s"], r["cpu_s"]
    print("%-44s %9.3f %9.3f %8.3f %9.1f" % (r["name"], *times, r["peak_mib"]))' "$results"
else
    cat "$results"
fi

# Where the time goes: the stages say so themselves with -v.
if [ -d "$shared/models/small-qwen2" ]; then
    echo
    "$calibrate" -v "${qwen[@]}" -o "$work/qwen.h5" 2>&1 >/dev/null | grep -E ' took ' || true
    "$profile" -v "${qwen_profile[@]}" 2>&1 >/dev/null | grep -E ' took ' || true
fi
echo "JSON: $results"
