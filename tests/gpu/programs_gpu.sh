# programs_gpu.sh BIN: compares the programs on the GPU with the same programs on the CPU, on the bundled model. Runs
# from the repository's root or a bundle's.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/programs/tap.sh
if [ -f "$here/tap.sh" ]; then . "$here/tap.sh"; else . tests/programs/tap.sh; fi
bin=$1
model=(--model configs/demo-llama)
text=configs/demo-text/calibration.txt test_text=configs/demo-text/heldout.txt

calibrate() {   # calibrate DEVICE CAPTURE
    "$bin/ropebits-calibrate" --device "$1" --precision f32 --dtype f32 --values "${model[@]}" \
        --text "$text" --test-text "$test_text" --n-tokens 2048 --context 1024 -o "$2"
}
profile() {     # profile DEVICE CAPTURE OPTIONS...
    "$bin/ropebits-profile" --device "$@"
}
compare() {     # compare PERCENT BASELINE CANDIDATE
    "$bin/ropebits-compare" "$2" "$3" --max-regression "$1"
}

# The same tokens in f32, through both.
for device in cpu cuda; do
    expect "calibrate on $device" 0 calibrate $device "$scratch/$device.h5"
    expect "profile on $device" 0 profile $device "$scratch/cpu.h5" --budgets 2,3,4 --json \
        -o "$scratch/profile-$device.h5"
    cp "$scratch/stdout" "$scratch/$device.json"
    expect "allocate from the capture of $device" 0 profile cpu "$scratch/$device.h5" -q --budgets 3 --no-curves \
        -o "$scratch/p-$device.h5"
    expect "  at 3 bits" 0 "$bin/ropebits-allocate" "$scratch/p-$device.h5" --method block-gtq --avg-bits 3 \
        --value-bits 3 -o "$scratch/plan-$device.json"
    expect "  exported" 0 "$bin/ropebits-export" "$scratch/plan-$device.json" --format rbp -o "$scratch/plan-$device"
done
expect "the GPU's logit MAE is the CPU's within 0.5 %" 0 compare 0.5 "$scratch/cpu.json" "$scratch/cuda.json"
expect "  seen from the other side too" 0 compare 0.5 "$scratch/cuda.json" "$scratch/cpu.json"
# same_numbers A B MEMBER: every number of that name in one summary is that of the other within 0.5 %, and there are
# some.
same_numbers() {
    paste <(numbers "$1" "$3") <(numbers "$2" "$3") | awk '
        { a = $2; b = $4; if (NF != 4 || a - b > 0.005 * b || b - a > 0.005 * b) exit bad = 1 }
        END { exit bad || NR == 0 }'
}
numbers() { grep -oE "\"$2\":[[:space:]]*[-+.0-9e]+" "$1"; }
for member in causal_mae attended_mae attention_kl relative_error median p99 tail_ratio key_distance; do
    check "  and its $member, too" same_numbers "$scratch/cpu.json" "$scratch/cuda.json" $member
done
bits() { grep -oE '"bits": *\[[^]]*\]' "$1"; }
check "both captures give the same bits" diff <(bits "$scratch/plan-cpu.json") <(bits "$scratch/plan-cuda.json")
check "  and there are some" test -n "$(bits "$scratch/plan-cpu.json")"

expect "a second run on the GPU" 0 calibrate cuda "$scratch/again.h5"
check "  gives the same bytes" cmp "$scratch/cuda.h5" "$scratch/again.h5"

# Killed after some layer and continued. So many tokens that a layer takes longer than a signal; a run that was faster,
# or killed before it had saved a layer, is tried again.
for seed in 1 2; do
    awk -v seed=$seed 'BEGIN { srand(seed); for (i = 0; i < 16384; i++) print int(4096 * rand()) }' \
        >"$scratch/ids-$seed"
done
long=("$bin/ropebits-calibrate" --device cuda --values "${model[@]}" --tokens "$scratch/ids-1")
long+=(--test-tokens "$scratch/ids-2" --n-tokens 16384 --context 1024)
expect "a long run on the GPU" 0 "${long[@]}" -o "$scratch/long.h5"
continued=""
for _ in $(seq 20); do
    rm -rf "$scratch/killed.h5" "$scratch/killed.h5.parts"
    "${long[@]}" -q -o "$scratch/killed.h5" >/dev/null 2>&1 &
    victim=$!
    while kill -0 $victim 2>/dev/null && [ ! -s "$scratch/killed.h5.parts/stream.0" ]; do sleep 0.002; done
    sleep 0.01
    kill -KILL $victim 2>/dev/null
    wait $victim 2>/dev/null
    "${long[@]}" -o "$scratch/killed.h5" >/dev/null 2>"$scratch/stderr" || break
    if grep -q "continues after layer [123] of 4" "$scratch/stderr"; then continued=yes; break; fi
done
equal "  that was killed is continued" yes "$continued" "$(cat "$scratch/stderr")"
check "  to the same bytes" cmp "$scratch/long.h5" "$scratch/killed.h5"
check "  and leaves no parts" test ! -e "$scratch/killed.h5.parts"
rm -f "$scratch/long.h5" "$scratch/killed.h5"

expect "profile again on the GPU" 0 profile cuda "$scratch/cpu.h5" --budgets 2,3,4 --json \
    -o "$scratch/profile-again.h5"
check "  gives the same bytes" cmp "$scratch/profile-cuda.h5" "$scratch/profile-again.h5"

validate=("$bin/ropebits-validate" --device cuda --no-timing "$scratch/plan-cuda/plan-cuda.rbp" "$scratch/cuda.h5")
expect "the kernels are valid on captured keys and values" 0 "${validate[@]}"
stdout_has "against the C reference: valid"
sed 's/^/# /' "$scratch/stdout"
expect "  as JSON too" 0 "${validate[@]}" --json

evaluate() {    # evaluate DEVICE NAME
    expect "evaluate on $1" 0 "$bin/ropebits-evaluate" -q --device "$1" --precision f32 "${model[@]}" \
        --plan "$scratch/plan-cpu.json" --plan "$scratch/p2.json" --text $test_text --n-tokens 2048 \
        --needles 4 --needle-contexts 900 --sink 4 --recent 32 -o "$scratch/evaluation-$2.json"
}
"$bin/ropebits-allocate" -q "$scratch/p-cpu.h5" --method uniform --avg-bits 2 --value-bits 2 \
    -o "$scratch/p2.json" >/dev/null
evaluate cpu cpu
evaluate cuda cuda
evaluate cuda again
on_cpu=$scratch/evaluation-cpu.json on_gpu=$scratch/evaluation-cuda.json
expect "the GPU's evaluation is the CPU's within 3 %" 0 compare 3 "$on_cpu" "$on_gpu"
expect "  seen from the other side too" 0 compare 3 "$on_gpu" "$on_cpu"
for member in perplexity attention_kl attention_overlap output_error; do
    check "  and its $member, within 0.5 %" same_numbers "$on_cpu" "$on_gpu" $member
done
check "  a second run gives the same bytes" cmp "$on_gpu" "$scratch/evaluation-again.json"
expect "too little GPU memory for evaluate is one sentence" 1 "$bin/ropebits-evaluate" -q --device cuda \
    --max-gpu-memory 1MiB "${model[@]}" --plan "$scratch/p2.json" --text $test_text
stderr_lines 1

expect "the whole pipeline runs on the GPU" 0 "$bin/ropebits" run --device cuda configs/demo.json -o "$scratch/demo"
expect "a GPU that is not there is one sentence" 1 profile cuda:63 "$scratch/cpu.h5" -o "$scratch/none.h5"
stderr_lines 1
expect "too little GPU memory is one sentence" 1 "$bin/ropebits-calibrate" -q --device cuda --max-gpu-memory 1MiB \
    "${model[@]}" --text $text --n-tokens 1024 -o "$scratch/none.h5"
stderr_lines 1
check "  and no file is left" no_output "$scratch/none.h5"

# Numbers that are far too large, as if one had drifted: the gate must say no.
sed -E 's/"logit_mae": *([0-9])/"logit_mae": 1\1/' "$scratch/cuda.json" >"$scratch/worse.json"
expect "a planted error is seen" 3 compare 0.5 "$scratch/cpu.json" "$scratch/worse.json"

# Generated sources, whose own check program holds the kernels to the definition's codes and to the plain reader.
kernels_agree() { # kernels_agree FOLDER
    (cd "$1" && nvcc -std=c++17 -O2 -arch=native -o check check.cu plan_decoder.c plan_tables.c test_vectors.c &&
        ./check)
}
for method in block-gtq optimal-center block-codebook trellis; do
    name="the generated kernels of $method agree with the definition"
    if ! command -v nvcc >/dev/null; then
        skip_case "$name" "no nvcc"
        continue
    fi
    "$bin/ropebits-allocate" -q "$scratch/p-cpu.h5" --method $method --true-bits 3 -o "$scratch/$method.json" >/dev/null
    expect "sources of $method" 0 "$bin/ropebits-export" "$scratch/$method.json" --format cuda \
        --capture "$scratch/cpu.h5" -o "$scratch"
    check "$name" kernels_agree "$scratch/$method-cuda"
done

finish
