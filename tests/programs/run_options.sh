# Pipeline files say what the stages' programs can: every option that `--complete` lists is a member of its section, or
# is an exception below. Then one pipeline uses many of them at once.
. tests/programs/tap.sh

# What a pipeline file does not say, and why.
#   all             threads, device and verbosity are ropebits run's own, json and output are where the run puts things
#   calibrate       model, text, test-text, bos: at the top. dry-run makes no capture. shard: a run is one process.
#                   no-resume: a run goes on where it was stopped
#   profile         plan: there is none yet. model: the run's summary names tokens by id. no-coverage-warning: the run
#                   tells it at its end
#   allocate        sweep, evaluation: no plan comes of them
#   export          format: it is `formats`. summary, profile, evaluation, model, capture: the run's own
#   evaluate        model, bos: at the top. write-documents: the same options make the same documents again
common="json threads device verbose quiet help version output"
exceptions() {
    case $1 in
        calibrate) echo "model text test-text bos dry-run shard no-resume" ;;
        profile) echo "plan model no-coverage-warning" ;;
        allocate) echo "sweep evaluation" ;;
        export) echo "format summary profile evaluation model capture" ;;
        evaluate) echo "model bos write-documents" ;;
    esac
}
# unsaid STAGE: its options that are neither a member nor an exception. A misspelt member after each shows that the file
# was read that far.
unsaid() {
    local name member
    for name in $("$bin/ropebits-$1" --complete | cut -f1 | sed 's/^--//'); do
        case " $common $(exceptions "$1") " in *" $name "*) continue ;; esac
        member=${name//-/_}
        printf '{"schema": "ropebits-pipeline", "version": 1, "%s": {"%s": 1, "is_no_member": 1}}' "$1" "$member" \
            >"$scratch/one.json"
        "$bin/ropebits-run" "$scratch/one.json" -o "$scratch/none" 2>&1 | grep -q '"is_no_member"' || echo "$name"
    done
}
# stale STAGE: exceptions that are options no more.
stale() {
    "$bin/ropebits-$1" --complete | cut -f1 | sed 's/^--//' >"$scratch/names"
    for name in $(exceptions "$1"); do
        grep -qxF "$name" "$scratch/names" || echo "$name"
    done
}
for stage in calibrate profile allocate export evaluate; do
    none "every option of $stage can be said" "$(unsaid "$stage")"
    none "  and its exceptions are options" "$(stale "$stage")"
done

pipeline() {    # pipeline NAME ALLOCATE EXPORT EVALUATE
    cat >"$scratch/$1.json" <<END
{ "schema": "ropebits-pipeline", "version": 1, "model": "$PWD/configs/demo-llama", "bos": "sequence",
  "text": "$PWD/configs/demo-text/calibration.txt", "test_text": "$PWD/configs/demo-text/heldout.txt",
  "calibrate": {"n_tokens": 256, "n_test_tokens": 128, "context": 64, "values": true, "hash_weights": true,
                "precision": "f32", "max_gpu_memory": "1GiB"},
  "profile": {"budgets": [3], "methods": ["block-gtq"], "metric_tokens": 128, "metric_draws": 2, "seeds": 2,
              "no_curves": true, "worst_tokens": 2},
  "allocate": {$2}, "export": {$3}, "evaluate": {$4} }
END
}
run() { "$bin/ropebits-run" -q --device cpu "$scratch/$1.json" -o "$scratch/$1"; }
# said NAME STAGE WORDS: the command line in the stage's stamp has these words, in this order.
said() { check "  $2 was told $3" grep -qF -- "$3" <(tr -d '\n"[' <"$scratch/$1/.stages/$2.json" | tr -s ' '); }

pipeline groups '"method": "optimal", "true_bits": 3.25, "value_bits": 3, "value_per": "head", "least_value_bits": 1,
    "center": true, "norm": "fp16", "encoder": "nearest", "codebook": "block-gtq", "groups": 2, "widths": [2, 4, 8],
    "per": "layer", "least_share": 0.5, "no_equalize": true, "rotation": "hadamard", "sink": 2, "recent": 8' \
    '"formats": ["rbp", "cuda", "vllm"], "allow_larger": true' \
    '"plan": true, "n_tokens": 64, "context": 32, "needles": 1, "needle_contexts": [200], "depths": [0.5],
    "understanding": 1, "understanding_tasks": ["copy"], "understanding_contexts": [150], "seed": 3, "keys_only": true,
    "attention_stride": 8, "worst_tokens": 1, "precision": "f32", "max_gpu_memory": "1GiB"'
expect "a pipeline says much at once" 0 run groups
said groups calibrate "--hash-weights"
said groups profile "--metric-draws, 2"
said groups allocate "--true-bits, 3.25"
said groups allocate "--widths, 2,4,8"
said groups allocate "--center"
said groups export "--allow-larger"
said groups evaluate "--depths, 0.5"
stdout_has "optimal-center K"
check "  the plan keeps its exact tokens" grep -q '"recent": 8' "$scratch/groups/plan.json"
check "  kernels are written, with the capture's vectors" test -s "$scratch/groups/plan-cuda/README.md"
check "  and another runtime's file" test -s "$scratch/groups/plan-vllm.yaml"
rm "$scratch/groups/plan-vllm.yaml"
expect "a lost file of export is made again" 0 run groups
check "  it is there" test -s "$scratch/groups/plan-vllm.yaml"

pipeline memory '"method": "block-codebook", "memory": "1MiB", "context": 2048, "gain_bits": 2, "value_bits": 4' \
    '"formats": ["rbp"]' '"budgets": [3], "methods": ["uniform"], "plan": true, "n_tokens": 64, "values_only": true'
expect "a budget may be memory" 0 run memory
said memory allocate "--memory, 1MiB"
stdout_has "block-codebook K"
stdout_has "uniform K3V3"

pipeline none '"method": "block-codebook", "value_bits": 4' '' '"plan": true'
expect "a pipeline without a budget is refused before anything runs" 1 run none
stderr_has "none.json: allocate has 0 budgets, expected one of avg_bits, true_bits, total_bits, bytes_per_token, or"
check "  and leaves no folder" test ! -e "$scratch/none"
pipeline near '"method": "uniform", "avg-bits": 4' '' '"plan": true'
expect "a misspelt member is told the nearest" 1 run near
stderr_has 'near.json: allocate has no member "avg-bits"; did you mean "avg_bits"?'
finish
