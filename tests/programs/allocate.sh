# The allocate program: its methods, its budgets, the widths of values, and sweeps.
. tests/programs/tap.sh

# Every file is a name in the scratch folder. Captures and profiles are NAME.h5, plans and sweeps are NAME.json.
calibrate() {   # calibrate CAPTURE OPTION...
    "$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/calibration.txt "${@:2}" \
        -o "$scratch/$1.h5" >/dev/null
}
profile() { "$bin/ropebits-profile" "$scratch/$1.h5" "${@:2}"; }             # profile CAPTURE OPTION...
score() { profile "$1" -q --plan "$scratch/$2.json" --json "${@:3}"; }      # score CAPTURE PLAN OPTION...
allocate() {    # allocate PROFILE PLAN OPTION...
    "$bin/ropebits-allocate" "$scratch/$1.h5" "${@:3}" -o "$scratch/$2.json"
}
logit_mae() { sed -n 's/^ *"logit_mae": \(.*\),$/\1/p' "$@"; }
number() { sed -n "s/^  \"$1\": \(.*[0-9]\),*\$/\1/p" "$scratch/$2"; }    # number KEY FILE

calibrate capture --n-tokens 128 --context 64
profile capture -q --no-curves --budgets 3 -o "$scratch/p.h5" >/dev/null

expect "no method is a usage error" 2 allocate p plan --avg-bits 3
stderr_has "--method NAME is missing"
expect "an unknown method is a usage error" 2 allocate p plan --method best --avg-bits 3
stderr_has "expected one of uniform, block-gtq, optimal, optimal-center, block-codebook"
expect "no budget is a usage error" 2 allocate p plan --method uniform
stderr_has "0 budgets are given, expected one of --avg-bits"
expect "two budgets are a usage error" 2 allocate p plan --method uniform --avg-bits 3 --true-bits 3
stderr_has "2 budgets are given"
expect "memory without context is a usage error" 2 allocate p plan --method optimal --memory 1GiB
stderr_has "--memory and --context go together"
expect "an option of optimal with another method is a usage error" 2 \
    allocate p plan --method block-gtq --avg-bits 3 --center
stderr_has "the others are of --method optimal"
expect "widths of only 0 are a usage error" 2 allocate p plan --method optimal --avg-bits 3 --widths 0
expect "values of 9 bits are a usage error" 2 allocate p plan --method uniform --avg-bits 3 --value-bits 9
expect "uniform at a fractional budget is refused" 1 allocate p plan --method uniform --avg-bits 2.5
stderr_has "expected a whole number of bits"
expect "a capture is no profile" 1 allocate capture plan --method uniform --avg-bits 3
stderr_has "ropebits-capture"
check "  and no plan is left behind" no_output "$scratch/plan.json"

expect "uniform at 3 bits" 0 allocate p uniform --method uniform --avg-bits 3
stdout_has "3.250 true bits a dim (3.000 nominal)"
stdout_has "416 bytes a token, fp16 takes 2048: 4.92 times smaller"
stdout_has "bits a dim above the rate-distortion bound"
block_gtq() { allocate p "$1" --method block-gtq --avg-bits 2.5 --value-bits 16 "${@:2}"; }     # PLAN OPTION...
expect "block-gtq at 2.5 bits, values in fp16" 0 block_gtq gtq --json
stdout_has '"value_true_bits": 16'
stdout_has '"key_nominal_bits": 2.5'
cp "$scratch/gtq.json" "$scratch/first.json"
expect "the same again" 0 block_gtq gtq
check "  gives the same bytes" cmp "$scratch/first.json" "$scratch/gtq.json"

expect "hadamard rotations" 0 block_gtq hadamard --rotation hadamard --json
stdout_has '"rotation": "hadamard"'
only_hadamard() { grep -q '"kind": *"hadamard"' "$1" && lacks '"haar"' "$1"; }
check "  are in the plan, and no haar key group" only_hadamard "$scratch/hadamard.json"
sed 's/"hadamard"/"haar"/' "$scratch/hadamard.json" >"$scratch/back.json"
check "  and nothing else changes" cmp "$scratch/back.json" "$scratch/gtq.json"
expect "profile scores them" 0 score capture hadamard
mae=$(grep -m 1 '"logit_mae"' "$scratch/stdout")
expect "  and haar" 0 score capture gtq
check "  with another error" test -n "$mae" -a "$mae" != "$(grep -m 1 '"logit_mae"' "$scratch/stdout")"
expect "an unknown rotation is a usage error" 2 allocate p none --method block-gtq --avg-bits 3 --rotation givens

expect "optimal at the bytes of block-gtq" 0 \
    allocate p optimal --method optimal --avg-bits 2.5 --value-bits 16 --json
stdout_has '"optimality_gap": '
check "  is a plan of version 2" grep -q '"version": 2' "$scratch/optimal.json"
bits=$(number key_true_bits stdout)
expect "block-gtq's own" 0 block_gtq gtq --json
check "  is not cheaper" holds 'a > 1 && a <= b && a > b - 0.1' "$bits" "$(number key_true_bits stdout)"
check "  and errs a third more at least" holds 'a > 0 && 1.33 * a < b' \
    "$(score capture optimal | logit_mae)" "$(score capture gtq | logit_mae)"

centred() { allocate p center --method optimal --center --true-bits 2.25 "$@"; }
expect "centred" 0 centred
stdout_has "method   optimal-center at "
stdout_has "keys     2.250 true bits a dim"
check "  has a center" grep -q '"center"' "$scratch/center.json"
cp "$scratch/center.json" "$scratch/first.json"
expect "the same with one thread" 0 centred --threads 1
check "  gives the same bytes" cmp "$scratch/first.json" "$scratch/center.json"
expect "a cache of 1 MiB for 4096 tokens" 0 allocate p memory --method optimal --memory 1MiB --context 4096 --json
check "  takes what it may" holds 'a <= 256 && a > 252' "$(number bytes_per_token stdout)"
expect "what a runtime's kernels know" 0 allocate p narrow --method optimal --true-bits 3.3 --value-bits 4 \
    --widths 2,4,8 --groups 2 --norm fp16 --encoder nearest --no-equalize --per head
check "  has no other width" lacks '"width": (1|3|5|6|7),' "$scratch/narrow.json"
check "  and nothing to fold" lacks '"scales"' "$scratch/narrow.json"
expect "a budget below anything is refused" 1 allocate p none --method block-gtq --true-bits 1.1
stderr_has "budget is 1.100 true bits"
# demo-llama has 8 KV heads of 64 dims: 512 key dims a token. Heads get whole bytes, and those of a layer as many.
expect "a budget between two plans" 0 allocate p rest --method block-codebook --true-bits 3.3 --value-bits 3
stdout_has "unused   1.2 bytes a token of the budget, 0.019 bits a dim of the keys (0.57 %)"
check "  needs no warning" lacks "is left over" "$scratch/stderr"
expect "  as JSON" 0 allocate p rest --method block-codebook --true-bits 3.3 --value-bits 3 --json
check "  is what the keys leave" holds 'a > 1.199 && a < 1.201' "$(number unused_bytes_per_token stdout)"
expect "more than a method can use" 0 allocate p most --method block-codebook --true-bits 9 --value-bits 3
stderr_has "allocate: warning: 11.1 % of the budget is left over, 1.000 bits a dim of the keys: no plan of the method"
expect "  and uniform between two widths" 0 allocate p most --method uniform --total-bits 6.3
stderr_has "uniform has whole widths only"
expect "a budget that is met has no rest" 0 allocate p rest --method optimal --true-bits 3 --value-bits 3
check "  and no line of it" lacks "^unused" "$scratch/stdout"
expect "values of 1 bit are warned of" 0 allocate p one --method optimal --true-bits 1.9
stderr_has "values have 1 bit: each is expected to be off by 60 % of its size, and by 34 % with 2 bits"
expect "  not those of 2" 0 allocate p two --method optimal --true-bits 1.9 --value-bits 2
check "  nothing is warned of" lacks "warning" "$scratch/stderr"

# The error that allocate expects of a plan is the one that profile measures on the test text, as the mean over heads.
calibrate both --test-text configs/demo-text/heldout.txt --n-tokens 2048 --context 512
expect "a profile of two texts" 0 profile both -q --no-curves --budgets 3 -o "$scratch/both-p.h5"
budgets="2 3"
[ "${RB_SANITIZED:-0}" = 0 ] || budgets=3       # for sanitizers one budget is as good as two
for method in uniform block-gtq optimal optimal-center; do
    for bits in $budgets; do
        allocate both-p both --method $method --avg-bits "$bits" --json >"$scratch/both.out"
        check "$method at $bits bits: the expected error is the measured one within 15 %" \
            holds 'a > 0.85 * b && a < 1.15 * b' \
            "$(logit_mae "$scratch/both.out")" "$(score both both --no-curves | logit_mae)"
    done
done

# ---- tokens that stay fp16 ----
sinks() { sed -n 's/^  "sink": \([0-9]*\),$/\1/p' "$scratch/$1.json"; }     # sinks PLAN
calibrate s --values --n-tokens 256 --context 128
expect "profile takes a number of sinks" 0 profile s -q --sink 2 --no-curves --budgets 2 \
    --methods block-gtq,block-codebook --json -o "$scratch/s-p.h5"
check "  which its own methods keep, and published ones do not" \
    test "$(grep -oE '"sink": [0-9]+' "$scratch/stdout" | tr -dc '0-9\n' | tr '\n' ' ')" = "2 0 2 "
profile s -q --sink 0 --no-curves --budgets 2 -o "$scratch/s-0.h5" >/dev/null
profile s -q --sink 2 --threads 1 --no-curves --budgets 2 --methods block-gtq,block-codebook \
    -o "$scratch/s-1.h5" >/dev/null
check "  and one thread gives the same bytes" cmp "$scratch/s-p.h5" "$scratch/s-1.h5"
expect "more sinks than a sequence has tokens are refused" 1 \
    profile s -q --sink 128 --budgets 2 -o "$scratch/too-many.h5"
stderr_has "sink is 128, expected less than the 128 tokens of the capture's sequences"
# of_ours PROFILE PLAN OPTION...
of_ours() { allocate "$1" "$2" --method block-codebook --true-bits 3 --value-bits 3 "${@:3}"; }
expect "our own methods keep what the profile says" 0 of_ours s-p own --json
equal "  in the plan" 2 "$(sinks own)"
check "  and in bytes at a context" holds 'a == 126 * b + 2 * 2048' "$(number bytes_at_context stdout)" \
    "$(number bytes_per_token stdout)"
check "  with no warning" lacks warning "$scratch/stderr"
expect "published methods keep none" 0 allocate s-p published --method block-gtq --avg-bits 2
allocate s-0 published-0 --method block-gtq --avg-bits 2 >/dev/null
check "  and are the same bytes as without sinks" cmp "$scratch/published.json" "$scratch/published-0.json"
expect "unless they are asked to" 0 allocate s-p asked --method block-gtq --avg-bits 2 --sink 2 --recent 16
stdout_has "the first 2 and the last 16 tokens fp16"
equal "  which the plan says" 2 "$(sinks asked)"
of_ours s-p of-0 --sink 0 >/dev/null
of_ours s-0 zero >/dev/null
check "sink 0 gives the plan of a profile without sinks" cmp "$scratch/of-0.json" "$scratch/zero.json"
expect "another number is warned of" 0 of_ours s-p other --sink 3
stderr_has "--sink is 3, and the profile's statistics are of all tokens but the first 2"
expect "and one over a profile of all tokens" 0 of_ours s-0 other --sink 1
stderr_has "--sink is 1, and the profile's statistics are of all tokens"
expect "memory holds the fp16 tokens too" 0 \
    allocate s-p memory --method optimal --memory 64KiB --context 128 --recent 6 --json
check "  all of it, and hardly less" holds 'a <= 65536 && a > 60000' "$(number bytes_at_context stdout)"
expect "memory that they fill is refused" 1 allocate s-p filled --method optimal --memory 8KiB --context 128 --recent 6
stderr_has "8 of 128 tokens stay fp16, which takes 16384 bytes of 8192: nothing is left for the others"
expect "a sweep keeps them" 0 allocate s-p sweep --sweep 2:3:1 --method block-codebook
check "  and says so" grep -q '"sink": 2' "$scratch/sweep.json"
expect "validate leaves them out" 0 "$bin/ropebits-validate" --device cpu --types f32 --no-timing "$scratch/own.json" \
    "$scratch/s.h5"
stdout_has "without the first 2 of the tokens of every sequence"
expect "  or not, if asked" 0 "$bin/ropebits-validate" --device cpu --types f32 --no-timing --sink 0 --json \
    "$scratch/own.json" "$scratch/s.h5"
stderr_has "--sink 0 instead of the plan's 2"
stdout_has '"sink": 0'
expect "export takes them" 0 "$bin/ropebits-export" "$scratch/asked.json" --format rbp,header,safetensors,report \
    -o "$scratch/asked"
check "  to the header" grep -q '#define ROPEBITS_RECENT 16' "$scratch/asked/asked.h"
check "  to the report" grep -q 'the first 2 and the last 16 tokens fp16' "$scratch/asked/asked.html"
check "  to the tensors" grep -aq 'sink.*: *2,' "$scratch/asked/asked.safetensors"
expect "  and the way back" 0 "$bin/ropebits-inspect" --json "$scratch/asked/asked.rbp"
check "  is the same plan" cmp "$scratch/stdout" "$scratch/asked.json"
expect "inspect shows them" 0 "$bin/ropebits-inspect" "$scratch/asked/asked.rbp"
stdout_has "the first 2 and the last 16 tokens fp16"
expect "diff too" 0 "$bin/ropebits-diff" "$scratch/published.json" "$scratch/asked.json"
stdout_has "first tokens in fp16"
"$bin/ropebits-export" "$scratch/published.json" --format header -o "$scratch/published" >/dev/null
check "a plan without them has no such constant" lacks ROPEBITS_SINK "$scratch/published/published.h"

# ---- a width of the values for every head ----
expect "values a width a head without their errors are refused" 1 \
    allocate p none --method uniform --avg-bits 3 --value-per head
stderr_has "its capture has no values (calibrate --values)"
check "  and no plan is left behind" test ! -e "$scratch/none.json"
expect "half bits for one width are a usage error" 2 allocate p none --method uniform --avg-bits 3 --value-bits 2.5
stderr_has "--value-bits is 2.5, expected a whole number without --value-per head"
expect "fp16 by head is a usage error" 2 \
    allocate p none --method uniform --avg-bits 3 --value-bits 16 --value-per head
stderr_has "--value-bits is 16 with --value-per head, expected 1 to 8"
calibrate v --values --n-tokens 512 --context 256
expect "a profile of a capture with values" 0 profile v -v --no-curves --budgets 3 -o "$scratch/v-p.h5"
stderr_has "output errors of values took"
expect "by one thread" 0 profile v -q --threads 1 --no-curves --budgets 3 -o "$scratch/v-1.h5"
check "  is the same bytes" cmp "$scratch/v-p.h5" "$scratch/v-1.h5"

expect "values of 1 bit that a profile knows" 0 allocate v-p one --method optimal --true-bits 1.9
check "  are warned of by what they do" grep -qE \
    "values have 1 bit: the outputs of attention are expected to be off by [0-9]+ %, and by [0-9]+ % with 2" \
    "$scratch/stderr"
by_head() { allocate v-p "$1" --value-per head "${@:2}"; }      # PLAN OPTION...
expect "values a width a head" 0 \
    by_head head --method optimal --true-bits 2.25 --value-bits 2 --least-value-bits 1 --json
check "  take no more than one width" holds 'a > 2 && a <= 2.25' "$(number value_true_bits stdout)"
check "  are expected to err less" holds 'a > 0 && a < b' \
    "$(number value_output_error stdout)" "$(number one_value_width_output_error stdout)"
check "  stand in the plan" grep -q '"widths": ' "$scratch/head.json"
expect "at the least width all have it" 0 by_head least --method uniform --avg-bits 2 --value-bits 2
allocate v-p one-width --method uniform --avg-bits 2 --value-bits 2 >/dev/null
check "  and the plan is that of one width" cmp "$scratch/least.json" "$scratch/one-width.json"
expect "at half bits" 0 by_head half --method block-gtq --avg-bits 2 --value-bits 2.5
stdout_has "true bits a dim, widths "
stdout_has "with 2 bits for all (2.250 true)"
expect "within a cache of 224 bytes a token" 0 by_head cache --method optimal --bytes-per-token 224 --json
check "  takes what it may" holds 'a <= 224 && a > 220' "$(number bytes_per_token stdout)"

expect "explain says what a head's values do" 0 \
    "$bin/ropebits-explain" "$scratch/head.json" --profile "$scratch/v-p.h5" --layer 1 --kv-head 0
stdout_has "of the layer's output energy"
expect "export takes the plan" 0 \
    "$bin/ropebits-export" "$scratch/head.json" --format rbp,header,safetensors,report -o "$scratch/head"
expect "  and the way back" 0 "$bin/ropebits-inspect" --json "$scratch/head/head.rbp"
check "  is the same plan" cmp "$scratch/stdout" "$scratch/head.json"
check "  the header has its widths" grep -q 'ropebits_v_width\[ROPEBITS_N_LAYERS\]' "$scratch/head/head.h"
expect "inspect shows them" 0 "$bin/ropebits-inspect" "$scratch/head/head.rbp"
stdout_has ", values at "
expect "validate takes each head's own" 0 "$bin/ropebits-validate" --device cpu --types f32 --no-timing --n-tokens 64 \
    "$scratch/head/head.rbp" "$scratch/v.h5"
stdout_has "values"
expect "evaluate too" 0 "$bin/ropebits-evaluate" -q --device cpu --model configs/demo-llama \
    --plan "$scratch/head.json" --text configs/demo-text/heldout.txt --n-tokens 64 --values-only \
    -o "$scratch/head-eval.json"

# ---- block-codebook ----
block_codebook() { allocate both-p block-codebook --method block-codebook "$@"; }
expect "block-codebook at a budget" 0 block_codebook --true-bits 2.5 --value-bits 2 --gain-bits 4
stdout_has "method   block-codebook"
check "  every head is of that family, with that gain" \
    test "$(grep -c '"gain_bits": 4' "$scratch/block-codebook.json")" -eq 8
expect "it has no groups" 2 block_codebook --true-bits 2.5 --norm fp16
stderr_has "block-codebook has no groups"
expect "and nothing to rotate" 2 block_codebook --true-bits 2.5 --rotation hadamard
expect "optimal has no gain" 2 allocate both-p block-codebook --method optimal --true-bits 2.5 --gain-bits 2
stderr_has "optimal has no gain"
expect "a budget that holds no code is refused" 1 block_codebook --bytes-per-token 1 --value-bits 16

# ---- sweep ----
sweep() { allocate both-p sweep --sweep "$@"; }     # sweep FROM:TO:STEP OPTION...
expect "a sweep with another budget is a usage error" 2 sweep 2:4:1 --avg-bits 3
expect "a range that is none is a usage error" 2 sweep 2:4
stderr_has "expected from:to:step"
expect "and a step of 0" 2 sweep 2:4:0
expect "a sweep over all methods" 0 sweep 2:4:0.5 --threads 2
stdout_has "optimal-center"
check "  has five points of four methods, two of uniform" \
    test "$(grep -c '"asked_true_bits"' "$scratch/sweep.json")" -eq 22
check "  names its schema" grep -q '"schema": "ropebits-sweep"' "$scratch/sweep.json"

# are_ordered SWEEP: at every budget, the error of each method is below that of the one it improves on.
are_ordered() {
    awk '
        function below(method, other) { return mae[method, b] > 0 && mae[method, b] < mae[other, b] }
        { gsub(/[",]/, "") }
        $1 == "method:" { method = $2 }
        $1 == "asked_true_bits:" { at = $2 }
        $1 == "logit_mae:" { mae[method, at] = $2; n++ }
        END {
            for (b = 2; b <= 4; b += 0.5)
                if (!below("optimal", "block-gtq") || !below("optimal-center", "optimal") ||
                    !below("block-codebook", "optimal"))
                    exit 1
            exit n != 22
        }' "$1"
}
check "  optimal is below block-gtq at every budget, its centred form below that, as is block-codebook" \
    are_ordered "$scratch/sweep.json"
allocate both-p one --method block-gtq --true-bits 3 --json | grep -o '"logit_mae": .*' >"$scratch/one.mae"
check "  a plan at one of them is expected to err as much" grep -qFf "$scratch/one.mae" "$scratch/sweep.json"
check "  the picture has a line of each and of the bound" test "$(grep -c '<polyline' "$scratch/sweep.svg")" -eq 6
cp "$scratch/sweep.json" "$scratch/first.json"
cp "$scratch/sweep.svg" "$scratch/first.svg"
expect "the same by one thread" 0 sweep 2:4:0.5 --threads 1
same_sweep() { cmp "$scratch/first.json" "$scratch/sweep.json" && cmp "$scratch/first.svg" "$scratch/sweep.svg"; }
check "  is the same bytes" same_sweep
expect "of one method" 0 sweep 2:4:1 --method optimal --center --json
check "  there is nothing else" test "$(grep -c '"method"' "$scratch/sweep.json")" -eq 1
expect "a range without a plan is refused" 1 allocate both-p none --sweep 2:2.1:1 --method uniform
stderr_has "no plan stores"

finish
