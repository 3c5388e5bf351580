#!/bin/bash
# same-bytes.sh OLD_BIN NEW_BIN [WORK_FOLDER]: do two builds of ropebits write the same bytes?
#
# For whoever refactors: build the commit before the change, build the one after it, and give both bin folders to this
# script. It is no part of `make check`, because it needs two builds.
#
# Both builds run the same commands at the same time, each in a folder of its own with relative paths: every model,
# every method, every format, every program. Then every file they wrote and stdout, stderr and exit code of every
# command are compared byte for byte. Three things are left out, since they differ between two runs of one build: how
# long something took, progress lines, and the stamps of `run`, which hold the hash of the programs. A command that
# should work and fails in both builds shows nothing, so it counts as a difference.
#
# Prints a line for each output that differs, with what differs first, and `N outputs the same, N differ`. Exits 1 when
# one differs or nothing was compared. SAME_EXCEPT=REGEX leaves out the outputs whose names match, for a change that is
# meant. Without a WORK_FOLDER the files are removed at the end. The models of the shared folder ($RB_SHARED, or
# ../shared) are taken where they are there, the bundled one always.
set -u
[ $# -ge 2 ] || { echo "usage: same-bytes.sh OLD_BIN NEW_BIN [WORK_FOLDER]" >&2; exit 2; }
for bin in "$1" "$2"; do [ -x "$bin/ropebits" ] || { echo "same-bytes: $bin/ropebits is not there" >&2; exit 2; }; done
old_bin=$(realpath "$1") new_bin=$(realpath "$2")
work=${3:-}
[ -z "$work" ] || { mkdir -p "$work" && work=$(realpath "$work"); } || exit 2
cd "$(dirname "$0")/.." || exit 2
shared=$(realpath -m "${RB_SHARED:-../shared}")
[ -n "$work" ] || { work=$(mktemp -d "${TMPDIR:-/tmp}/ropebits-same-XXXXXX") && trap 'rm -rf "$work"' EXIT; } || exit 2
methods=uniform,block-gtq,optimal,optimal-center,block-codebook

# ---- running commands ------------------------------------------------------------------------------------------------

# Lines of stderr that tell how far a program is or how long it took.
of_time='^[a-z]+: ([0-9]+/[0-9]+.*, ([0-9]+ (h|min) )*[0-9]+ s( left)?|info: .* took [0-9.]+ s.*)$'

# says NAME PROGRAM OPTIONS...: runs it and keeps stdout, stderr and exit code, whatever it is.
says() {
    local name=said/$1 code; shift
    mkdir -p "$(dirname "$name")"
    "bin/$1" "${@:2}" >"$name.stdout.raw" 2>"$name.stderr.raw" </dev/null
    code=$?
    echo $code >"$name.code"
    sed -E 's/, [0-9.]+ s$/, TIME/' "$name.stdout.raw" >"$name.stdout"
    grep -vE "$of_time" "$name.stderr.raw" >"$name.stderr"
    rm "$name.stdout.raw" "$name.stderr.raw"
    return $code
}

# makes NAME PROGRAM OPTIONS...: the same for a command that has to work.
makes() { says "$@" || echo "$1 ends with exit code $(cat "said/$1.code"): $(head -n 1 "said/$1.stderr")" >>failed; }

# both NAME PROGRAM OPTIONS...: as text and as JSON.
both() {
    makes "$1.text" "${@:2}"
    makes "$1.json" "${@:2}" --json
}

# ---- plans -----------------------------------------------------------------------------------------------------------

# Each line is a plan: its name and the options of allocate. BYTES is what uniform takes at 2 bits.
small_plans="
uniform-2            --method uniform --avg-bits 2
uniform-3-hadamard   --method uniform --avg-bits 3 --rotation hadamard --value-bits 4
block-gtq-2.5        --method block-gtq --avg-bits 2.5 --value-per head --value-bits 2.5
optimal-2            --method optimal --avg-bits 2
optimal-1.75         --method optimal --true-bits 1.75 --value-bits 16
optimal-center-2.75  --method optimal-center --avg-bits 2.75 --rotation hadamard
block-codebook-2     --method block-codebook --avg-bits 2
"
more_plans="
uniform-true         --method uniform --true-bits 4.3
block-gtq-2          --method block-gtq --avg-bits 2
block-gtq-3.3        --method block-gtq --avg-bits 3.3 --rotation hadamard --value-bits 2
block-gtq-bytes      --method block-gtq --bytes-per-token BYTES
block-gtq-memory     --method block-gtq --memory BYTESKiB --context 1024 --value-per head
optimal-3.5          --method optimal --avg-bits 3.5 --value-per head --value-bits 3.25 --least-value-bits 1
optimal-bytes        --method optimal --bytes-per-token BYTES
optimal-drops        --method optimal --true-bits 1.25
optimal-widths       --method optimal --avg-bits 3 --widths 0,2,4,8
optimal-plain        --method optimal --avg-bits 3 --no-equalize --norm fp16 --encoder nearest --codebook block-gtq
optimal-groups       --method optimal --avg-bits 2 --groups 2 --per layer
optimal-head         --method optimal --avg-bits 3 --per head --rotation hadamard
optimal-share        --method optimal --avg-bits 2 --least-share 0.5 --center
optimal-center-2     --method optimal-center --avg-bits 2
optimal-center-1.5   --method optimal-center --true-bits 1.5 --norm fp16
block-codebook-2.75  --method block-codebook --avg-bits 2.75 --gain-bits 0 --value-per head --value-bits 2.5
block-codebook-true  --method block-codebook --true-bits 1.5 --per model --least-share 0.8 --gain-bits 4
block-codebook-bytes --method block-codebook --bytes-per-token BYTES --per layer
"

show_plan() {   # show_plan MODEL NAME: everything that reads a plan and is quick
    local m=$1 plan=$1/$2.json said=$1/plans/$2 last
    last=$(grep -c '"layer":' "$plan")
    makes "$said.export" ropebits-export "$plan" --format rbp,header,safetensors,json,report \
        --summary "$m/summary.json" -o "$m/export/$2"
    makes "$said.inspect" ropebits-inspect "$plan"
    makes "$said.inspect-color" ropebits-inspect --color always "$m/export/$2/$2.rbp"
    makes "$said.inspect-layer" ropebits-inspect --layer $((last - 1)) "$m/export/$2/$2.rbp"
    makes "$said.inspect-json" ropebits-inspect --json "$m/export/$2/$2.rbp"
    both "$said.explain" ropebits-explain "$plan" --profile "$m/profile.h5" --layer 0 --kv-head 0
    makes "$said.explain-last" ropebits-explain "$m/export/$2/$2.rbp" --profile "$m/profile.h5" --json \
        --layer $((last - 1)) --kv-head 1
}

# make_plans MODEL HOW PLANS: HOW is `makes`, as text, or `both`.
make_plans() {
    local m=$1 how=$2 name options bytes
    while read -r name options; do
        [ -n "$name" ] || continue
        case $options in *BYTES*)
            bytes=$(sed -n 's/.*"bytes_per_token": \([0-9]*\).*/\1/p' "$m/uniform-2.json" | head -n 1)
            options=${options//BYTES/$bytes} ;;
        esac
        # shellcheck disable=SC2086  # options are meant to split
        "$how" "$m/plans/$name.allocate" ropebits-allocate "$m/profile.h5" $options -o "$m/$name.json"
        show_plan "$m" "$name"
    done <<<"$3"
}

sweep() {       # sweep MODEL: one sweep for each method, since a sweep of all has methods that only one build knows
    for method in ${methods//,/ }; do
        makes "$1/sweep-$method" ropebits-allocate "$1/profile.h5" --sweep 1.5:4:1.25 --method "$method" \
            -o "$1/sweep-$method.json"
    done
}

use_plans() {   # use_plans MODEL FOLDER: what reads a capture or a checkpoint besides
    local m=$1 folder=$2 a b
    for a in optimal-2 optimal-center-2.75; do
        # What a model with q_norm says depends on its heads.
        says "$m/folded-$a" ropebits-export "$m/$a.json" --format folded --model "$folder" -o "$m/folded"
    done
    while read -r a b; do both "$m/diff-$a-$b" ropebits-diff "$m/$a" "$m/$b"; done <<PAIRS
uniform-2.json block-gtq-2.5.json
optimal-2.json optimal-center-2.75.json
optimal-1.75.json block-codebook-2.json
block-codebook-2.json block-codebook-2.json
optimal-2.json export/optimal-2/optimal-2.rbp
PAIRS
    for a in uniform-3-hadamard optimal-center-2.75 block-codebook-2; do
        makes "$m/validate-$a" ropebits-validate --device cpu --n-tokens 16 "$m/$a.json" "$m/capture.h5"
    done
    makes "$m/validate-json" ropebits-validate --device cpu --n-tokens 32 --types f16 --json \
        "$m/export/block-gtq-2.5/block-gtq-2.5.rbp" "$m/capture.h5"
    makes "$m/score-text" ropebits-profile --device cpu "$m/capture.h5" --plan "$m/optimal-2.json"
    makes "$m/score-json" ropebits-profile --device cpu "$m/capture.h5" --plan "$m/block-codebook-2.json" --json
    says "$m/compare-plan" ropebits-compare "$m/summary.json" "said/$m/score-json.stdout"
}

evaluate() {    # evaluate MODEL FOLDER OPTIONS...
    local m=$1 folder=$2
    makes "$m/evaluate" ropebits-evaluate --device cpu --model "$folder" --text text/second.txt --n-tokens 256 \
        --context 128 --plan "$m/uniform-2.json" --plan "$m/export/block-gtq-2.5/block-gtq-2.5.rbp" \
        --plan "$m/optimal-center-2.75.json" --plan "$m/block-codebook-2.json" "${@:3}" -o "$m/evaluation.json"
    makes "$m/compare-evaluation" ropebits-compare "$m/evaluation.json" "$m/evaluation.json"
}

# ---- models ----------------------------------------------------------------------------------------------------------

# measure MODEL BUDGETS CALIBRATE_OPTIONS...: capture and profile.
measure() {
    local m=$1 budgets=$2
    mkdir -p "$m"
    makes "$m/dry-run" ropebits-calibrate "${@:3}" --dry-run
    makes "$m/calibrate" ropebits-calibrate --device cpu "${@:3}" --values --hash-weights --json -o "$m/capture.h5"
    makes "$m/profile" ropebits-profile --device cpu "$m/capture.h5" --budgets "$budgets" --methods $methods --json \
        -o "$m/profile.h5"
    cp "said/$m/profile.stdout" "$m/summary.json"
}

texts=(--text text/first.txt --test-text text/second.txt)

shared_model() {    # shared_model NAME: of shared/models, with a tokenizer
    measure "$1" 2,3.5 --model "shared/models/$1" "${texts[@]}" --n-tokens 256 --context 128
    make_plans "$1" makes "$small_plans"
    use_plans "$1" "shared/models/$1"
    evaluate "$1" "shared/models/$1" --n-tokens 128 --context 64
}

# oracle_model NAME: of shared/oracle, where each folder is an architecture with random weights and no tokenizer. It
# borrows a tokenizer of bytes.
oracle_model() {
    local m=oracle-$1 folder=models/$1 file
    local tokenizer=shared/cases/claimed-families/smollm2-shape/tokenizer.json
    if ! says "oracle-$1/dry-run" ropebits-calibrate --model "shared/oracle/$1" --dry-run; then return; fi
    mkdir -p "$folder"
    for file in config.json model.safetensors; do ln -s "../../shared/oracle/$1/$file" "$folder/"; done
    [ ! -e "$tokenizer" ] ||
        sed 's/{"type": "Digits", "individual_digits": true}, //' "$tokenizer" >"$folder/tokenizer.json"
    measure "$m" 2,3.5 --model "$folder" --tokens text/first.ids --test-tokens text/second.ids --n-tokens 256 \
        --context 128
    make_plans "$m" makes "$small_plans"
    use_plans "$m" "$folder"
    [ ! -e "$tokenizer" ] || evaluate "$m" "$folder" --n-tokens 128 --context 64
}

# The bundled model has every option.
demo_model() {
    local m=demo model=configs/demo-llama
    measure $m 2,3,3.5 --model $model "${texts[@]}" --n-tokens 512 --context 256
    make_plans $m both "$small_plans"
    make_plans $m makes "$more_plans"
    sweep $m
    use_plans $m $model
    evaluate $m $model --needles 1 --needle-tasks single,multikey --needle-contexts 320 \
        --write-documents $m/documents.json
    demo_captures
    demo_evaluations
    demo_comparisons
    makes $m/profile-text ropebits-profile --device cpu $m/capture.h5 --budgets 2,2.5 --worst-tokens 3 --model $model \
        --no-curves -o $m/no-curves.h5
    makes $m/validate-all ropebits-validate --device cpu --types bf16,f32 $m/block-gtq-2.json $m/capture.h5
}

demo_captures() {
    local demo=(ropebits-calibrate --device cpu --model configs/demo-llama)
    makes demo/calibrate-needles "${demo[@]}" "${texts[@]}" --n-tokens 512 --context 256 --with-needles \
        --needle-share 0.5 --needle-template plain -o demo/needles.h5
    makes demo/calibrate-f32 "${demo[@]}" --text text/first.txt --n-tokens 200 --n-test-tokens 100 --dtype f32 \
        -o demo/f32.h5
    makes demo/calibrate-texts "${demo[@]}" --text text/first.txt --text text/second.txt:2 --test-text text/third.txt \
        --n-tokens 768 --n-test-tokens 200 --context 128 -o demo/texts.h5
    makes demo/transfer ropebits-profile --device cpu demo/needles.h5 --plan demo/optimal-3.5.json --json
}

demo_evaluations() {
    local demo=(ropebits-evaluate --device cpu --model configs/demo-llama --text text/second.txt)
    demo+=(--n-tokens 128 --context 64)
    makes demo/evaluate-keys "${demo[@]}" --plan demo/optimal-widths.json --keys-only --sink 4 --recent 8 \
        -o demo/evaluation-keys.json
    makes demo/evaluate-values "${demo[@]}" --plan demo/block-codebook-2.75.json --values-only --attention-stride 3 \
        --worst-tokens 9 --json -o demo/evaluation-values.json
    makes demo/evaluate-documents "${demo[@]}" --plan demo/block-gtq-bytes.json --documents demo/documents.json \
        -o demo/evaluation-documents.json
}

demo_comparisons() {
    local baseline=fixtures/demo-baseline.json
    both demo/compare-same ropebits-compare $baseline $baseline
    sed 's/\("logit_mae": \)[0-9]/\19/' $baseline >demo/worse.json
    says demo/compare-worse ropebits-compare -v $baseline demo/worse.json
    says demo/compare-better ropebits-compare --json --max-regression 3 demo/worse.json $baseline
    sed 's/\("perplexity": \)[0-9]/\19/' demo/evaluation.json >demo/worse-evaluation.json
    says demo/compare-evaluation-worse ropebits-compare -v demo/evaluation.json demo/worse-evaluation.json
    says demo/compare-evaluation-json ropebits-compare --json demo/evaluation.json demo/worse-evaluation.json
}

# configs/demo.json with a shorter evaluation, and a pipeline with the options that it does not have.
pipelines() {
    sed -e 's|"demo-|"configs/demo-|' -e 's/1024, "context": 512, "needles": 8/256, "context": 256, "needles": 1/' \
        configs/demo.json >demo.json
    makes run/demo ropebits-run --device cpu demo.json -o run
    makes run/again ropebits-run --device cpu demo.json -o run
    cat >own.json <<'PIPELINE'
{ "schema": "ropebits-pipeline", "version": 1, "model": "configs/demo-llama",
  "text": ["text/first.txt", "text/second.txt:2"], "test_text": "text/third.txt",
  "calibrate": { "n_tokens": 768, "n_test_tokens": 256, "context": 256, "dtype": "f32", "values": true,
                 "with_needles": true, "needle_template": "plain" },
  "profile": { "budgets": [2, 2.5], "methods": ["block-gtq", "optimal"] },
  "allocate": { "method": "optimal", "avg_bits": 2.5, "value_bits": 2, "value_per": "head" },
  "export": { "formats": ["rbp", "header", "safetensors", "json"] },
  "evaluate": { "budgets": [2], "methods": ["optimal", "block-codebook"], "n_tokens": 128, "context": 64, "sink": 2 } }
PIPELINE
    makes run/own ropebits-run --device cpu --json own.json -o own
}

# ---- what is refused -------------------------------------------------------------------------------------------------

refusals() {
    local name
    for name in calibrate profile allocate export inspect explain diff evaluate compare validate run; do
        makes "help/$name" "ropebits-$name" --help
        says "usage/$name" "ropebits-$name"
        says "usage/$name-option" "ropebits-$name" --no-such-option
        says "usage/$name-absent" "ropebits-$name" absent.json absent.h5 -o absent/absent.json
    done
    makes help/ropebits ropebits help
    says usage/ropebits ropebits inspct
    says refused/method ropebits-allocate demo/profile.h5 --method none --avg-bits 2 -o x.json
    says refused/bits ropebits-allocate demo/profile.h5 --method optimal --avg-bits 9 -o x.json
    says refused/uniform ropebits-allocate demo/profile.h5 --method uniform --avg-bits 2.5 -o x.json
    says refused/bytes ropebits-allocate demo/profile.h5 --method optimal --bytes-per-token 8 -o x.json
    says refused/capture ropebits-allocate demo/capture.h5 --method optimal --avg-bits 2 -o x.json
    says refused/text ropebits-calibrate --device cpu --model configs/demo-llama --text text/first.txt \
        --n-tokens 900000 -o x.h5
    says refused/head ropebits-explain demo/optimal-2.json --profile demo/profile.h5 --layer 9 --kv-head 0
    says refused/folded ropebits-export demo/block-gtq-2.json --format folded --model configs/demo-llama -o x
    head -c 700 demo/export/optimal-2/optimal-2.rbp >short.rbp
    head -c 9000 demo/optimal-2.json >short.json
    sed 's/"theta": 10000/"theta": 20000/' demo/optimal-2.json >theta.json
    sed 's/"head_dim": 64/"head_dim": 62/' demo/optimal-2.json >head-dim.json
    sed 's/"true_bits": 2/"true_bits": 3/' demo/block-codebook-2.json >bits.json
    for name in short.rbp short.json head-dim.json bits.json; do says "refused/$name" ropebits-inspect $name; done
    says refused/theta ropebits-diff theta.json demo/optimal-2.json
    says refused/theta-validate ropebits-validate --device cpu theta.json demo/capture.h5
}

# ---- both builds -----------------------------------------------------------------------------------------------------

ids() { awk -v x="$1" 'BEGIN { for (i = 0; i < 256; i++) { x = (x * 1103 + 12345) % 65536; print x % 320 } }'; }

make_all() {    # make_all BIN FOLDER
    local folder
    mkdir "$2" && cd "$2" && mkdir text || exit 1
    ln -s "$1" bin && ln -s "$top/configs" configs && ln -s "$top/tests/fixtures" fixtures
    [ ! -d "$shared" ] || ln -s "$shared" shared
    cp configs/demo-text/calibration.txt text/first.txt
    head -c 12000 configs/demo-text/heldout.txt | head -n -1 >text/second.txt
    tail -c 8000 configs/demo-text/heldout.txt | tail -n +2 >text/third.txt
    ids 7 >text/first.ids
    ids 9 >text/second.ids
    demo_model
    pipelines
    refusals
    for folder in shared/models/small-*; do [ ! -e "$folder/config.json" ] || shared_model "${folder##*/}"; done
    for folder in shared/oracle/*; do [ ! -e "$folder/config.json" ] || oracle_model "${folder##*/}"; done
}

outputs() { (cd "$1" && find . -type f ! -path '*/.stages/*' ! -path ./failed | sed 's|^\./||'); }

# first_difference FILE: in a text the first line that differs, in anything else the first byte.
first_difference() {
    if grep -qI . old/"$1" && grep -qI . new/"$1"; then
        diff old/"$1" new/"$1" | grep -m 2 '^[<>0-9]' | cut -c1-100 | paste -sd ' '
    else
        cmp old/"$1" new/"$1" 2>&1 | sed 's/.*differ: //; s/.*EOF on/shorter:/'
    fi
}

compare_all() {
    local file same=0 differ=0 left_out=0
    while read -r file; do
        if [ -n "${SAME_EXCEPT:-}" ] && [[ $file =~ $SAME_EXCEPT ]]; then
            left_out=$((left_out + 1))
        elif [ ! -e "old/$file" ]; then echo "$file: only the new build has it"; differ=$((differ + 1))
        elif [ ! -e "new/$file" ]; then echo "$file: only the old build has it"; differ=$((differ + 1))
        elif cmp -s "old/$file" "new/$file"; then same=$((same + 1))
        else echo "$file: $(first_difference "$file")"; differ=$((differ + 1))
        fi
    done < <({ outputs old; outputs new; } | sort -u)
    while read -r file; do echo "shows nothing: $file"; differ=$((differ + 1)); done < <(cat old/failed 2>/dev/null)
    echo "$same outputs the same, $differ differ${SAME_EXCEPT:+, $left_out left out}"
    [ "$differ" -eq 0 ] && [ "$same" -gt 0 ]
}

export OMP_WAIT_POLICY=passive      # two builds share the cores
top=$PWD
if [ -e "$work/old" ] || [ -e "$work/new" ]; then echo "same-bytes: $work has files of an earlier run" >&2; exit 2; fi
(make_all "$old_bin" "$work/old") &
(make_all "$new_bin" "$work/new") &
wait
cd "$work" && compare_all
