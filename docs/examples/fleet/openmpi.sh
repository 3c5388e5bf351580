#!/bin/bash
# Shards under Open MPI's mpirun, on one host or on those of HOSTFILE, which share a file system. ropebits itself does
# not use MPI; mpirun starts the tasks and tells them their numbers. It must be able to start as many as SHARDS says:
# slots of the host file, or MPIRUN_OPTIONS=--oversubscribe.
set -euo pipefail
: "${MODEL:=/models/Llama-3.1-8B}" "${TEXT:=calibration.txt}" "${TEST_TEXT:=heldout.txt}"
: "${N_TOKENS:=1048576}" "${CONTEXT:=8192}" "${DEVICE:=cuda}" "${OUT:=fleet}" "${MAX_TOKENS:=65536}"
: "${SHARDS:=4}" "${THREADS:=8}" "${HOSTFILE:=}" "${MPIRUN_OPTIONS:=}"

mkdir -p "$OUT"
options=(-np "$SHARDS" --bind-to none)      # mpirun would give a task one core otherwise
[ -z "$HOSTFILE" ] || options+=(--hostfile "$HOSTFILE")
read -r -a more <<<"$MPIRUN_OPTIONS"
# The shard is OMPI_COMM_WORLD_RANK of OMPI_COMM_WORLD_SIZE, the GPU OMPI_COMM_WORLD_LOCAL_RANK.
mpirun "${options[@]}" "${more[@]}" \
    ropebits calibrate --shard auto --model "$MODEL" --text "$TEXT" --test-text "$TEST_TEXT" \
    --n-tokens "$N_TOKENS" --n-test-tokens "$((N_TOKENS / 8))" --context "$CONTEXT" --hash-weights \
    --device "$DEVICE" --threads "$THREADS" -o "$OUT/capture.h5"

ropebits merge "$OUT"/capture-*-of-"$SHARDS".h5 --max-tokens "$MAX_TOKENS" -o "$OUT/capture.h5"
ropebits profile "$OUT/capture.h5" --budgets 2,3,4 -o "$OUT/profile.h5"
ropebits allocate "$OUT/profile.h5" --method optimal-center --avg-bits 3 --value-bits 3 -o "$OUT/plan.json"
