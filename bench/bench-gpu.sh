#!/bin/bash
# bench-gpu.sh [BENCH BIN OUT]: the benchmarks of the CUDA side. Without arguments, those of the bundle that this script
# lies in, into ./bench-gpu. Writes one file for each part, with one JSON line for each row, and prints a table at the
# end. ROPEBITS_BENCH names the parts to run (default: codec attend decode capture calibrate memory experts profile
# evaluate).
# WORK is a folder with 20 GB for the made-up checkpoints. RB_SHARED (default ../shared) has the model and the text of
# evaluate; without them that part does not run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bench=${1:-$here}
bin=${2:-$here/../bin}
out=${3:-bench-gpu}
parts=${ROPEBITS_BENCH:-codec attend decode capture calibrate memory experts profile evaluate}
work=$(mktemp -d "${WORK:-/tmp}/ropebits-bench-gpu-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
wants() { [[ " $parts " == *" $1 "* ]]; }

# calibrate CHECKPOINT N_TOKENS CAPTURE OPTIONS...: calibrates on so many tokens, and tests on as many.
calibrate() {
    "$bin/ropebits-calibrate" --json --device cuda --model "$1" --tokens "$1/tokens.json" \
        --n-tokens "$2" --n-test-tokens "$2" -o "$3" "${@:4}"
}
one_line() { tr -d '\n' | sed -E 's/  +/ /g'; echo; }

if wants codec; then "$bench/bench_codec" >"$out/codec.jsonl"; fi

# A decode token's attention over packed caches, for the heads of Llama-3.1-8B and of Qwen2.5-3B, and beside them the
# best there is in fp16, where PyTorch is installed.
has_torch() { python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; }
if wants attend; then
    for heads in "32 8 128" "16 2 128"; do
        # shellcheck disable=SC2086  # three words
        if has_torch; then python3 "$here/bench_sdpa.py" $heads; fi
        # shellcheck disable=SC2086
        "$bench/bench_attend" $heads
    done >"$out/attend.jsonl"
fi

# A token of Llama-3.1-8B with random weights, as on a GPU of 80 GB.
if wants decode; then "$bench/bench_decode" --max-gpu-memory 80GB --json >"$out/decode.json"; fi

# Only the capture's file, without a GPU: on all cores, and on one.
if wants capture; then
    rm -f "$out/capture.jsonl"
    for threads in 0 0 0 1; do "$bench/bench_capture" "$work/capture.h5" 32 $threads >>"$out/capture.jsonl"; done
fi

# All 32 layers of Llama-3.1-8B. The vocabulary is small, since nothing here multiplies with it.
llama8b=(--layers 32 --hidden 4096 --q-heads 32 --kv-heads 8 --head-dim 128 --mlp 14336 --n-tokens 4096)
if wants calibrate || wants profile; then
    "$bench/make_checkpoint" "${llama8b[@]}" -o "$work/8b"
    rm -f "$out/calibrate.jsonl"
    if wants calibrate; then "$bench/bench_read" "$work/8b/model.safetensors" 8 3 >"$out/read.jsonl"; fi
    for _ in 1 2 3; do
        calibrate "$work/8b" 2048 "$work/8b.h5" -v 2>"$out/calibrate.log" | one_line >>"$out/calibrate.jsonl"
        wants calibrate || break
    done
    if wants calibrate; then    # so few tokens that only the weights take time
        calibrate "$work/8b" 128 "$work/few.h5" -q | one_line >"$out/few.jsonl"
        # From the disk: the file is dropped from memory, read once for comparison, and dropped again.
        "$bench/bench_read" "$work/8b/model.safetensors" 8 1 cold >>"$out/read.jsonl"
        "$bench/bench_read" "$work/8b/model.safetensors" 8 0
        calibrate "$work/8b" 2048 "$work/8b.h5" -q | one_line >"$out/cold.jsonl"
    fi
    rm -rf "$work/8b"
fi

if wants profile; then
    rm -f "$out/profile.log"
    profile=("$bin/ropebits-profile" --device cuda "$work/8b.h5" --budgets 2,3,4 -o "$work/8b-profile.h5")
    "$bench/measure" "profile, 2 methods, 3 budgets" 3 "${profile[@]}" -q --no-curves >"$out/profile.jsonl"
    "$bench/measure" "the same with error curves" 3 "${profile[@]}" -q >>"$out/profile.jsonl"
    "${profile[@]}" -v --no-curves 2>&1 >/dev/null | grep -E 'took|GPU' >"$out/profile.log"
    rm -f "$work"/8b*
fi

# Layers of Llama-3.1-70B within 12 GiB: the memory must not grow with their number.
if wants memory; then
    rm -f "$out/memory.jsonl"
    for layers in 3 6; do
        "$bench/make_checkpoint" --layers $layers --hidden 8192 --q-heads 64 --kv-heads 8 --head-dim 128 --mlp 28672 \
            --n-tokens 4096 -o "$work/70b"
        calibrate "$work/70b" 2048 "$work/70b.h5" -q --max-gpu-memory 12GiB | one_line >>"$out/memory.jsonl"
        rm -rf "$work/70b" "$work/70b.h5"
    done
fi

# Layers of Qwen3-30B-A3B and of DeepSeek-V2-Lite within 8 GiB: every expert is read once, at the speed of the link. The
# last layer is read as far as its heads only.
if wants experts; then
    rm -f "$out/experts.jsonl"
    qwen=(--model-type qwen3_moe --q-heads 32 --kv-heads 4 --head-dim 128 --mlp 6144 --experts 128)
    qwen+=(--experts-per-token 8 --expert-size 768)
    deepseek=(--model-type deepseek_v2 --q-heads 16 --kv-heads 16 --head-dim 64 --plain-dim 128 --value-dim 128)
    deepseek+=(--kv-rank 512 --mlp 10944 --experts 64 --experts-per-token 6 --expert-size 1408 --shared-experts 2)
    deepseek+=(--dense-layers 1)
    for family in qwen deepseek; do
        declare -n geometry=$family
        "$bench/make_checkpoint" "${geometry[@]}" --layers 6 --hidden 2048 --n-tokens 32768 -o "$work/moe"
        for n in 2048 16384; do
            calibrate "$work/moe" $n "$work/moe.h5" -q --max-gpu-memory 8GiB | one_line >>"$out/experts.jsonl"
        done
        rm -rf "$work/moe" "$work/moe.h5"
    done
fi

# Three plans on small-qwen2: 8192 tokens of text and 24 needle documents of 2000.
shared=${RB_SHARED:-../shared}
model=$shared/models/small-qwen2 text=$shared/text/wt2_test.txt
if wants evaluate && [ -f "$model/model.safetensors" ] && [ -f "$text" ]; then
    plans=()
    "$bin/ropebits-calibrate" -q --device cuda --model "$model" --text "$text" --n-tokens 2048 \
        -o "$work/q.h5" >/dev/null
    "$bin/ropebits-profile" -q --device cuda "$work/q.h5" --budgets 2,3 --no-curves \
        -o "$work/q-profile.h5" >/dev/null 2>&1
    for plan in uniform:2 block-gtq:2 block-gtq:3; do
        method=${plan%:*} bits=${plan#*:}
        "$bin/ropebits-allocate" -q "$work/q-profile.h5" --method "$method" --avg-bits "$bits" --value-bits "$bits" \
            -o "$work/$method-$bits.json" >/dev/null
        plans+=(--plan "$work/$method-$bits.json")
    done
    rm -f "$out/evaluate.jsonl" "$out/evaluate.log"
    for precision in bf16 f32; do
        run=("$bin/ropebits-evaluate" --device cuda --precision "$precision" --model "$model" "${plans[@]}")
        run+=(--text "$text" --n-tokens 8192 --needles 24 --needle-contexts 2000)
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

for r in rows("codec"):     # the three steps of a plan and a type are one line; logits are the last
    is_first, is_last = r["step"] == "encode", r["step"] == "logits"
    if is_first: print("%-22s %-5s %6.3f true bits" % (r["plan"], r["type"], r["true_bits"]), end="")
    rate = r["moved_gb_per_s"] if is_last else r["vector_gb_per_s"]
    print("  %s %6.0f GB/s (%.0f us)" % (r["step"], rate, r["us"]), end="\n" if is_last else "")
mark = {}                       # us of fp16 by cuDNN, of the same heads, batch and length
for r in rows("attend"):
    key = tuple(r[k] for k in ("n_q_heads", "n_kv_heads", "head_dim", "batch", "length"))
    mark.setdefault(key, r["us"] if r["plan"] == "fp16 by cuDNN" else None)
    print("attention, %d/%d heads of %d dims, %d x %d tokens, %s: %.1f us, %.0f GB/s" %
          (*key, r["plan"], r["us"], r["gb_per_s"]),
          "(%.2f times as fast as cuDNN)" % (mark[key] / r["us"]) if mark[key] else "")
path = os.path.join(sys.argv[1], "decode.json")
for r in json.load(open(path))["rows"] if os.path.exists(path) else []:
    print("decode, %s (%.3f and %.3f bits), %d x %d tokens:" % (r["plan"], r["key_true_bits"], r["value_true_bits"],
                                                                r["batch"], r["length"]), end=" ")
    print("%.3f ms a step," % r["step_ms"] if r["fits"] else "does not fit,", "%.2f GB of GPU memory" %
          (r["gpu_bytes"] * 1e-9), "(%.2f times faster than fp16)" % r["times_faster_than_fp16"]
          if "times_faster_than_fp16" in r else "")
for r in rows("read"):
    print("%s, %d threads:" % (r["what"], r["threads"]),
          "median %.2f, best %.2f GB/s" % (r["median_gb_per_s"], r["best_gb_per_s"]))
for r in rows("capture"):
    print("capture of %d layers, %d threads:" % (r["n_layers"], r["threads"]),
          "written at %.2f GB/s and %.3f s to publish," % (r["write_gb_per_s"], r["publish_s"]),
          "read at %.2f GB/s;" % r["read_gb_per_s"],
          "alone: write() %.2f, zstd %.2f GB/s" % (r["plain_write_gb_per_s"], r["pack_gb_per_s"]))
for name in ("calibrate", "few", "cold", "memory", "experts"):
    for r in rows(name):
        g = r["gpu"]
        rate_after_set_up = g["weights_read_bytes"] * 1e-9 / (g["seconds"] - g["set_up_seconds"])
        print("%s: %d layers, %s:" % (name, r["model"]["n_layers"], g["name"]),
              "%.3f ms a layer for 2 x %d tokens," % (g["layer_ms"], r["calibration"]["n_tokens"]),
              "%.2f GB/s of weights, %.2f s" % (g["weights_gb_per_s"], g["seconds"]),
              "(%.2f GB/s without %.2f s of set-up)," % (rate_after_set_up, g["set_up_seconds"]),
              "%.0f MiB of GPU memory, chunks of %d" % (g["memory_size_bytes"] / 2**20, g["chunk_tokens"]))
for r in rows("profile") + rows("evaluate"):
    print("%s: median %.3f s, fastest %.3f s, peak %.0f MiB" % (r["name"], r["wall_s"], r["fastest_s"], r["peak_mib"]))
TABLE
grep -hvE ': [0-9]+/[0-9]+ ' "$out"/*.log 2>/dev/null || true
