# explain and diff: what they say of plans, in either form, and what they refuse.
. tests/programs/tap.sh

# Every plan is a name in the scratch folder.
allocate() {    # allocate PLAN METHOD OPTION...
    "$bin/ropebits-allocate" "$scratch/p.h5" --method "${@:2}" -o "$scratch/$1.json"
}
explain() { "$bin/ropebits-explain" "$scratch/$1" --profile "$scratch/p.h5" "${@:2}"; }     # FILE OPTION...
diff_from() { "$bin/ropebits-diff" "$scratch/$1.json" "${@:2}"; }                           # PLAN FILE OPTION...
logit_mae() { sed -n 's/^ *"logit_mae": \(.*\),$/\1/p' "$@"; }

"$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/calibration.txt \
    --n-tokens 512 --context 128 -o "$scratch/capture.h5" >/dev/null
"$bin/ropebits-profile" -q --no-curves "$scratch/capture.h5" --budgets 3 -o "$scratch/p.h5" >/dev/null
allocate gtq block-gtq --avg-bits 3 --json >"$scratch/gtq.out"
allocate center optimal --center --avg-bits 3 >/dev/null
allocate lost optimal --true-bits 1.5 --widths 0,2,4 >/dev/null
"$bin/ropebits-export" "$scratch/gtq.json" --format rbp -o "$scratch/out" >/dev/null

# ---- explain ----
expect "no head is a usage error" 2 explain gtq.json
stderr_has "expected both"
expect "no profile is a usage error" 2 "$bin/ropebits-explain" "$scratch/gtq.json" --layer 0 --kv-head 0
expect "a head beyond the plan is refused" 1 explain gtq.json --layer 3 --kv-head 2
stderr_has "expected less than the plan's 2 KV heads"
expect "a profile that is none is refused" 1 \
    "$bin/ropebits-explain" "$scratch/gtq.json" --profile "$scratch/capture.h5" --layer 3 --kv-head 1
stderr_has "ropebits-capture"
expect "a head of block-gtq" 0 explain gtq.json --layer 3 --kv-head 1
stdout_has "bits a dim above the rate-distortion bound"
stdout_has "a bit more would take off"
block_rows() { grep -cE '^[0-9]+ +[0-9]+ +[0-9]+ +[0-9.]+ +[0-9.]+ +1.000 +0.0 ' "$1"; }
check "  every block has a row" test "$(block_rows "$scratch/stdout")" -eq 32
shares_make_100() {
    awk '/^block/ { on = 1; next }
        on && NF == 8 { sum += $8; n++ }
        END { exit !(n == 32 && sum > 99.9 && sum < 100.1) }' "$1"
}
check "  whose errors are the head's" shares_make_100 "$scratch/stdout"
cp "$scratch/stdout" "$scratch/json.txt"
if "$bin/ropebits-inspect" "$scratch/out/gtq.rbp" >/dev/null 2>&1; then
    expect "the same from plan.rbp" 0 explain out/gtq.rbp --layer 3 --kv-head 1
    check "  says the same" cmp "$scratch/stdout" "$scratch/json.txt"
    same=$scratch/out/gtq.rbp
else
    skip_case "the same from plan.rbp" "inspect does not read it: export.sh fails"
    same=$scratch/gtq.json
fi
expect "a head that centres and scales" 0 explain center.json --layer 1 --kv-head 0
has_centre_shares() { awk '/^block/ { on = 1; next } on && NF == 8 && $7 > 5 { n++ } END { exit !(n > 3) }' "$1"; }
check "  has shares of the centre" has_centre_shares "$scratch/stdout"
expect "blocks without bits" 0 explain lost.json --layer 0 --kv-head 0 --json
check "  are a group of width 0" grep -q '"width": 0' "$scratch/stdout"
first_bit_pays() {
    awk '/"one_bit_more"/ { on = 1 }
        on && /"variance"/ { pays = $2 + 0 > 0; exit }
        END { exit !pays }' "$1"
}
check "  a first bit would pay" first_bit_pays "$scratch/stdout"
heads_mae() {
    local layer head
    for layer in 0 1 2 3; do
        for head in 0 1; do explain gtq.json --layer $layer --kv-head $head --json | logit_mae; done
    done
}
mean=$(heads_mae | awk '{ sum += $1 / 8; n++ } END { if (n == 8) printf "%.17g", sum }')
check "the heads' errors are what allocate expects of the plan" \
    holds 'a > 0 && a / b > 1 - 1e-9 && a / b < 1 + 1e-9' "$mean" "$(logit_mae "$scratch/gtq.out")"

# ---- diff ----
expect "one plan is a usage error" 2 diff_from gtq
expect "a plan and itself" 0 diff_from gtq "$same"
stdout_has "the plans are equal: their 8 heads, their values and their exact tokens"
check "  and that is all" test "$(wc -l <"$scratch/stdout")" = 1
sed 's/"method": "block-gtq"/"method": "mine"/' "$scratch/gtq.json" >"$scratch/renamed.json"
expect "  another name is told" 0 diff_from gtq "$scratch/renamed.json"
stdout_has "A is called block-gtq at"
sed -e 's/"version": *[0-9]*/"version": 5/' -e 's/"method"/"sink": 4, "recent": 0, "method"/' "$scratch/gtq.json" \
    >"$scratch/sink4.json"
expect "exact tokens are a difference" 0 diff_from gtq "$scratch/sink4.json"
stdout_has "0 of 8 heads differ"
stdout_has "first tokens in fp16"
diff_from gtq "$same" --json >"$scratch/equal-json"
check "JSON says so too" grep -q '"are_equal": true' "$scratch/equal-json"
check "  no block changed" test "$(grep -c ' 0 of 64$' "$scratch/stdout")" -eq 4
expect "two plans are no failure" 0 diff_from gtq "$scratch/center.json"
stdout_has "8 of 8 heads differ: 8 in their norms, 8 in their encoder, 8 in their scales, 8 in their centre"
stdout_has "largest changes of widths"
expect "as JSON" 0 diff_from gtq "$scratch/center.json" --json
stdout_has '"schema": "ropebits-diff-result"'
blocks_changed() { grep blocks_changed "$1" | sort; }
diff_from center "$scratch/gtq.json" --json >"$scratch/back.json"
equal "  the other way round has as many changes" \
    "$(blocks_changed "$scratch/stdout")" "$(blocks_changed "$scratch/back.json")"
sed 's/"attention_scale": .*/"attention_scale": 0.5,/' "$scratch/gtq.json" >"$scratch/other.json"
expect "plans of two models are refused" 1 diff_from gtq "$scratch/other.json"
stderr_has "attention_scale"
expect "a text is no plan" 1 diff_from gtq configs/demo-text/heldout.txt

finish
