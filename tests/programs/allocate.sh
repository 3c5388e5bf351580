# The allocate program.
. tests/programs/tap.sh

allocate=$bin/ropebits-allocate
"$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/calibration.txt --n-tokens 128 --context 64 -o "$scratch/capture.h5" >/dev/null
"$bin/ropebits-profile" -q --no-curves "$scratch/capture.h5" --budgets 3 -o "$scratch/p.h5" >/dev/null

expect "no method is a usage error" 2 "$allocate" "$scratch/p.h5" --avg-bits 3 -o "$scratch/plan.json"
stderr_has "--method NAME is missing"
expect "an unknown method is a usage error" 2 "$allocate" "$scratch/p.h5" --method best --avg-bits 3 -o "$scratch/plan.json"
stderr_has "expected one of uniform, block-gtq, optimal, optimal-center, block-codebook"
expect "no budget is a usage error" 2 "$allocate" "$scratch/p.h5" --method uniform -o "$scratch/plan.json"
stderr_has "0 budgets are given, expected one of --avg-bits"
expect "two budgets are a usage error" 2 "$allocate" "$scratch/p.h5" --method uniform --avg-bits 3 --true-bits 3 -o "$scratch/plan.json"
stderr_has "2 budgets are given"
expect "memory without context is a usage error" 2 "$allocate" "$scratch/p.h5" --method optimal --memory 1GiB -o "$scratch/plan.json"
stderr_has "--memory and --context go together"
expect "an option of optimal with another method is a usage error" 2 "$allocate" "$scratch/p.h5" --method block-gtq --avg-bits 3 --center -o "$scratch/plan.json"
stderr_has "the others are of --method optimal"
expect "widths of only 0 are a usage error" 2 "$allocate" "$scratch/p.h5" --method optimal --avg-bits 3 --widths 0 -o "$scratch/plan.json"
expect "values of 9 bits are a usage error" 2 "$allocate" "$scratch/p.h5" --method uniform --avg-bits 3 --value-bits 9 -o "$scratch/plan.json"
expect "uniform at a fractional budget is refused" 1 "$allocate" "$scratch/p.h5" --method uniform --avg-bits 2.5 -o "$scratch/plan.json"
stderr_has "expected a whole number of bits"
expect "a capture is no profile" 1 "$allocate" "$scratch/capture.h5" --method uniform --avg-bits 3 -o "$scratch/plan.json"
stderr_has "ropebits-capture"
check "  and no plan is left behind" test ! -e "$scratch/plan.json" -a ! -e "$scratch/plan.json.tmp"

expect "uniform at 3 bits" 0 "$allocate" "$scratch/p.h5" --method uniform --avg-bits 3 -o "$scratch/uniform.json"
stdout_has "3.250 true bits a dim (3.000 nominal)"
stdout_has "416 bytes a token, fp16 takes 2048: 4.92 times smaller"
stdout_has "bits a dim above the rate-distortion bound"
expect "block-gtq at 2.5 bits, values in fp16" 0 "$allocate" "$scratch/p.h5" --method block-gtq --avg-bits 2.5 --value-bits 16 --json -o "$scratch/gtq.json"
stdout_has '"value_true_bits": 16'
stdout_has '"key_nominal_bits": 2.5'
cp "$scratch/gtq.json" "$scratch/first.json"
expect "the same again" 0 "$allocate" "$scratch/p.h5" --method block-gtq --avg-bits 2.5 --value-bits 16 -o "$scratch/gtq.json"
check "  gives the same bytes" cmp "$scratch/first.json" "$scratch/gtq.json"

expect "hadamard rotations" 0 "$allocate" "$scratch/p.h5" --method block-gtq --avg-bits 2.5 --value-bits 16 --rotation hadamard --json -o "$scratch/hadamard.json"
stdout_has '"rotation": "hadamard"'
check "  are in the plan, and no haar key group" sh -c 'grep -q "\"kind\": *\"hadamard\"" "$0" && ! grep -q "\"haar\"" "$0"' "$scratch/hadamard.json"
sed 's/"hadamard"/"haar"/' "$scratch/hadamard.json" >"$scratch/back.json"
check "  and nothing else changes" cmp "$scratch/back.json" "$scratch/gtq.json"
expect "profile scores them" 0 "$bin/ropebits-profile" -q "$scratch/capture.h5" --plan "$scratch/hadamard.json" --json
mae=$(grep -m 1 '"logit_mae"' "$scratch/stdout")
expect "  and haar" 0 "$bin/ropebits-profile" -q "$scratch/capture.h5" --plan "$scratch/gtq.json" --json
check "  with another error" test -n "$mae" -a "$mae" != "$(grep -m 1 '"logit_mae"' "$scratch/stdout")"
expect "an unknown rotation is a usage error" 2 "$allocate" "$scratch/p.h5" --method block-gtq --avg-bits 3 --rotation givens -o "$scratch/none.json"

expect "optimal at the bytes of block-gtq" 0 "$allocate" "$scratch/p.h5" --method optimal --avg-bits 2.5 --value-bits 16 --json -o "$scratch/optimal.json"
stdout_has '"optimality_gap": '
check "  is a plan of version 2" grep -q '"version": 2' "$scratch/optimal.json"
bits_of() { sed -n 's/^  "key_true_bits": \(.*\),$/\1/p' "$1"; }
cp "$scratch/stdout" "$scratch/optimal.out"
expect "block-gtq's own" 0 "$allocate" "$scratch/p.h5" --method block-gtq --avg-bits 2.5 --value-bits 16 --json -o "$scratch/gtq.json"
check "  is not cheaper" awk -v a="$(bits_of "$scratch/optimal.out")" -v b="$(bits_of "$scratch/stdout")" 'BEGIN { exit !(a > 1 && a <= b && a > b - 0.1) }'
mae_of() { "$bin/ropebits-profile" -q "$scratch/capture.h5" --plan "$1" --json | sed -n 's/^ *"logit_mae": \(.*\),$/\1/p'; }
check "  and errs a third more at least" awk -v a="$(mae_of "$scratch/optimal.json")" -v b="$(mae_of "$scratch/gtq.json")" 'BEGIN { exit !(a > 0 && 1.33 * a < b) }'
expect "centred" 0 "$allocate" "$scratch/p.h5" --method optimal --center --true-bits 2.25 -o "$scratch/center.json"
stdout_has "method   optimal-center at "
stdout_has "keys     2.250 true bits a dim"
check "  has a center" grep -q '"center"' "$scratch/center.json"
cp "$scratch/center.json" "$scratch/first.json"
expect "the same with one thread" 0 "$allocate" "$scratch/p.h5" --method optimal --center --true-bits 2.25 --threads 1 -o "$scratch/center.json"
check "  gives the same bytes" cmp "$scratch/first.json" "$scratch/center.json"
expect "a cache of 1 MiB for 4096 tokens" 0 "$allocate" "$scratch/p.h5" --method optimal --memory 1MiB --context 4096 --json -o "$scratch/memory.json"
check "  takes what it may" awk -v a="$(sed -n 's/^  "bytes_per_token": \(.*\),$/\1/p' "$scratch/stdout")" 'BEGIN { exit !(a <= 256 && a > 252) }'
expect "what a runtime's kernels know" 0 "$allocate" "$scratch/p.h5" --method optimal --true-bits 3.3 --value-bits 4 --widths 2,4,8 --groups 2 --norm fp16 --encoder nearest --no-equalize --per head -o "$scratch/narrow.json"
check "  has no other width" sh -c '! grep -qE "\"width\": (1|3|5|6|7)," "$0"' "$scratch/narrow.json"
check "  and nothing to fold" sh -c '! grep -q "\"scales\"" "$0"' "$scratch/narrow.json"
expect "a budget below anything is refused" 1 "$allocate" "$scratch/p.h5" --method block-gtq --true-bits 1.1 -o "$scratch/none.json"
stderr_has "budget is 1.100 true bits"

# What is expected of a plan, against what profile measures on the test text: the mean over heads.
"$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/calibration.txt --test-text configs/demo-text/heldout.txt --n-tokens 2048 --context 512 \
    -o "$scratch/both.h5" >/dev/null
expect "a profile of two texts" 0 "$bin/ropebits-profile" -q --no-curves "$scratch/both.h5" --budgets 3 -o "$scratch/both-p.h5"
budgets="2 3"
[ "${RB_SANITIZED:-0}" = 0 ] || budgets=3       # numbers are for the plain build; to sanitizers one budget is as good as two
for method in uniform block-gtq optimal optimal-center; do
    for bits in $budgets; do
        "$allocate" "$scratch/both-p.h5" --method $method --avg-bits $bits --json -o "$scratch/both.json" >"$scratch/both.out"
        found=$("$bin/ropebits-profile" -q --no-curves "$scratch/both.h5" --plan "$scratch/both.json" --json | sed -n 's/^ *"logit_mae": \(.*\),$/\1/p')
        expected=$(sed -n 's/^ *"logit_mae": \(.*\),$/\1/p' "$scratch/both.out")
        check "$method at $bits bits: the expected error is the measured one within 15 %" awk -v a="$expected" -v b="$found" 'BEGIN { exit !(a > 0.85 * b && a < 1.15 * b) }'
    done
done

# ---- a width of the values for every head ----
expect "values a width a head without their errors are refused" 1 "$allocate" "$scratch/p.h5" --method uniform --avg-bits 3 --value-per head -o "$scratch/none.json"
stderr_has "its capture has no values (calibrate --values)"
check "  and no plan is left behind" test ! -e "$scratch/none.json"
expect "half bits for one width are a usage error" 2 "$allocate" "$scratch/p.h5" --method uniform --avg-bits 3 --value-bits 2.5 -o "$scratch/none.json"
stderr_has "--value-bits is 2.5, expected a whole number without --value-per head"
expect "fp16 by head is a usage error" 2 "$allocate" "$scratch/p.h5" --method uniform --avg-bits 3 --value-bits 16 --value-per head -o "$scratch/none.json"
stderr_has "--value-bits is 16 with --value-per head, expected 1 to 8"
"$bin/ropebits-calibrate" -q --values --model configs/demo-llama --text configs/demo-text/calibration.txt --n-tokens 512 --context 256 -o "$scratch/v.h5" >/dev/null
expect "a profile of a capture with values" 0 "$bin/ropebits-profile" -v --no-curves "$scratch/v.h5" --budgets 3 -o "$scratch/v-p.h5"
stderr_has "output errors of values took"
expect "by one thread" 0 "$bin/ropebits-profile" -q --threads 1 --no-curves "$scratch/v.h5" --budgets 3 -o "$scratch/v-1.h5"
check "  is the same bytes" cmp "$scratch/v-p.h5" "$scratch/v-1.h5"
number() { sed -n "s/^  \"$1\": \(.*[0-9]\),*\$/\1/p" "$2"; }
expect "values a width a head" 0 "$allocate" "$scratch/v-p.h5" --method optimal --true-bits 2.25 --value-per head --value-bits 2 --least-value-bits 1 --json -o "$scratch/head.json"
cp "$scratch/stdout" "$scratch/head.out"
check "  take no more than one width" awk -v a="$(number value_true_bits "$scratch/head.out")" 'BEGIN { exit !(a > 2 && a <= 2.25) }'
check "  are expected to err less" awk -v a="$(number value_output_error "$scratch/head.out")" -v b="$(number one_value_width_output_error "$scratch/head.out")" 'BEGIN { exit !(a > 0 && a < b) }'
check "  stand in the plan" grep -q '"widths": ' "$scratch/head.json"
expect "at the least width all have it" 0 "$allocate" "$scratch/v-p.h5" --method uniform --avg-bits 2 --value-per head --value-bits 2 -o "$scratch/least.json"
check "  and the plan is that of one width" sh -c '"$0" "$1" --method uniform --avg-bits 2 --value-bits 2 -o "$2.one" >/dev/null && cmp "$2" "$2.one"' "$allocate" "$scratch/v-p.h5" "$scratch/least.json"
expect "at half bits" 0 "$allocate" "$scratch/v-p.h5" --method block-gtq --avg-bits 2 --value-per head --value-bits 2.5 -o "$scratch/half.json"
stdout_has "true bits a dim, widths "
stdout_has "with 2 bits for all (2.250 true)"
expect "within a cache of 224 bytes a token" 0 "$allocate" "$scratch/v-p.h5" --method optimal --bytes-per-token 224 --value-per head --json -o "$scratch/cache.json"
check "  takes what it may" awk -v a="$(number bytes_per_token "$scratch/stdout")" 'BEGIN { exit !(a <= 224 && a > 220) }'
expect "explain says what a head's values do" 0 "$bin/ropebits-explain" "$scratch/head.json" --profile "$scratch/v-p.h5" --layer 1 --kv-head 0
stdout_has "of the layer's output energy"
expect "export takes the plan" 0 "$bin/ropebits-export" "$scratch/head.json" --format rbp,header,safetensors,report -o "$scratch/head"
expect "  and the way back" 0 "$bin/ropebits-inspect" --json "$scratch/head/head.rbp"
check "  is the same plan" cmp "$scratch/stdout" "$scratch/head.json"
check "  the header has its widths" grep -q 'ropebits_v_width\[ROPEBITS_N_LAYERS\]' "$scratch/head/head.h"
expect "inspect shows them" 0 "$bin/ropebits-inspect" "$scratch/head/head.rbp"
stdout_has ", values at "
expect "validate takes each head's own" 0 "$bin/ropebits-validate" --device cpu --types f32 --no-timing --n-tokens 64 "$scratch/head/head.rbp" "$scratch/v.h5"
stdout_has "values"
expect "evaluate too" 0 "$bin/ropebits-evaluate" -q --device cpu --model configs/demo-llama --plan "$scratch/head.json" --text configs/demo-text/heldout.txt --n-tokens 64 --values-only -o "$scratch/head-eval.json"

# ---- block-codebook ----
expect "block-codebook at a budget" 0 "$allocate" "$scratch/both-p.h5" --method block-codebook --true-bits 2.5 --value-bits 2 --gain-bits 4 -o "$scratch/block-codebook.json"
stdout_has "method   block-codebook"
check "  every head is of that family, with that gain" test "$(grep -c '"gain_bits": 4' "$scratch/block-codebook.json")" -eq 8
expect "it has no groups" 2 "$allocate" "$scratch/both-p.h5" --method block-codebook --true-bits 2.5 --norm fp16 -o "$scratch/block-codebook.json"
stderr_has "block-codebook has no groups"
expect "and nothing to rotate" 2 "$allocate" "$scratch/both-p.h5" --method block-codebook --true-bits 2.5 --rotation hadamard -o "$scratch/block-codebook.json"
expect "optimal has no gain" 2 "$allocate" "$scratch/both-p.h5" --method optimal --true-bits 2.5 --gain-bits 2 -o "$scratch/block-codebook.json"
stderr_has "optimal has no gain"
expect "a budget that holds no code is refused" 1 "$allocate" "$scratch/both-p.h5" --method block-codebook --bytes-per-token 1 --value-bits 16 -o "$scratch/block-codebook.json"

# ---- sweep ----
expect "a sweep with another budget is a usage error" 2 "$allocate" "$scratch/both-p.h5" --sweep 2:4:1 --avg-bits 3 -o "$scratch/sweep.json"
expect "a range that is none is a usage error" 2 "$allocate" "$scratch/both-p.h5" --sweep 2:4 -o "$scratch/sweep.json"
stderr_has "expected from:to:step"
expect "and a step of 0" 2 "$allocate" "$scratch/both-p.h5" --sweep 2:4:0 -o "$scratch/sweep.json"
expect "a sweep over all methods" 0 "$allocate" --threads 2 "$scratch/both-p.h5" --sweep 2:4:0.5 -o "$scratch/sweep.json"
stdout_has "optimal-center"
check "  has five points of four methods, two of uniform" test "$(grep -c '"asked_true_bits"' "$scratch/sweep.json")" -eq 22
check "  names its schema" grep -q '"schema": "ropebits-sweep"' "$scratch/sweep.json"
check "  optimal is below block-gtq at every budget, its centred form below that, as is block-codebook" awk '
    /"method"/ { gsub(/[",]/, ""); method = $2 }
    /"asked_true_bits"/ { gsub(/,/, ""); at = $2 }
    /"logit_mae"/ { gsub(/,/, ""); mae[method, at] = $2; n++ }
    END { for (b = 2; b <= 4; b += 0.5) if (!(mae["optimal", b] > 0 && mae["optimal", b] < mae["block-gtq", b] && mae["optimal-center", b] < mae["optimal", b] && mae["block-codebook", b] > 0 && mae["block-codebook", b] < mae["optimal", b])) exit 1; exit n != 22 }' \
    "$scratch/sweep.json"
check "  a plan at one of them is expected to err as much" sh -c '"$0" "$1" --method block-gtq --true-bits 3 --json -o "$2" | grep -o "\"logit_mae\": .*" | grep -qFf - "$3"' \
    "$allocate" "$scratch/both-p.h5" "$scratch/one.json" "$scratch/sweep.json"
check "  the picture has a line of each and of the bound" test "$(grep -c '<polyline' "$scratch/sweep.svg")" -eq 6
cp "$scratch/sweep.json" "$scratch/first.json"; cp "$scratch/sweep.svg" "$scratch/first.svg"
expect "the same by one thread" 0 "$allocate" --threads 1 "$scratch/both-p.h5" --sweep 2:4:0.5 -o "$scratch/sweep.json"
check "  is the same bytes" sh -c 'cmp "$0/first.json" "$0/sweep.json" && cmp "$0/first.svg" "$0/sweep.svg"' "$scratch"
expect "of one method" 0 "$allocate" "$scratch/both-p.h5" --sweep 2:4:1 --method optimal --center --json -o "$scratch/sweep.json"
check "  there is nothing else" test "$(grep -c '"method"' "$scratch/sweep.json")" -eq 1
expect "a range without a plan is refused" 1 "$allocate" "$scratch/both-p.h5" --sweep 2:2.1:1 --method uniform -o "$scratch/none.json"
stderr_has "no plan stores"

finish
