# programs_fleet_gpu.sh BIN: two shards on two GPUs at once, each on the GPU of its task, merged against one run. Runs
# from the repository's root or a bundle's. On a host with one GPU it is skipped.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/programs/tap.sh
if [ -f "$here/tap.sh" ]; then . "$here/tap.sh"; else . tests/programs/tap.sh; fi
bin=$1
run=(--model configs/demo-llama --text configs/demo-text/calibration.txt --test-text configs/demo-text/heldout.txt)
run+=(--n-tokens 2048 --context 256 --precision f32 --dtype f32 --values)

if ! "$bin/ropebits-calibrate" -q --device cuda:1 --model configs/demo-llama --text "${run[3]}" --dry-run \
    >"$scratch/stdout" 2>&1; then
    skip_case "two shards on two GPUs" "no second GPU: $(tail -n 1 "$scratch/stdout")"
    finish
fi

task() { # task RANK: as mpirun starts it
    OMPI_COMM_WORLD_RANK=$1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=$1 \
        "$bin/ropebits-calibrate" "${run[@]}" --device cuda --shard auto -o "$scratch/capture.h5" \
        >"$scratch/task-$1.out" 2>"$scratch/task-$1.err"
}
task 0 & first=$!
task 1 & second=$!
check "task 0 ends well" wait $first
check "task 1 ends well" wait $second
for i in 0 1; do
    check "task $i takes GPU $i" grep -qE "takes GPU $i of [0-9]+, as OMPI_COMM_WORLD_LOCAL_RANK is $i" \
        "$scratch/task-$i.err"
    check "  and shard $i" grep -qF "calibrates shard $i/2" "$scratch/task-$i.err"
done
expect "the shards are merged" 0 "$bin/ropebits-merge" "$scratch"/capture-[01]-of-2.h5 -o "$scratch/merged.h5"
expect "one run on one GPU" 0 "$bin/ropebits-calibrate" "${run[@]}" --device cuda:0 --shard none -o "$scratch/one.h5"

# In f32 on a GPU a product may round otherwise with another number of rows.
profile() { "$bin/ropebits-profile" -q --device cuda:0 --json --budgets 2,3 --no-curves "$1"; }
profile "$scratch/merged.h5" >"$scratch/merged.json"
profile "$scratch/one.h5" >"$scratch/one.json"
errors() { grep -oE '"(logit_mae|causal_mae|attention_kl|relative_error)": *[-+.0-9e]+' "$1"; }
same_errors() { # within 0.1 %
    paste <(errors "$1") <(errors "$2") | awk '
        { if (NF != 4 || $2 - $4 > 1e-3 * $4 || $4 - $2 > 1e-3 * $4) exit bad = 1 } END { exit bad || NR < 16 }'
}
check "their profiles are the same" same_errors "$scratch/one.json" "$scratch/merged.json"
errors "$scratch/merged.json" | head -n 4 | sed 's/^/# merged  /'
errors "$scratch/one.json" | head -n 4 | sed 's/^/# one run /'

finish
