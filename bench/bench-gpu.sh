#!/bin/bash
# bench-gpu.sh [BENCH BIN OUT]: the benchmarks of the CUDA side; without arguments, those of the bundle this script lies in, into ./bench-gpu. One JSON line a
# row, a file a part, and a table at the end. ROPEBITS_BENCH names the parts to run (default: codec capture calibrate memory profile evaluate); WORK a folder with 20 GB for
# the made-up checkpoints; RB_SHARED (../shared) has the model and the text of evaluate, which is left out without.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bench=${1:-$here}
bin=${2:-$here/../bin}
out=${3:-bench-gpu}
parts=${ROPEBITS_BENCH:-codec capture calibrate memory profile evaluate}
work=$(mktemp -d "${WORK:-/tmp}/ropebits-bench-gpu-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
wants() { [[ " $parts " == *" $1 "* ]]; }
one_line() { tr -d '\n' | sed -E 's/  +/ /g'; echo; }

if wants codec; then "$bench/bench_codec" >"$out/codec.jsonl"; fi

# The capture's file alone, without a GPU: all cores, and one.
if wants capture; then
    rm -f "$out/capture.jsonl"
    for threads in 0 0 0 1; do "$bench/bench_capture" "$work/capture.h5" 32 $threads >>"$out/capture.jsonl"; done
fi

# Llama-3.1-8B's layers, all 32; the vocabulary is small, since nothing here multiplies with it.
llama8b=(--layers 32 --hidden 4096 --q-heads 32 --kv-heads 8 --head-dim 128 --mlp 14336 --n-tokens 4096)
if wants calibrate || wants profile; then
    "$bench/make_checkpoint" "${llama8b[@]}" -o "$work/8b"
    rm -f "$out/calibrate.jsonl"
    if wants calibrate; then "$bench/bench_read" "$work/8b/model.safetensors" 8 3 >"$out/read.jsonl"; fi
    for _ in 1 2 3; do
        "$bin/ropebits-calibrate" -v --json --device cuda --model "$work/8b" --tokens "$work/8b/tokens.json" --n-tokens 2048 --n-test-tokens 2048 -o "$work/8b.h5" \
            2>"$out/calibrate.log" | one_line >>"$out/calibrate.jsonl"
        wants calibrate || break
    done
    if wants calibrate; then    # so few tokens that only the weights take time
        "$bin/ropebits-calibrate" -q --json --device cuda --model "$work/8b" --tokens "$work/8b/tokens.json" --n-tokens 128 --n-test-tokens 128 -o "$work/few.h5" |
            one_line >"$out/few.jsonl"
        # From the disk: the file is dropped from memory, read once for comparison, and dropped again.
        "$bench/bench_read" "$work/8b/model.safetensors" 8 1 cold >>"$out/read.jsonl"
        "$bench/bench_read" "$work/8b/model.safetensors" 8 0
        "$bin/ropebits-calibrate" -q --json --device cuda --model "$work/8b" --tokens "$work/8b/tokens.json" --n-tokens 2048 --n-test-tokens 2048 -o "$work/8b.h5" |
            one_line >"$out/cold.jsonl"
    fi
    rm -rf "$work/8b"
fi

if wants profile; then
    rm -f "$out/profile.log"
    "$bench/measure" "profile, 2 methods, 3 budgets" 3 "$bin/ropebits-profile" -q --device cuda "$work/8b.h5" --budgets 2,3,4 --no-curves -o "$work/8b-profile.h5" >"$out/profile.jsonl"
    "$bench/measure" "the same with error curves" 3 "$bin/ropebits-profile" -q --device cuda "$work/8b.h5" --budgets 2,3,4 -o "$work/8b-profile.h5" >>"$out/profile.jsonl"
    "$bin/ropebits-profile" -v --device cuda "$work/8b.h5" --budgets 2,3,4 --no-curves -o "$work/8b-profile.h5" 2>&1 >/dev/null | grep -E 'took|GPU' >"$out/profile.log"
    rm -f "$work"/8b*
fi

# Llama-3.1-70B's layers, within 12 GiB, few and more of them.
if wants memory; then
    rm -f "$out/memory.jsonl"
    for layers in 3 6; do
        "$bench/make_checkpoint" --layers $layers --hidden 8192 --q-heads 64 --kv-heads 8 --head-dim 128 --mlp 28672 --n-tokens 4096 -o "$work/70b"
        "$bin/ropebits-calibrate" -q --json --device cuda --max-gpu-memory 12GiB --model "$work/70b" --tokens "$work/70b/tokens.json" --n-tokens 2048 --n-test-tokens 2048 \
            -o "$work/70b.h5" | one_line >>"$out/memory.jsonl"
        rm -rf "$work/70b" "$work/70b.h5"
    done
fi

# Three plans on small-qwen2: 8192 tokens of text and 24 needle documents of 2000.
shared=${RB_SHARED:-../shared}
if wants evaluate && [ -f "$shared/models/small-qwen2/model.safetensors" ] && [ -f "$shared/text/wt2_test.txt" ]; then
    model=$shared/models/small-qwen2
    plans=()
    "$bin/ropebits-calibrate" -q --device cuda --model "$model" --text "$shared/text/wt2_test.txt" --n-tokens 2048 -o "$work/q.h5" >/dev/null
    "$bin/ropebits-profile" -q --device cuda "$work/q.h5" --budgets 2,3 --no-curves -o "$work/q-profile.h5" >/dev/null 2>&1
    for plan in uniform:2 block-gtq:2 block-gtq:3; do
        "$bin/ropebits-allocate" -q "$work/q-profile.h5" --method ${plan%:*} --avg-bits ${plan#*:} --value-bits ${plan#*:} -o "$work/${plan/:/-}.json" >/dev/null
        plans+=(--plan "$work/${plan/:/-}.json")
    done
    rm -f "$out/evaluate.jsonl" "$out/evaluate.log"
    for precision in bf16 f32; do
        run=("$bin/ropebits-evaluate" --device cuda --precision $precision --model "$model" "${plans[@]}" --text "$shared/text/wt2_test.txt" --n-tokens 8192 --needles 24 --needle-contexts 2000)
        "$bench/measure" "evaluate, 3 plans, $precision" 3 "${run[@]}" -q >>"$out/evaluate.jsonl"
        "${run[@]}" -v 2>&1 | grep -vE ': [0-9]+/[0-9]+ ' >>"$out/evaluate.log"
    done
fi

python=$(command -v python3 || true)
if [ -z "$python" ]; then cat "$out"/*.jsonl; exit 0; fi
"$python" - "$out" <<'TABLE'
import json, os, sys
def rows(name):
    path = os.path.join(sys.argv[1], name + ".jsonl")
    return [json.loads(line) for line in open(path) if line.strip()] if os.path.exists(path) else []
for r in rows("codec"):
    if r["step"] == "encode": print("%-22s %-5s %6.3f true bits" % (r["plan"], r["type"], r["true_bits"]), end="")
    print("  %s %6.0f GB/s (%.0f us)" % (r["step"], r["moved_gb_per_s"] if r["step"] == "logits" else r["vector_gb_per_s"], r["us"]), end="\n" if r["step"] == "logits" else "")
for r in rows("read"): print("%s, %d threads: median %.2f, best %.2f GB/s" % (r["what"], r["threads"], r["median_gb_per_s"], r["best_gb_per_s"]))
for r in rows("capture"):
    print("capture of %d layers, %d threads: written at %.2f GB/s and %.3f s to publish, read at %.2f GB/s; alone: write() %.2f, zstd %.2f GB/s" % (
        r["n_layers"], r["threads"], r["write_gb_per_s"], r["publish_s"], r["read_gb_per_s"], r["plain_write_gb_per_s"], r["pack_gb_per_s"]))
for name in ("calibrate", "few", "cold", "memory"):
    for r in rows(name):
        g = r["gpu"]
        print("%s: %d layers, %s: %.3f ms a layer for 2 x %d tokens, %.2f GB/s of weights, %.2f s (%.2f GB/s without %.2f s of set-up), %.0f MiB of GPU memory, chunks of %d" % (
            name, r["model"]["n_layers"], g["name"], g["layer_ms"], r["calibration"]["n_tokens"], g["weights_gb_per_s"], g["seconds"],
            g["weights_read_bytes"] * 1e-9 / (g["seconds"] - g["set_up_seconds"]), g["set_up_seconds"], g["memory_size_bytes"] / 2**20, g["chunk_tokens"]))
for r in rows("profile") + rows("evaluate"): print("%s: median %.3f s, fastest %.3f s, peak %.0f MiB" % (r["name"], r["wall_s"], r["fastest_s"], r["peak_mib"]))
TABLE
grep -hvE ': [0-9]+/[0-9]+ ' "$out"/*.log 2>/dev/null || true
