# The validate program on the CPU: what it prints, takes and refuses. There the C reference is compared with itself, so
# no honest input makes it say no (exit 3). tests/kernels/test_codec_check.c tests its judgement, and tests/gpu runs it
# on the kernels.
. tests/programs/tap.sh

validate=$bin/ropebits-validate
demo=(--device cpu --model configs/demo-llama --text configs/demo-text/calibration.txt)
demo+=(--test-text configs/demo-text/heldout.txt --n-tokens 256 --context 128)
"$bin/ropebits-calibrate" -q "${demo[@]}" --values -o "$scratch/capture.h5" >/dev/null
"$bin/ropebits-calibrate" -q "${demo[@]}" -o "$scratch/keys-only.h5" >/dev/null
"$bin/ropebits-profile" -q --device cpu --no-curves "$scratch/capture.h5" --budgets 3 \
    -o "$scratch/profile.h5" >/dev/null
# plan NAME OPTIONS...: NAME/plan.json and NAME/plan.rbp
plan() {
    mkdir "$scratch/$1"
    "$bin/ropebits-allocate" -q "$scratch/profile.h5" "${@:2}" -o "$scratch/$1/plan.json" >/dev/null
    "$bin/ropebits-export" -q "$scratch/$1/plan.json" --format rbp -o "$scratch/$1" >/dev/null
}
plan both --method block-gtq --avg-bits 3 --value-bits 3
plan keys --method block-gtq --avg-bits 3 --value-bits 16
plan hadamard --method uniform --avg-bits 4 --value-bits 4 --rotation hadamard
rbp=$scratch/both/plan.rbp
run() { "$validate" --device cpu "$@"; }
# rows BEGINNING N
rows() { equal "  $2 rows of $1 are ok" "$2" "$(grep -cE "^$1 .* ok\$" "$scratch/stdout")" "$(cat "$scratch/stdout")"; }

# ---- what it says ----
expect "help is a success on stdout" 0 "$validate" --help
stdout_has "PLAN.rbp CAPTURE.h5"
stdout_has "(f16, bf16, f32; default f16,bf16,f32)"
expect "the demo's plan makes the round trip" 0 run "$rbp" "$scratch/capture.h5"
stdout_has "only the C reference ran: its own round trip holds, no kernel was compared with it, nothing is proven"
check "  and is not called valid" lacks ": valid" "$scratch/stdout"
rows keys 3
rows values 3
check "  and nothing is warned of" bash -c '! grep -E "warning|error" "$1"' - "$scratch/stderr"
cp "$scratch/stdout" "$scratch/of-rbp"
expect "so is its plan.json" 0 run "$scratch/both/plan.json" "$scratch/capture.h5"
check "  with the same numbers" cmp "$scratch/of-rbp" "$scratch/stdout"
expect "with one thread it says the same" 0 run --threads 1 "$rbp" "$scratch/capture.h5"
check "  to the last digit" cmp "$scratch/of-rbp" "$scratch/stdout"
expect "a hadamard plan is valid" 0 run "$scratch/hadamard/plan.rbp" "$scratch/capture.h5"
rows keys 3
expect "a plan of only keys is valid on keys" 0 run "$scratch/keys/plan.rbp" "$scratch/capture.h5"
rows keys 3
rows values 0

expect "one type is one row of each" 0 run --types f16 "$rbp" "$scratch/capture.h5"
rows "keys +f16" 1
rows keys 1
rows values 1
expect "two types are two" 0 run --types f32,bf16 --no-timing "$scratch/keys/plan.rbp" "$scratch/capture.h5"
rows "keys +bf16" 1
rows "keys +f32" 1
rows keys 2
# 4 layers, 2 KV heads of 64 dims: 512 codes a token.
expect "50 tokens are 25600 codes" 0 run --types f32 --n-tokens 50 "$scratch/keys/plan.rbp" "$scratch/capture.h5"
check "  in the table" grep -qE "^keys +f32 +25600 " "$scratch/stdout"
expect "more tokens than there are is all of them" 0 run --types f32 --n-tokens 100000 "$scratch/keys/plan.rbp" \
    "$scratch/capture.h5"
check "  in the table" grep -qE "^keys +f32 +131072 " "$scratch/stdout"

expect "JSON has no verdict for all where nothing was compared" 0 run --json --n-tokens 50 "$rbp" "$scratch/capture.h5"
stdout_has '"schema": "ropebits-validation"'
stdout_has '"device": "cpu"'
stdout_has '"is_compared": false'
stdout_has '"is_valid": null'
check "  and a verdict for each of 6 rows" test "$(grep -c '"is_valid": true' "$scratch/stdout")" -eq 6
check "  with the number of codes in each" test "$(grep -c '"n_codes": 25600' "$scratch/stdout")" -eq 6
check "  and no throughput: the CPU's is not measured" bash -c '! grep -q gb_per_s "$1"' - "$scratch/stdout"
if command -v python3 >/dev/null 2>&1; then
    check "  and parses" python3 -c "import json, sys
d = json.load(open(sys.argv[1]))
assert d['version'] == 1 and len(d['rows']) == 6 and d['rows'][0]['codes_wrong'] == 0" "$scratch/stdout"
else
    skip_case "  and parses" "no python3"
fi

expect "values that the capture lacks are warned of" 0 run "$rbp" "$scratch/keys-only.h5"
stderr_has "validate: warning: the plan's values are not validated: $scratch/keys-only.h5 has none (calibrate --values)"
rows keys 3
rows values 0
expect "but not where the plan has none" 0 run "$scratch/keys/plan.rbp" "$scratch/keys-only.h5"
check "  no warning" bash -c '! grep -q warning "$1"' - "$scratch/stderr"

# ---- wrong usage ----
expect "a plan without a capture is a usage error" 2 run "$rbp"
stderr_has "PLAN.rbp CAPTURE.h5"
stderr_lines 2
expect "a third file is a usage error" 2 run "$rbp" "$scratch/capture.h5" "$scratch/capture.h5"
expect "a type it does not know is a usage error" 2 run --types f16,f64 "$rbp" "$scratch/capture.h5"
stderr_has "f64"
expect "a negative number of tokens is a usage error" 2 run --n-tokens -1 "$rbp" "$scratch/capture.h5"
stderr_has "--n-tokens"

# ---- what it refuses ----
expect "files the wrong way round are refused" 1 run "$scratch/capture.h5" "$rbp"
stderr_lines 1
expect "a plan that is not there is named" 1 run "$scratch/absent.rbp" "$scratch/capture.h5"
stderr_has "absent.rbp"
stderr_lines 1
sed 's/"theta": 10000/"theta": 20000/' "$scratch/both/plan.json" >"$scratch/other.json"
expect "a plan of another model is refused" 1 run "$scratch/other.json" "$scratch/capture.h5"
stderr_has "theta 20000 and 10000"
stderr_lines 1
cp -r configs/demo-llama "$scratch/renamed"
sed -i 's/"bos_token_id"/"of_another_model": 1, "bos_token_id"/' "$scratch/renamed/config.json"
"$bin/ropebits-calibrate" -q --device cpu "${demo[@]}" --model "$scratch/renamed" -o "$scratch/renamed.h5" >/dev/null
expect "so is one of another config.json" 1 run "$rbp" "$scratch/renamed.h5"
stderr_has "config_sha256"
stderr_lines 1

damaged() { cp "$rbp" "$scratch/$1.rbp" && chmod u+w "$scratch/$1.rbp"; }
damaged bad_magic && printf 'X' | dd of="$scratch/bad_magic.rbp" bs=1 seek=0 conv=notrunc status=none
damaged flipped_byte && printf '\377\000\377' | dd of="$scratch/flipped_byte.rbp" bs=1 seek=300 conv=notrunc status=none
head -c 400 "$rbp" >"$scratch/truncated.rbp"
: >"$scratch/empty.rbp"
for damage in bad_magic flipped_byte truncated empty; do
    expect "a plan with the damage $damage is refused" 1 run "$scratch/$damage.rbp" "$scratch/capture.h5"
    stderr_has "$damage.rbp"
    stderr_lines 1
    check "  and gets no verdict" test ! -s "$scratch/stdout"
done

# ---- the device ----
without_gpu() { ROPEBITS_CUDA_LIBRARY=$scratch/absent/ropebits_cuda.so "$validate" "$@"; }
expect "a GPU that is asked for and not there is one sentence" 1 without_gpu --device cuda "$rbp" "$scratch/capture.h5"
stderr_has "validate: error: --device cuda: no CUDA side: $scratch/absent/ropebits_cuda.so is not there"
stderr_lines 1
check "  and gets no verdict" test ! -s "$scratch/stdout"
expect "without a GPU auto is the CPU" 0 without_gpu "$rbp" "$scratch/capture.h5"
stderr_has "validate: info: runs on the CPU: no CUDA side"
stdout_has "nothing is proven (--device cuda compares)"

finish
