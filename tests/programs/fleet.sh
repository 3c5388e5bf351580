# Shards and merge: four shards are one run, however they were started; what does not belong together is refused; the
# job files of docs/examples/fleet run from the shards to the plan.
. tests/programs/tap.sh

calibrate=$bin/ropebits-calibrate merge=$bin/ropebits-merge
model=configs/demo-llama text=configs/demo-text/calibration.txt test_text=configs/demo-text/heldout.txt
run=(--model "$model" --text "$text" --test-text "$test_text" --n-tokens 1100 --n-test-tokens 700 --context 128)
run+=(--device cpu --values)
compare=("$build/tests/calibrate/test_merge" --compare)
# What starts the tests may itself be a task of Slurm's or mpirun's.
for name in $(env | grep -oE '^(SLURM|OMPI|PMIX?)_[A-Z_0-9]*'); do unset "$name"; done

# ---- four shards, started in every way -------------------------------------------------------------------------------
expect "one run" 0 "$calibrate" "${run[@]}" -o "$scratch/one.h5"
for i in 0 1 2 3; do
    expect "shard $i/4 by its option" 0 "$calibrate" "${run[@]}" --shard $i/4 -o "$scratch/option-$i.h5"
done
stdout_has "shard        3/4, of 1100 calibration tokens"

as_array() { # as_array ID: one job of --array=3-9:2
    SLURM_JOB_ID=71 SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_ARRAY_TASK_ID=$((3 + 2 * $1)) SLURM_ARRAY_TASK_COUNT=4 \
        SLURM_ARRAY_TASK_MIN=3 SLURM_ARRAY_TASK_STEP=2 "$calibrate" "${run[@]}" -o "$scratch/array.h5"
}
as_srun() { # as_srun PROCID
    SLURM_PROCID=$1 SLURM_NTASKS=4 "$calibrate" "${run[@]}" -o "$scratch/srun.h5"
}
for i in 0 1 2 3; do
    expect "shard $i/4 of a job array" 0 as_array $i
    stderr_has "calibrates shard $i/4 (of 0 to 3), as the environment says (SLURM_ARRAY_TASK_ID)"
    check "  is the same file under a name of its own" cmp "$scratch/array-$i-of-4.h5" "$scratch/option-$i.h5"
    expect "shard $i/4 of srun" 0 as_srun $i
    check "  is the same file" cmp "$scratch/srun-$i-of-4.h5" "$scratch/option-$i.h5"
done

has_mpi=false
if command -v mpirun >/dev/null; then has_mpi=true; fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_plm_rsh_agent=
with_mpirun() { mpirun --oversubscribe --bind-to none "$@"; }
name="four shards under mpirun"
if $has_mpi; then
    expect "$name" 0 with_mpirun -np 4 "$calibrate" "${run[@]}" --threads 1 --shard auto -o "$scratch/mpi.h5"
    for i in 0 1 2 3; do
        check "  shard $i is the same file" cmp "$scratch/mpi-$i-of-4.h5" "$scratch/option-$i.h5"
    done
else skip_case "$name" "mpirun is not installed"
fi

expect "--shard none calibrates the whole text whatever the environment says" 0 env SLURM_PROCID=1 SLURM_NTASKS=4 \
    "$calibrate" "${run[@]}" --shard none -o "$scratch/whole.h5"
check "  which is the one run" cmp "$scratch/whole.h5" "$scratch/one.h5"
expect "a batch script around srun is no shard" 0 env SLURM_JOB_ID=71 SLURM_PROCID=0 SLURM_NTASKS=4 \
    "$calibrate" "${run[@]}" -o "$scratch/whole.h5"
check "  it is the one run, too" cmp "$scratch/whole.h5" "$scratch/one.h5"
expect "a shard that does not exist is a usage error" 2 "$calibrate" "${run[@]}" --shard 4/4 -o "$scratch/no.h5"
stderr_has "--shard 4/4: shard 4, expected 0 to 3"
expect "--shard auto wants to be told" 2 "$calibrate" "${run[@]}" --shard auto -o "$scratch/no.h5"
expect "more shards than sequences are refused" 1 "$calibrate" "${run[@]}" --shard 0/7 -o "$scratch/no.h5"
stderr_has "700 test tokens are 6 sequences of 128, expected at least one for each of the 7 shards"
check "  and no file is left" no_output "$scratch/no.h5"
cat >"$scratch/pipeline.json" <<JSON
{"schema": "ropebits-pipeline", "version": 1, "model": "$PWD/$model", "text": "$PWD/$text",
 "calibrate": {"n_tokens": 256, "context": 128}, "profile": {"budgets": [3], "methods": ["uniform"]},
 "allocate": {"method": "uniform", "avg_bits": 3}, "export": {"formats": ["rbp"]}}
JSON
expect "ropebits run calibrates the whole text, too" 0 env SLURM_PROCID=1 SLURM_NTASKS=4 "$bin/ropebits" run \
    --device cpu "$scratch/pipeline.json" -o "$scratch/demo"
check "  into its capture" test -s "$scratch/demo/capture.h5"

# Weights, needles and beginning-of-text tokens are the whole run's.
head -c 20000 $test_text | head -n -1 >"$scratch/second.txt"
tail -c +20000 $test_text | tail -n +2 >"$scratch/test.txt"
mixed=(--model "$model" --text "$text" --text "$scratch/second.txt:2" --test-text "$scratch/test.txt" --device cpu)
mixed+=(--n-tokens 1200 --n-test-tokens 520 --context 256 --with-needles --needle-share 0.5 --bos text)
expect "two texts by weights, with needles" 0 "$calibrate" "${mixed[@]}" -o "$scratch/mixed.h5"
for i in 0 1; do
    expect "  shard $i/2 of it" 0 "$calibrate" "${mixed[@]}" --shard $i/2 -o "$scratch/mixed-$i.h5"
done
expect "  merged" 0 "$merge" "$scratch"/mixed-[01].h5 -o "$scratch/mixed-merged.h5"
check "  are the one run" "${compare[@]}" "$scratch/mixed.h5" "$scratch/mixed-merged.h5"

# ---- merge -----------------------------------------------------------------------------------------------------------
shards=("$scratch"/option-{0,1,2,3}.h5)
expect "four shards are merged" 0 "$merge" "${shards[@]}" -o "$scratch/merged.h5"
stdout_has "4 shards of one run"
stdout_has "1100 calibration tokens in sequences of 128, statistics of 1100"
expect "  in another order" 0 "$merge" --json "$scratch"/option-{2,0,3,1}.h5 -o "$scratch/again.h5"
check "  to the same bytes" cmp "$scratch/merged.h5" "$scratch/again.h5"
stdout_has '"ropebits-merge-result"'
expect "  with one thread" 0 "$merge" --threads 1 "$scratch"/array-{3,1,2,0}-of-4.h5 -o "$scratch/again.h5"
check "  to the same bytes" cmp "$scratch/merged.h5" "$scratch/again.h5"
expect "the merged capture is the one run" 0 "${compare[@]}" "$scratch/one.h5" "$scratch/merged.h5"
stdout_has "0 numbers of vectors differ"
sed 's/^/# /' "$scratch/stdout"

profile_of() { "$bin/ropebits-profile" -q --json --device cpu --budgets 3 --methods uniform,optimal-center "$1"; }
profile_of "$scratch/one.h5" >"$scratch/one.json"
profile_of "$scratch/merged.h5" >"$scratch/merged.json"
errors() { grep -oE '"(logit_mae|causal_mae|attention_kl|relative_error)": *[-+.0-9e]+' "$1"; }
same_errors() { # within 1e-6
    paste <(errors "$1") <(errors "$2") | awk '
        { if (NF != 4 || $2 - $4 > 1e-6 * $4 || $4 - $2 > 1e-6 * $4) exit bad = 1 } END { exit bad || NR < 8 }'
}
check "their profiles are the same" same_errors "$scratch/one.json" "$scratch/merged.json"

expect "a missing shard is named" 1 "$merge" "$scratch"/option-{0,1,3}.h5 -o "$scratch/no.h5"
stderr_has "3 of the 4 shards 0 to 3 are given, missing: 2"
stderr_lines 1
expect "a shard that is there twice is named" 1 "$merge" "${shards[@]}" "$scratch/array-1-of-4.h5" -o "$scratch/no.h5"
stderr_has "are both shard 1/4"
expect "a capture that is no shard does not go with shards" 1 "$merge" "${shards[@]}" "$scratch/one.h5" \
    -o "$scratch/no.h5"
stderr_has "option-0.h5 is a shard and $scratch/one.h5 is none"
"$calibrate" -q "${run[@]}" --shard 2/4 --n-tokens 1000 -o "$scratch/fewer.h5" >/dev/null
expect "a shard of other options is refused by the option" 1 "$merge" "$scratch"/option-{0,1,3}.h5 \
    "$scratch/fewer.h5" -o "$scratch/no.h5"
stderr_has "option-0.h5 and $scratch/fewer.h5: different options texts, expected shards of one run"
"$calibrate" -q "${run[@]}" --shard 2/5 -o "$scratch/fifth.h5" >/dev/null
expect "a shard of five does not go with shards of four" 1 "$merge" "${shards[@]}" "$scratch/fifth.h5" \
    -o "$scratch/no.h5"
stderr_has "numbers of shards 4 and 5"
# The same options, and another text under its name.
cp $text "$scratch/text.txt"
moved=(--model "$model" --text "$scratch/text.txt" --test-text "$test_text" --n-tokens 300 --context 128 --device cpu)
"$calibrate" -q "${moved[@]}" --shard 0/2 -o "$scratch/moved-0.h5" >/dev/null
tail -n +9 $text >"$scratch/text.txt"
"$calibrate" -q "${moved[@]}" --shard 1/2 -o "$scratch/moved-1.h5" >/dev/null
expect "a text that changed between two shards is seen" 1 "$merge" "$scratch"/moved-[01].h5 -o "$scratch/no.h5"
stderr_has "shards of different calibration tokens"
cp -r $model "$scratch/other" && sed -i 's/"rms_norm_eps": [^,]*/"rms_norm_eps": 1e-4/' "$scratch/other/config.json"
"$calibrate" -q "${run[@]}" --model "$scratch/other" --shard 2/4 -o "$scratch/other.h5" >/dev/null
expect "a shard of another model is refused" 1 "$merge" "$scratch"/option-{0,1,3}.h5 "$scratch/other.h5" \
    -o "$scratch/no.h5"
stderr_has "config_sha256"
head -c 100000 "$scratch/option-2.h5" >"$scratch/cut.h5"
expect "a damaged shard is one sentence" 1 "$merge" "$scratch"/option-{0,1,3}.h5 "$scratch/cut.h5" -o "$scratch/no.h5"
stderr_lines 1
stderr_has "cut.h5"
expect "a limit on open files is one sentence" 1 bash -c 'ulimit -n 30; exec "$@"' - "$merge" "${shards[@]}" \
    -o "$scratch/no.h5"
stderr_has "4 captures take 36 open files, the limit is 30 (ulimit -n)"
expect "a capture is not written over" 1 "$merge" "${shards[@]}" -o "$scratch/option-0.h5"
stderr_has "option-0.h5 is one of the captures to merge"
check "  and is what it was" cmp "$scratch/option-0.h5" "$scratch/array-0-of-4.h5"
check "no file is left of any of these" no_output "$scratch/no.h5"

# ---- fewer keys, and other texts -------------------------------------------------------------------------------------
expect "every second sequence is kept" 0 "$merge" "${shards[@]}" --every 2 -o "$scratch/thin.h5"
stdout_has "588 calibration tokens in sequences of 128, statistics of 1100"
expect "at most 512 tokens are" 0 "$merge" "${shards[@]}" --max-tokens 512 -o "$scratch/thin.h5"
stdout_has "512 calibration tokens in sequences of 128, statistics of 1100"
stdout_has "444 test tokens in sequences of 128, statistics of 700"
expect "  which profile reads" 0 "$bin/ropebits-profile" -q --device cpu --budgets 3 --methods uniform --no-curves \
    "$scratch/thin.h5" --json
expect "  merged again, it still counts all tokens" 0 "$merge" "$scratch/thin.h5" --every 2 -o "$scratch/thinner.h5"
stdout_has "256 calibration tokens in sequences of 128, statistics of 1100"
expect "both at once are a usage error" 2 "$merge" "${shards[@]}" --max-tokens 512 --every 2 -o "$scratch/no.h5"
other=(--model "$model" --text "$test_text" --n-tokens 640 --n-test-tokens 256 --context 128 --device cpu --values)
"$calibrate" -q "${other[@]}" -o "$scratch/prose.h5" >/dev/null
expect "a text that another tests on is refused" 1 "$merge" "$scratch/one.h5" "$scratch/prose.h5" -o "$scratch/no.h5"
stderr_has "the captures together: test text repeats the calibration text"
apart=(--model "$model" --device cpu --n-tokens 700 --n-test-tokens 256 --context 128)
"$calibrate" -q "${apart[@]}" --text $text -o "$scratch/a.h5" >/dev/null
"$calibrate" -q "${apart[@]}" --text "$scratch/second.txt" -o "$scratch/b.h5" >/dev/null
expect "captures of two texts are merged" 0 "$merge" "$scratch/a.h5" "$scratch/b.h5" -o "$scratch/both.h5"
stdout_has "2 captures of different texts"
stdout_has "1340 calibration tokens in sequences of 128, statistics of 1400"
stderr_has "60 calibration tokens are not stored"
expect "  in the other order" 0 "$merge" "$scratch/b.h5" "$scratch/a.h5" -o "$scratch/again.h5"
check "  to the same bytes" cmp "$scratch/both.h5" "$scratch/again.h5"
expect "a capture twice is refused" 1 "$merge" "$scratch/a.h5" "$scratch/a.h5" -o "$scratch/no.h5"
stderr_has "have the same calibration tokens"

# ---- score -----------------------------------------------------------------------------------------------------------
for name in a b; do
    "$bin/ropebits-profile" -q --device cpu --budgets 3 --no-curves "$scratch/$name.h5" \
        -o "$scratch/$name-p.h5" >/dev/null
    "$bin/ropebits-allocate" -q "$scratch/$name-p.h5" --method optimal-center --avg-bits 3 \
        -o "$scratch/$name.json" >/dev/null
done
score=("$bin/ropebits-score" --device cpu --plan "$scratch/a.json" --plan "$scratch/b.json")
expect "plans by captures" 0 "${score[@]}" "$scratch/a.h5" "$scratch/b.h5"
check "  its own capture has a star" grep -qE '^    1 +[0-9.]+\* +[0-9.]+$' "$scratch/stdout"
check "  in each row" grep -qE '^    2 +[0-9.]+ +[0-9.]+\*$' "$scratch/stdout"
expect "  as JSON" 0 "${score[@]}" "$scratch/a.h5" "$scratch/b.h5" --json
cp "$scratch/stdout" "$scratch/score.json"
mae() { grep -oE '"logit_mae": *[-+.0-9e]+' "$1" | sed -n "$2p"; }
for pair in "a b 2" "b b 4"; do
    read -r plan capture row <<<"$pair"
    "$bin/ropebits-profile" -q --device cpu "$scratch/$capture.h5" --plan "$scratch/$plan.json" --json \
        >"$scratch/alone.json"
    equal "plan $plan on capture $capture has the score of profile --plan" "$(mae "$scratch/alone.json" 1)" \
        "$(mae "$scratch/score.json" "$row")"
done
"$bin/ropebits-profile" -q --device cpu --budgets 3 --no-curves "$scratch/other.h5" -o "$scratch/o-p.h5" >/dev/null
"$bin/ropebits-allocate" -q "$scratch/o-p.h5" --method uniform --avg-bits 3 -o "$scratch/o.json" >/dev/null
expect "a plan of another model is refused" 1 "${score[@]}" --plan "$scratch/o.json" "$scratch/a.h5"
stderr_has "config_sha256"
expect "no plan is a usage error" 2 "$bin/ropebits-score" "$scratch/a.h5"

# ---- GPUs ------------------------------------------------------------------------------------------------------------
# A CUDA side of two GPUs that does nothing but count them and say which is wanted.
cat >"$scratch/two_gpus.c" <<'C'
#include <stdio.h>
#include "core/cuda_device.h"
static rb_status count(int *n, rb_error *err) { (void)err; *n = 2; return RB_OK; }
static rb_status open_device(int index, rb_cuda_info *info, rb_error *err)
{
    (void)info;
    snprintf(err->msg, sizeof err->msg, "GPU %d is a stand-in", index);
    return RB_EDEVICE;
}
extern const rb_cuda_runtime_api rb_cuda_runtime;
const rb_cuda_runtime_api rb_cuda_runtime = {.abi = RB_CUDA_ABI, .count = count, .open = open_device};
C
name="task 3 of a host takes GPU 1 of 2"
if ${CC:-cc} -std=c11 -I. -shared -fPIC "$scratch/two_gpus.c" -o "$scratch/two_gpus.so" 2>"$scratch/cc.log"; then
    on_gpu() {
        ROPEBITS_CUDA_LIBRARY=$scratch/two_gpus.so "$@" "$bin/ropebits-score" --device cuda \
            --plan "$scratch/a.json" "$scratch/a.h5"
    }
    expect "$name" 1 on_gpu env SLURM_LOCALID=3
    stderr_has "takes GPU 1 of 2, as SLURM_LOCALID is 3"
    stderr_has "GPU 1 is a stand-in"
    expect "  without a launcher GPU 0" 1 on_gpu
    stderr_has "GPU 0 is a stand-in"
    expect "  by mpirun's number first" 1 on_gpu env SLURM_LOCALID=2 OMPI_COMM_WORLD_LOCAL_RANK=1
    stderr_has "takes GPU 1 of 2, as OMPI_COMM_WORLD_LOCAL_RANK is 1"
else skip_case "$name" "no compiler for the stand-in: $(head -n 1 "$scratch/cc.log")"
fi

# ---- the job files ---------------------------------------------------------------------------------------------------
jobs=docs/examples/fleet
if command -v shellcheck >/dev/null; then
    check "the job files are clean shell" shellcheck -s bash $jobs/*.sbatch $jobs/*.sh
else skip_case "the job files are clean shell" "shellcheck is not installed"
fi
# srun as far as the job files use it: tasks one after the other, each told its number.
mkdir "$scratch/path"
cat >"$scratch/path/srun" <<'SRUN'
#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for ((i = 0; i < SLURM_NTASKS; i++)); do
    SLURM_PROCID=$i SLURM_STEP_NUM_TASKS=$SLURM_NTASKS SLURM_LOCALID=$((i % 4)) "$@" || exit
done
SRUN
chmod +x "$scratch/path/srun"
job() { # job FILE VARIABLE=VALUE...
    local file=$1; shift
    env PATH="$scratch/path:$(cd "$bin" && pwd):$PATH" MODEL="$model" TEXT="$text" TEST_TEXT="$test_text" \
        N_TOKENS=2048 \
        CONTEXT=64 DEVICE=cpu MAX_TOKENS=128 SLURM_CPUS_PER_TASK=1 THREADS=1 OUT="$scratch/jobs" "$@" \
        bash "$jobs/$file"
}
for i in 0 1 2 3; do
    expect "slurm-array.sbatch, job $i" 0 job slurm-array.sbatch SLURM_JOB_ID=9 SLURM_ARRAY_TASK_ID=$i \
        SLURM_ARRAY_TASK_COUNT=4 SLURM_ARRAY_TASK_MIN=0
done
expect "slurm-merge.sbatch" 0 job slurm-merge.sbatch SLURM_JOB_ID=10 SHARDS=4
check "  makes a plan" test -s "$scratch/jobs/plan.json"
cp "$scratch/jobs/plan.json" "$scratch/plan.json"
same_plan() { check "  makes the same plan" cmp "$scratch/jobs/plan.json" "$scratch/plan.json"; rm -r "$scratch/jobs"; }
rm -r "$scratch/jobs"
expect "slurm-srun.sbatch" 0 job slurm-srun.sbatch SLURM_JOB_ID=11 SLURM_NTASKS=4
same_plan
expect "one-machine.sh" 0 job one-machine.sh SHARDS=4
same_plan
if $has_mpi; then
    expect "openmpi.sh" 0 job openmpi.sh SHARDS=4 MPIRUN_OPTIONS=--oversubscribe
    same_plan
else skip_case "openmpi.sh" "mpirun is not installed"
fi

finish
