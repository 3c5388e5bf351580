# Method trellis on the demo model, from a capture with values to an evaluation: one budget for keys and values, values
# by themselves beside other keys, and what is refused.
. tests/programs/tap.sh

model=configs/demo-llama text=configs/demo-text/heldout.txt
json() { python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"; }
# is TEXT EXPRESSION: what the expression says of the JSON document d in $scratch/stdout.
is() { check "  $2 is $1" [ "$(json "$scratch/stdout" "$2")" = "$1" ]; }

expect "a capture with values" 0 "$bin/ropebits-calibrate" --model $model --text configs/demo-text/calibration.txt \
    --n-tokens 1024 --n-test-tokens 512 --context 256 --values -q -o "$scratch/capture.h5"
expect "its profile" 0 "$bin/ropebits-profile" "$scratch/capture.h5" --budgets 2 --methods block-gtq --no-curves -q \
    -o "$scratch/profile.h5"
expect "a profile without it" 0 "$bin/ropebits-profile" "$scratch/capture.h5" --budgets 2 --methods block-gtq \
    --no-curves --metric-tokens 0 -q -o "$scratch/bare.h5"
allocate() { "$bin/ropebits-allocate" "$scratch/profile.h5" "$@"; }

# ---- one budget ----
expect "one budget for keys and values" 0 allocate --method trellis --total-bits 4.5 --json -o "$scratch/both.json"
stderr_has "the sensitivity of the outputs was measured on 1024 tokens, and trellis wants 4096 or more"
is True "d['bytes_per_token'] <= 4.5 * 4 * 2 * 64 / 8 and d['bytes_per_token'] > 4.5 * 4 * 2 * 64 / 8 - 8"
is True "d['method'] == 'trellis'"
expect "of heads of one size a layer" 0 allocate --method trellis --total-bits 4.5 --equal-heads -q \
    -o "$scratch/equal.json"
check "  they are" python3 - "$scratch/equal.json" <<'CODE'
import json, sys
plan = json.load(open(sys.argv[1]))
for layer, values in zip(plan["layers"], plan["value_heads"]):
    heads = layer["kv_heads"] if isinstance(layer, dict) else layer
    for row in (heads, values["kv_heads"] if isinstance(values, dict) else values):
        assert len({head["true_bits"] for head in row}) == 1, row
CODE
expect "a fixed number of bytes" 0 allocate --method trellis --bytes-per-token 250 --json -o "$scratch/bytes.json"
is True "242 < d['bytes_per_token'] <= 250"
expect "keys and values each with theirs" 0 allocate --method trellis --true-bits 2 --value-bits 3.5 --json \
    -o "$scratch/each.json"
is True "1.9 < d['key_true_bits'] <= 2 and 3.4 < d['value_true_bits'] <= 3.5"
expect "values of trellis beside keys of block-codebook" 0 allocate --method block-codebook --true-bits 2.25 \
    --value-codec trellis --value-bits 2.25 --json -o "$scratch/mixed.json"
is True "2.2 < d['value_true_bits'] <= 2.25"
expect "values that stay fp16" 0 allocate --method trellis --true-bits 2 --value-bits 16 --json -o "$scratch/keys.json"
is True "d['value_true_bits'] == 16"
expect "values as published" 0 allocate --method trellis --true-bits 2 --value-codec published --value-bits 2 --json \
    -o "$scratch/published.json"
is True "d['value_true_bits'] == 2.25"
allocate --method trellis --total-bits 4.5 -q -o "$scratch/again.json" 2>/dev/null >&2
check "same profile, same bytes" cmp "$scratch/both.json" "$scratch/again.json"

# ---- every form and program takes it ----
expect "every format is written" 0 "$bin/ropebits-export" "$scratch/both.json" --format rbp,header,safetensors,report \
    -o "$scratch/out"
expect "inspect shows it" 0 "$bin/ropebits-inspect" "$scratch/out/both.rbp"
stdout_has "trellis"
expect "explain tells of coordinates" 0 "$bin/ropebits-explain" "$scratch/both.json" --profile "$scratch/profile.h5" \
    --layer 1 --kv-head 0
stdout_has "coordinate"
expect "diff finds no difference between the forms" 0 "$bin/ropebits-diff" "$scratch/both.json" "$scratch/out/both.rbp"
expect "profile scores it" 0 "$bin/ropebits-profile" "$scratch/capture.h5" --plan "$scratch/both.json"
expect "the sweep has it" 0 "$bin/ropebits-allocate" "$scratch/profile.h5" --sweep 2:3:1 --method trellis \
    -o "$scratch/sweep.json"

# ---- it is better than what is published, at equal bytes ----
expect "a plan as published" 0 allocate --method uniform --avg-bits 2 --value-bits 2 -q -o "$scratch/uniform.json"
expect "the model with both" 0 "$bin/ropebits-evaluate" --model $model --plan "$scratch/uniform.json" \
    --plan "$scratch/both.json" --text $text --n-tokens 1024 --context 256 --sink 0 --json -q
is True "d['runs'][2]['kl_mean'] < 0.5 * d['runs'][1]['kl_mean']"
is True "d['runs'][2]['key_true_bits'] + d['runs'][2]['value_true_bits'] <= 4.5"

# ---- refusals ----
refuses() { # NAME CODE TEXT ARGUMENTS...
    local name=$1 code=$2 text=$3
    shift 3
    expect "$name" "$code" "$bin/ropebits-allocate" "$@" -o "$scratch/none.json"
    stderr_has "$text"
    stderr_lines "$code" # a wrong usage also names the help
    check "  and writes nothing" [ ! -e "$scratch/none.json" ]
}
refuses "a profile without the sensitivity" 1 "method trellis needs the sensitivity of the outputs" \
    "$scratch/bare.h5" --method trellis --total-bits 4
refuses "a budget below what it stores" 1 "expected at least the" "$scratch/profile.h5" --method trellis \
    --bytes-per-token 20 -q
refuses "a shared budget of other methods" 2 "a budget for keys and values is shared by method trellis only" \
    "$scratch/profile.h5" --method block-codebook --total-bits 4 --value-codec trellis
refuses "equal heads of other methods" 2 "--equal-heads is of trellis" "$scratch/profile.h5" --method optimal \
    --true-bits 3 --equal-heads
refuses "widths a head of trellis" 2 "--value-per head is for widths of published values" "$scratch/profile.h5" \
    --method trellis --true-bits 3 --value-bits 3 --value-per head
refuses "two budgets" 2 "2 budgets are given" "$scratch/profile.h5" --method trellis --true-bits 3 --total-bits 3
finish
