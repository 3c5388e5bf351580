# explain and diff: what they say of plans, in either form, and what they refuse.
. tests/programs/tap.sh

explain=$bin/ropebits-explain diff=$bin/ropebits-diff
"$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/calibration.txt --n-tokens 512 --context 128 -o "$scratch/capture.h5" >/dev/null
"$bin/ropebits-profile" -q --no-curves "$scratch/capture.h5" --budgets 3 -o "$scratch/p.h5" >/dev/null
"$bin/ropebits-allocate" "$scratch/p.h5" --method block-gtq --avg-bits 3 --json -o "$scratch/gtq.json" >"$scratch/gtq.out"
"$bin/ropebits-allocate" "$scratch/p.h5" --method optimal --center --avg-bits 3 -o "$scratch/center.json" >/dev/null
"$bin/ropebits-allocate" "$scratch/p.h5" --method optimal --true-bits 1.5 --widths 0,2,4 -o "$scratch/lost.json" >/dev/null
"$bin/ropebits-export" "$scratch/gtq.json" --format rbp -o "$scratch/out" >/dev/null

# ---- explain ----
expect "no head is a usage error" 2 "$explain" "$scratch/gtq.json" --profile "$scratch/p.h5"
stderr_has "expected both"
expect "no profile is a usage error" 2 "$explain" "$scratch/gtq.json" --layer 0 --kv-head 0
expect "a head beyond the plan is refused" 1 "$explain" "$scratch/gtq.json" --profile "$scratch/p.h5" --layer 3 --kv-head 2
stderr_has "expected less than the plan's 2 KV heads"
expect "a profile that is none is refused" 1 "$explain" "$scratch/gtq.json" --profile "$scratch/capture.h5" --layer 3 --kv-head 1
stderr_has "ropebits-capture"
expect "a head of block-gtq" 0 "$explain" "$scratch/gtq.json" --profile "$scratch/p.h5" --layer 3 --kv-head 1
stdout_has "bits a dim above the rate-distortion bound"
stdout_has "a bit more would take off"
check "  every block has a row" test "$(grep -cE '^[0-9]+ +[0-9]+ +[0-9]+ +[0-9.]+ +[0-9.]+ +1.000 +0.0 ' "$scratch/stdout")" -eq 32
check "  whose errors are the head's" awk '/^block/ { on = 1; next } on && NF == 8 { sum += $8; n++ } END { exit !(n == 32 && sum > 99.9 && sum < 100.1) }' "$scratch/stdout"
cp "$scratch/stdout" "$scratch/json.txt"
if "$bin/ropebits-inspect" "$scratch/out/gtq.rbp" >/dev/null 2>&1; then
    expect "the same from plan.rbp" 0 "$explain" "$scratch/out/gtq.rbp" --profile "$scratch/p.h5" --layer 3 --kv-head 1
    check "  says the same" cmp "$scratch/stdout" "$scratch/json.txt"
    same=$scratch/out/gtq.rbp
else
    skip_case "the same from plan.rbp" "inspect does not read it: export.sh fails"
    same=$scratch/gtq.json
fi
expect "a head that centres and scales" 0 "$explain" "$scratch/center.json" --profile "$scratch/p.h5" --layer 1 --kv-head 0
check "  has shares of the centre" awk '/^block/ { on = 1; next } on && NF == 8 && $7 > 5 { n++ } END { exit !(n > 3) }' "$scratch/stdout"
expect "blocks without bits" 0 "$explain" "$scratch/lost.json" --profile "$scratch/p.h5" --layer 0 --kv-head 0 --json
check "  are a group of width 0" grep -q '"width": 0' "$scratch/stdout"
check "  a first bit would pay" awk '/"one_bit_more"/ { on = 1 } on && /"variance"/ { exit !($2 + 0 > 0) }' "$scratch/stdout"
mean=0
for layer in 0 1 2 3; do
    for head in 0 1; do
        mae=$("$explain" "$scratch/gtq.json" --profile "$scratch/p.h5" --layer $layer --kv-head $head --json | sed -n 's/^ *"logit_mae": \(.*\),$/\1/p')
        mean=$(awk -v a="$mean" -v b="$mae" 'BEGIN { printf "%.17g", a + b / 8 }')
    done
done
check "the heads' errors are what allocate expects of the plan" awk -v a="$mean" -v b="$(sed -n 's/^ *"logit_mae": \(.*\),$/\1/p' "$scratch/gtq.out")" \
    'BEGIN { exit !(a > 0 && a / b > 1 - 1e-9 && a / b < 1 + 1e-9) }'

# ---- diff ----
expect "one plan is a usage error" 2 "$diff" "$scratch/gtq.json"
expect "a plan and itself" 0 "$diff" "$scratch/gtq.json" "$same"
stdout_has "0 of 8 heads differ"
check "  no block changed" test "$(grep -c ' 0 of 64$' "$scratch/stdout")" -eq 4
expect "two plans are no failure" 0 "$diff" "$scratch/gtq.json" "$scratch/center.json"
stdout_has "8 of 8 heads differ: 8 in their norms, 8 in their encoder, 8 in their scales, 8 in their centre"
stdout_has "largest changes of widths"
expect "as JSON" 0 "$diff" "$scratch/gtq.json" "$scratch/center.json" --json
stdout_has '"schema": "ropebits-diff-result"'
check "  the other way round has as many changes" sh -c '"$0" "$2" "$1" --json | grep blocks_changed | sort >"$3/back"; grep blocks_changed "$3/stdout" | sort | cmp - "$3/back"' \
    "$diff" "$scratch/gtq.json" "$scratch/center.json" "$scratch"
sed 's/"attention_scale": .*/"attention_scale": 0.5,/' "$scratch/gtq.json" >"$scratch/other.json"
expect "plans of two models are refused" 1 "$diff" "$scratch/gtq.json" "$scratch/other.json"
stderr_has "attention_scale"
expect "a text is no plan" 1 "$diff" "$scratch/gtq.json" configs/demo-text/heldout.txt

finish
