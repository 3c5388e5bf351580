#!/bin/bash
# bench-gpu.sh [BENCH BIN OUT]: the benchmarks of the CUDA side; without arguments, those of the bundle this script lies in, into ./bench-gpu. One JSON line a row.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bench=${1:-$here}
bin=${2:-$here/../bin}
out=${3:-bench-gpu}
mkdir -p "$out"
"$bench"/bench_codec | tee "$out/codec.jsonl"
