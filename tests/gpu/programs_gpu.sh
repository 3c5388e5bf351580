# programs_gpu.sh BIN: the programs on the GPU against the same programs on the CPU, on the bundled model. From the repository's root or a bundle's.
here=$(cd "$(dirname "$0")" && pwd)
if [ -f "$here/tap.sh" ]; then . "$here/tap.sh"; else . tests/programs/tap.sh; fi
bin=$1

# The same tokens in f32, through both.
for device in cpu cuda; do
    expect "calibrate on $device" 0 "$bin/ropebits-calibrate" --device $device --precision f32 --dtype f32 --values --model configs/demo-llama \
        --text configs/demo-text/calibration.txt --test-text configs/demo-text/heldout.txt --n-tokens 2048 --context 1024 -o "$scratch/$device.h5"
    expect "profile on $device" 0 "$bin/ropebits-profile" --device $device "$scratch/cpu.h5" --budgets 2,3,4 --json -o "$scratch/profile-$device.h5"
    cp "$scratch/stdout" "$scratch/$device.json"
    expect "allocate from the capture of $device" 0 "$bin/ropebits-profile" --device cpu -q "$scratch/$device.h5" --budgets 3 --no-curves -o "$scratch/p-$device.h5"
    expect "  at 3 bits" 0 "$bin/ropebits-allocate" "$scratch/p-$device.h5" --method block-gtq --avg-bits 3 --value-bits 3 -o "$scratch/plan-$device.json"
    expect "  exported" 0 "$bin/ropebits-export" "$scratch/plan-$device.json" --format rbp -o "$scratch/plan-$device"
done
expect "the GPU's logit MAE is the CPU's within 0.5 %" 0 "$bin/ropebits-compare" "$scratch/cpu.json" "$scratch/cuda.json" --max-regression 0.5
expect "  seen from the other side too" 0 "$bin/ropebits-compare" "$scratch/cuda.json" "$scratch/cpu.json" --max-regression 0.5
# same_numbers A B MEMBER: every number of that name in one summary is that of the other within 0.5 %, and there are some.
same_numbers() {
    paste <(grep -oE "\"$3\":[[:space:]]*[-+.0-9e]+" "$1") <(grep -oE "\"$3\":[[:space:]]*[-+.0-9e]+" "$2") |
        awk '{ a = $2; b = $4; if (NF != 4 || a - b > 0.005 * b || b - a > 0.005 * b) exit bad = 1 } END { exit bad || NR == 0 }'
}
for member in causal_mae attended_mae attention_kl relative_error median p99 tail_ratio key_distance; do
    check "  and its $member, too" same_numbers "$scratch/cpu.json" "$scratch/cuda.json" $member
done
bits() { grep -oE '"bits": *\[[^]]*\]' "$1"; }
check "both captures give the same bits" diff <(bits "$scratch/plan-cpu.json") <(bits "$scratch/plan-cuda.json")
check "  and there are some" test -n "$(bits "$scratch/plan-cpu.json")"

expect "a second run on the GPU" 0 "$bin/ropebits-calibrate" --device cuda --precision f32 --dtype f32 --values --model configs/demo-llama \
    --text configs/demo-text/calibration.txt --test-text configs/demo-text/heldout.txt --n-tokens 2048 --context 1024 -o "$scratch/again.h5"
check "  gives the same bytes" cmp "$scratch/cuda.h5" "$scratch/again.h5"
expect "profile again on the GPU" 0 "$bin/ropebits-profile" --device cuda "$scratch/cpu.h5" --budgets 2,3,4 --json -o "$scratch/profile-again.h5"
check "  gives the same bytes" cmp "$scratch/profile-cuda.h5" "$scratch/profile-again.h5"

expect "the kernels are valid on captured keys and values" 0 "$bin/ropebits-validate" --device cuda --no-timing "$scratch/plan-cuda/plan-cuda.rbp" "$scratch/cuda.h5"
stdout_has "against the C reference: valid"
cat "$scratch/stdout" | sed 's/^/# /'
expect "  as JSON too" 0 "$bin/ropebits-validate" --device cuda --no-timing --json "$scratch/plan-cuda/plan-cuda.rbp" "$scratch/cuda.h5"
evaluate() {    # evaluate DEVICE NAME
    expect "evaluate on $1" 0 "$bin/ropebits-evaluate" -q --device $1 --precision f32 --model configs/demo-llama --plan "$scratch/plan-cpu.json" --plan "$scratch/p2.json" \
        --text configs/demo-text/heldout.txt --n-tokens 2048 --needles 4 --needle-contexts 900 --sink 4 --recent 32 -o "$scratch/evaluation-$2.json"
}
"$bin/ropebits-allocate" -q "$scratch/p-cpu.h5" --method uniform --avg-bits 2 --value-bits 2 -o "$scratch/p2.json" >/dev/null
evaluate cpu cpu
evaluate cuda cuda
evaluate cuda again
expect "the GPU's evaluation is the CPU's within 3 %" 0 "$bin/ropebits-compare" "$scratch/evaluation-cpu.json" "$scratch/evaluation-cuda.json" --max-regression 3
expect "  seen from the other side too" 0 "$bin/ropebits-compare" "$scratch/evaluation-cuda.json" "$scratch/evaluation-cpu.json" --max-regression 3
for member in perplexity attention_kl attention_overlap output_error; do
    check "  and its $member, within 0.5 %" same_numbers "$scratch/evaluation-cpu.json" "$scratch/evaluation-cuda.json" $member
done
check "  a second run gives the same bytes" cmp "$scratch/evaluation-cuda.json" "$scratch/evaluation-again.json"
expect "too little GPU memory for evaluate is one sentence" 1 "$bin/ropebits-evaluate" -q --device cuda --max-gpu-memory 1MiB --model configs/demo-llama \
    --plan "$scratch/p2.json" --text configs/demo-text/heldout.txt
stderr_lines 1

expect "the whole pipeline runs on the GPU" 0 "$bin/ropebits" run --device cuda configs/demo.json -o "$scratch/demo"
expect "a GPU that is not there is one sentence" 1 "$bin/ropebits-profile" --device cuda:63 "$scratch/cpu.h5" -o "$scratch/none.h5"
stderr_lines 1
expect "too little GPU memory is one sentence" 1 "$bin/ropebits-calibrate" -q --device cuda --max-gpu-memory 1MiB --model configs/demo-llama \
    --text configs/demo-text/calibration.txt --n-tokens 1024 -o "$scratch/none.h5"
stderr_lines 1
check "  and nothing is left behind" test ! -e "$scratch/none.h5" -a ! -e "$scratch/none.h5.tmp"

# One number that stands for one that drifted: the gate must go red.
sed -E 's/"logit_mae": *([0-9])/"logit_mae": 1\1/' "$scratch/cuda.json" >"$scratch/worse.json"
expect "a planted error is seen" 3 "$bin/ropebits-compare" "$scratch/cpu.json" "$scratch/worse.json" --max-regression 0.5

finish
