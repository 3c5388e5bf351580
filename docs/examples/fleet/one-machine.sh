#!/bin/bash
# One machine with several GPUs and nothing but xargs: a shard for each GPU, all at once.
set -euo pipefail
: "${MODEL:=/models/Llama-3.1-8B}" "${TEXT:=calibration.txt}" "${TEST_TEXT:=heldout.txt}"
: "${N_TOKENS:=1048576}" "${CONTEXT:=8192}" "${DEVICE:=cuda:SHARD}" "${OUT:=fleet}" "${MAX_TOKENS:=65536}"
: "${SHARDS:=4}" "${THREADS:=8}"

mkdir -p "$OUT"
# xargs puts the number in the place of SHARD, and fails when one of the runs does. With GNU parallel the same is
# `parallel -j "$SHARDS" ropebits calibrate --shard "{}/$SHARDS" --device cuda:{} ... ::: $(seq 0 $((SHARDS - 1)))`.
seq 0 "$((SHARDS - 1))" | xargs -P "$SHARDS" -I SHARD \
    ropebits calibrate --shard "SHARD/$SHARDS" --model "$MODEL" --text "$TEXT" --test-text "$TEST_TEXT" \
    --n-tokens "$N_TOKENS" --n-test-tokens "$((N_TOKENS / 8))" --context "$CONTEXT" --hash-weights \
    --device "$DEVICE" --threads "$THREADS" -o "$OUT/capture-SHARD-of-$SHARDS.h5"

ropebits merge "$OUT"/capture-*-of-"$SHARDS".h5 --max-tokens "$MAX_TOKENS" -o "$OUT/capture.h5"
ropebits profile "$OUT/capture.h5" --budgets 2,3,4 -o "$OUT/profile.h5"
ropebits allocate "$OUT/profile.h5" --method optimal-center --avg-bits 3 --value-bits 3 -o "$OUT/plan.json"
